"""The demo's pure parts: its input, its settings, what it shows and how it ends."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from consumers.inspection.backlog import StreamBacklog, TierBacklog
from sluicegate.cli.demo.command import demo, ledger_table
from sluicegate.cli.demo.crew import running_in
from sluicegate.cli.demo.inputs import demo_input, mixed, record_of_event
from sluicegate.cli.demo.plan import CHAT, DOCUMENTS, NOWHERE, DemoNames, DemoOptions, write_settings
from sluicegate.cli.demo.view import Scene, View, plain_line, quota_line
from sluicegate.events.models import Document, SupportChat
from sluicegate.local.ledger import Ledger
from sluicegate.local.samples import bundled_chats
from sluicegate.topics import topic_table
from tests.unit.ledger_histories import Story

OPTIONS = DemoOptions(
    chats=None,
    documents=None,
    limit=100,
    requests_per_minute=420,
    tokens_per_minute=400_000,
    workers=2,
    kill_worker=False,
    kafka=None,
    redis=None,
    provider=None,
    naive=False,
    cut=True,
    seed=1,
    plain=True,
    json=None,
)


def document(number: int) -> Document:
    """Make a document."""
    return Document(document_id=f"d{number}", title="t", media_type="text/plain", text="x")


def test_a_tenth_of_the_events_are_documents_and_the_rest_the_first_chats() -> None:
    """`--limit` is the number of events in all."""
    events = demo_input(OPTIONS).events

    chats = [event for event in events if isinstance(event, SupportChat)]
    assert (len(events), len(events) - len(chats)) == (100, 10)
    assert {(chat.conversation_id, chat.turn) for chat in chats} == {
        (chat.conversation_id, chat.turn) for chat in bundled_chats()[:90]
    }


def test_only_agents_get_no_answer() -> None:
    """The demo waits for as many results as there will be."""
    chats = bundled_chats()[:4]

    answers = replace(demo_input(OPTIONS), events=(*chats, document(0))).answers

    assert answers == sum(chat.speaker == "customer" for chat in chats) + 1


@pytest.mark.parametrize("seed", range(5))
def test_conversations_run_side_by_side_and_each_in_its_order(seed: int) -> None:
    """Every event is there once; documents are spread between them."""
    chats, documents = bundled_chats(), tuple(document(number) for number in range(20))

    events = mixed(chats, documents, random.Random(seed))

    turns: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if isinstance(event, SupportChat):
            turns[event.conversation_id].append(event.turn)
    assert all(each == list(range(len(each))) for each in turns.values())
    assert sorted(map(repr, events)) == sorted(map(repr, (*chats, *documents)))
    halves = [isinstance(event, Document) for event in events]
    assert sum(halves[: len(halves) // 2]) in range(8, 13)
    assert len({event.conversation_id for event in events[:40] if isinstance(event, SupportChat)}) > 5


def test_the_same_seed_gives_the_same_order() -> None:
    """So that a run can be made again."""
    assert demo_input(OPTIONS) == demo_input(OPTIONS)
    assert demo_input(OPTIONS) != demo_input(replace(OPTIONS, seed=2))


def test_events_are_published_as_another_service_would() -> None:
    """With an id of their own, keyed, in binary mode."""
    chat = bundled_chats()[1]

    record = record_of_event(chat, DemoNames(prefix="demo-x."), run="r1", time_ms=0)

    headers = dict(record.headers)
    assert (record.topic, record.key) == ("demo-x.support-chat", chat.conversation_id.encode())
    assert headers["ce_id"] == f"r1-{chat.conversation_id}-1".encode()
    assert orjson.loads(record.value or b"")["turn"] == 1


def test_on_somebody_elses_kafka_every_name_has_the_runs_own_prefix(tmp_path: Path) -> None:
    """Nothing of the run can meet what is there, and all of it can be found and deleted."""
    names = DemoNames(prefix="demo-ab12.")

    settings = write_settings(tmp_path / "a.toml", OPTIONS, names, NOWHERE, http_port=7)

    assert all(topic.name.startswith("demo-ab12.") for topic in topic_table(settings))
    assert settings.kafka.group.startswith("demo-ab12.")
    assert settings.streams[CHAT].provider == settings.streams[DOCUMENTS].provider == "demo-ab12"
    assert (settings.http.port, settings.limits["demo-ab12"].requests_per_minute) == (7, 420)


def test_the_embedded_run_has_the_names_of_the_documentation(tmp_path: Path) -> None:
    """Whoever looks on finds the topics of the README."""
    settings = write_settings(tmp_path / "a.toml", OPTIONS, DemoNames(prefix=""), NOWHERE)

    assert {"support-chat", "documents.results", "sluicegate.support-chat.retry.1"} <= {
        topic.name for topic in topic_table(settings)
    }


STATS: dict[str, Any] = {
    "levels": {
        "requests": {"available": 3.2, "capacity": 7.0},
        "tokens": {"available": 10.0, "capacity": 4096.0},
    },
    "counts": {"calls": 12, "by_status": {"200": 10, "429": 2}},
    "timeline": [{"cut": False}],
}


def scene(*, stats: dict[str, Any] | None = None, is_naive: bool = False) -> Scene:
    """Make a look at a run with three events parked, one of them in the second tier."""
    backlog = StreamBacklog(
        stream="documents",
        published=20,
        lag=5,
        running=4,
        tiers=(
            TierBacklog(tier=1, parked=2, next_due_at_ms=5_000, last_due_at_ms=6_000),
            TierBacklog(tier=2, parked=1, next_due_at_ms=None, last_due_at_ms=None),
        ),
        due=1,
        results=6,
        dead_letters=1,
    )
    return Scene(
        at_s=12.3,
        now_ms=2_000,
        backlogs=(backlog,),
        provider=stats,
        running={"documents": 9},
        is_naive=is_naive,
    )


def test_a_line_tells_each_stream_and_the_quota() -> None:
    """What was published, runs, is parked where and until when, is done; and the 429s."""
    line = plain_line(scene(stats=STATS))

    assert "documents: 20 published, 9 running" in line
    assert "3 (tier 1: 2, next in 3 s; tier 2: 1) parked, 11 done" in line
    assert "requests 3 of 7 free" in line
    assert "429s: 2" in line


def test_what_runs_is_read_from_the_workers_metrics() -> None:
    """By stream; other metrics and comments are passed over."""
    text = (
        "# TYPE sluicegate_events_running gauge\n"
        'sluicegate_events_running{stream="documents"} 12.0\n'
        'sluicegate_events_admitted{stream="documents"} 99.0\n'
    )

    assert running_in(text) == {"documents": 12}


def test_a_cut_is_shown_as_one() -> None:
    """A bucket's level means nothing while nothing is admitted."""
    assert "CUT" in quota_line(scene(stats={**STATS, "timeline": [{"cut": False}, {"cut": True}]}))


