"""`sluicegate replay` at the command line: wrong use, and how plans and outcomes are told."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from consumers.replay.audit import Started
from consumers.replay.candidates import LeftOut, Send
from consumers.replay.estimate import Estimate, estimate
from consumers.replay.filters import Filters
from consumers.replay.plan import Command, Entry, Plan, Snapshot
from consumers.replay.replay import Planned
from sluicegate.cli.main import build_app, run
from sluicegate.cli.replay_view import as_json, show_outcome, show_plan
from sluicegate.llm.prices import Price
from sluicegate.records import Origin
from sluicegate.retry.headers import ReplaySource
from sluicegate.settings import load_settings
from sluicegate.settings.model import LimitSettings
from sluicegate.state.api import Copy

NOW_MS = 1_800_000_000_000
OWN = load_settings(None, {}).streams["documents"]  # chunks of 1000 tokens, answers of 512


def entry(number: int, decision: Send | LeftOut, reason: str = "server-error") -> tuple[Origin, Entry]:
    """Return one line of a plan."""
    place = Origin(topic="dlq", partition=0, offset=number)
    return place, Entry(at_ms=NOW_MS, decision=decision, reason=reason, value_bytes=400)


SEND = Send(copy=Copy(id="1-x", replaces="input"))
COMMAND = Command(
    source=ReplaySource.DLQ, stream="documents", filters=Filters(since="2h", reasons=("cancelled",), limit=3)
)
SNAPSHOT = Snapshot(at_ms=NOW_MS, bounds={})
PLAN = Plan(
    replay_id="0123456789abcdef",
    command=COMMAND,
    snapshot=SNAPSHOT,
    entries=dict(
        [
            entry(0, SEND),
            entry(1, SEND),
            entry(2, SEND, "handler-error"),
            entry(3, LeftOut.ANSWERED),
            entry(4, LeftOut.CUT_SHORT),
        ]
    ),
    beyond_limit=7,
)
NEED = Estimate(events=3, calls=5, input_tokens=300, output_tokens=2560, dollars=0.125, at_quota_s=90.0)


def shown(planned: Planned, need: Estimate = NEED) -> str:
    """Return what people see of a plan."""
    console = Console(file=io.StringIO(), width=160)
    show_plan(console, planned, need, 2.0)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_shows_what_goes_what_stays_and_what_it_takes() -> None:
    """Count by reason, tokens, money, time, and a sentence for every reason to leave something out."""
    text = shown(Planned(plan=PLAN, resumes=None))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "replay 0123456789abcdef: dlq of documents, since 2h, reasons cancelled, limit 3"
    assert {"server-error 2", "handler-error 1", "in all 3", "7 more are beyond --limit"} <= set(lines)
    assert "about 5 calls, 300 input and 2560 output tokens, 0.12 dollars" in text
    assert "1 min 30 s at the quota, 2 s to send at 2/s" in text
    assert "answered 1 its event has a result by now" in lines
    assert any(line.startswith("cut-short 1 ") for line in lines)


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    """A model without a price and a provider without limits make no zero."""
    text = shown(Planned(plan=PLAN, resumes=None), replace(NEED, dollars=None, at_quota_s=None))
    assert "cost unknown" in text
    assert "no quota known" in text


def test_a_plan_that_goes_on_says_since_when_and_how_many_were_sent() -> None:
    """The operator must see that this is not a new replay."""
    resumes = Started(
        replay_id=PLAN.replay_id,
        command=COMMAND,
        snapshot=SNAPSHOT,
        who="a@b",
        at_ms=NOW_MS,
        is_resumed=False,
        rate_per_s=1.0,
        by_reason={},
    )
    plan = replace(PLAN, done_before=Counter(sent=41, answered=2))
    assert "began at 2027-01-15 08:00:00 UTC: 41 were sent" in shown(Planned(plan=plan, resumes=resumes))


def test_json_has_the_plan_and_after_a_run_what_came_of_it() -> None:
    """One object either way, with the same keys."""
    planned = Planned(plan=PLAN, resumes=None)
    before = as_json(planned, NEED, 2.0, None)
    after = as_json(planned, NEED, 2.0, {"sent": 3, "answered": 1, "cut-short": 1})
    assert before["by_reason"] == {"handler-error": 1, "server-error": 2}
    assert before["left_out"] == {"answered": 1, "cut-short": 1}
    assert before["filters"] == {"since": "2h", "reasons": ["cancelled"], "limit": 3}
    assert before["estimate"]["seconds_at_quota"] == 90.0
    assert "outcome" not in before
    assert after.pop("outcome") == {"sent": 3, "left_out": {"answered": 1, "cut-short": 1}}
    assert after == before


def test_an_outcome_counts_what_was_sent_and_what_was_not() -> None:
    """Interrupted runs of the same replay included."""
    console = Console(file=io.StringIO(), width=160)
    show_outcome(console, Planned(plan=PLAN, resumes=None), {"sent": 3, "too-large": 1})
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[0] == "replay 0123456789abcdef: 3 sent"
    assert "too-large 1 `due` does not take a record of its size" in lines


def test_an_estimate_counts_chunks_tokens_money_and_the_dimension_that_binds() -> None:
    """Four bytes a token; one call, or one a chunk and one that joins; answers as long as they may be."""
    price = Price(input_dollars_per_million=1.0, output_dollars_per_million=2.0)
    limits = LimitSettings(requests_per_minute=60, tokens_per_minute=60_000)
    found = estimate([400, 10_000], OWN, price, limits)
    assert (found.events, found.calls) == (2, 1 + 4)
    assert (found.input_tokens, found.output_tokens) == (100 + 2500, 5 * 512)
    assert found.dollars == pytest.approx((2600 + 2 * 2560) / 1_000_000)
    assert found.at_quota_s == pytest.approx(5160 / 1000)
    assert found.rate_per_s() == pytest.approx(0.5 * 2 / 5.16)
    assert estimate([400], OWN, None, None).at_quota_s is None
    assert estimate([], OWN, price, limits).rate_per_s() > 0


@pytest.mark.parametrize(
    "options",
    [
        ["replay", "all", "documents"],
        ["replay", "dlq"],
        ["replay", "dlq", "documents", "--since", "yesterday"],
        ["replay", "dlq", "documents", "--attempts", "many"],
        ["replay", "dlq", "documents", "--limit", "0"],
        ["replay", "dlq", "documents", "--rate", "0"],
        ["replay", "dlq", "documents", "--status", "teapot"],
    ],
)
def test_wrong_use_exits_with_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before any broker is asked."""
    with pytest.raises(SystemExit) as exit_info:
        run(build_app(), options)
    assert exit_info.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("other", [["--new"], ["--reason", "cancelled"], ["--limit", "5"]])
def test_a_named_replay_takes_no_filters(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It goes by the ones that it was started with."""
    assert run(build_app(), ["replay", "dlq", "documents", "--id", "0123", *other]) == 2
    assert "--id" in capsys.readouterr().err