def test_the_recipe_is_done_with_what_it_published() -> None:
    """It commits only at its end."""
    assert "7 done" in plain_line(scene(stats=STATS, is_naive=True))


def test_without_a_terminal_there_is_a_line_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs are not flooded, and stdout stays for the ledger."""
    times_s = iter((100.0, 104.0, 105.0, 109.9, 110.0))

    with View(Console(stderr=True, width=300), plain=False, clock=lambda: next(times_s)) as view:
        for _ in range(5):
            view.show(scene(stats=STATS))

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("documents: 20 published") == 3


def broken_ledger() -> Ledger:
    """Make a ledger with one lost event and one repeated result."""
    return replace(Story().ledger(), published=2, completed=1, lost=1, repeated_results=1)


@pytest.mark.parametrize(
    ("ledger", "options", "code"),
    [
        (Story().ledger(), {}, 0),
        (broken_ledger(), {}, 1),
        (replace(broken_ledger(), lost=0), {}, 1),
        (replace(broken_ledger(), lost=0), {"kill_worker": True}, 0),
        (broken_ledger(), {"naive": True}, 0),
    ],
    ids=["kept", "lost", "repeated", "repeated after a kill", "the recipe promises nothing"],
)
def test_the_exit_code_says_whether_promises_were_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ledger: Ledger,
    options: dict[str, bool],
    code: int,
) -> None:
    """And the JSON has every key, whatever it says."""
    monkeypatch.setattr("sluicegate.cli.demo.command.run_demo", lambda *_: ledger)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "out.json"

    assert demo(json=path, plain=True, **options) == code  # type: ignore[arg-type]  # only flags are given

    assert orjson.loads(path.read_bytes()) == ledger.as_json()
    assert "published" in capsys.readouterr().out


def test_the_ledger_shows_what_is_not_known_as_a_dash() -> None:
    """Unknown is not zero."""
    console = Console(width=80)
    with console.capture() as captured:
        console.print(ledger_table(Story().ledger(None)))

    rows = dict(line.strip("│ ").split("│") for line in captured.get().splitlines() if line.startswith("│"))
    assert {key.strip(): value.strip() for key, value in rows.items()}["paid_twice"] == "-"
