"""How a replay's plan and its outcome are told: a table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from consumers.replay.candidates import LeftOut
from consumers.replay.estimate import Estimate
from consumers.replay.plan import SENT
from consumers.replay.replay import Planned
from sluicegate.cli.wording import duration

_WHY = {
    LeftOut.NO_ORIGIN: "no header says which event it was",
    LeftOut.FOREIGN_ORIGIN: "its origin is not this stream's input",
    LeftOut.CUT_SHORT: "it was too large for the DLQ: publish the event again",
    LeftOut.NO_VALUE: "a tombstone: there is nothing to answer",
    LeftOut.TOO_OFTEN: "replayed [replay] max_replays times already",
    LeftOut.TOO_LARGE: "`due` does not take a record of its size",
    LeftOut.ANSWERED: "its event has a result by now",
    LeftOut.DEAD: "its event died by now: replay the dlq",
    LeftOut.SUPERSEDED: "a later record of the same event counts",
    LeftOut.UNDER_WAY: "its event was sent back before and is not at its end",
    LeftOut.ENDING: "its end is being published",
    LeftOut.CANCELLED: "it was cancelled and is about to end",
}


def as_json(
    planned: Planned, need: Estimate, rate_per_s: float, tally: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return what `--json` prints; `tally` is what came of a run, None before it."""
    plan = planned.plan
    told: dict[str, Any] = {
        "replay_id": plan.replay_id,
        "source": plan.command.source,
        "stream": plan.command.stream,
        "filters": plan.command.filters.as_json(),
        "resumes": planned.resumes is not None,
        "send": len(plan.sends),
        "by_reason": dict(sorted(plan.by_reason.items())),
        "left_out": {why.value: count for why, count in sorted(plan.left_out.items())},
        "beyond_limit": plan.beyond_limit,
        "already_sent": plan.already_sent,
        "estimate": {
            "calls": need.calls,
            "input_tokens": need.input_tokens,
            "output_tokens": need.output_tokens,
            "dollars": need.dollars,
            "seconds_at_quota": need.at_quota_s,
        },
        "rate_per_s": round(rate_per_s, 3),
    }
    if tally is not None:
        told["outcome"] = {
            SENT: tally.get(SENT, 0),
            "left_out": {name: count for name, count in sorted(tally.items()) if name != SENT},
        }
    return told


def show_plan(console: Console, planned: Planned, need: Estimate, rate_per_s: float) -> None:
    """Print what would be sent and what not, and what it will take."""
    plan, command = planned.plan, planned.plan.command
    filters = ", ".join(f"{name} {_said(value)}" for name, value in command.filters.as_json().items())
    console.print(
        f"replay {plan.replay_id}: {command.source} of {command.stream}{filters and ', ' + filters}",
        highlight=False,
    )
    if planned.resumes is not None:
        begun = datetime.fromtimestamp(planned.resumes.snapshot.at_ms / 1000, tz=UTC)
        console.print(
            f"goes on with what began at {begun:%Y-%m-%d %H:%M:%S} UTC: {plan.already_sent} were sent"
            " (--new starts afresh)",
            highlight=False,
        )
    elif plan.already_sent:
        console.print(f"{plan.already_sent} were sent by it before", highlight=False)
    if plan.sends:
        console.print(_reasons(planned))
        for line in _needs(need, rate_per_s):
            console.print(line, highlight=False)
    else:
        console.print("nothing to send", highlight=False)
    if plan.beyond_limit:
        console.print(f"{plan.beyond_limit} more are beyond --limit", highlight=False)
    _show_left_out(console, {why.value: count for why, count in plan.left_out.items()})


def show_outcome(console: Console, planned: Planned, tally: Mapping[str, int]) -> None:
    """Print what came of the whole replay, interrupted runs included."""
    console.print(f"replay {planned.plan.replay_id}: {tally.get(SENT, 0)} sent", highlight=False)
    _show_left_out(console, {name: count for name, count in tally.items() if name != SENT})


def _reasons(planned: Planned) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("reason")
    grid.add_column("events", justify="right")
    for reason, count in planned.plan.by_reason.most_common():
        grid.add_row(reason, str(count))
    grid.add_row("in all", str(len(planned.plan.sends)))
    return grid


def _needs(need: Estimate, rate_per_s: float) -> list[str]:
    tokens = f"{need.input_tokens} input and {need.output_tokens} output tokens"
    dollars = "cost unknown" if need.dollars is None else f"{need.dollars:.2f} dollars"
    at_quota = "no quota known" if need.at_quota_s is None else f"{duration(need.at_quota_s)} at the quota"
    sending = f"{duration(need.events / rate_per_s)} to send at {rate_per_s:.3g}/s"
    return [
        f"at most about {need.calls} calls, {tokens}, {dollars}: steps that were paid are not paid again",
        f"{at_quota}, {sending}",
    ]


def _show_left_out(console: Console, left_out: Mapping[str, int]) -> None:
    if not left_out:
        return
    grid = Table(box=None, pad_edge=False)
    grid.add_column("left out")
    grid.add_column("records", justify="right")
    grid.add_column("why")
    for why in LeftOut:
        if count := left_out.get(why.value, 0):
            grid.add_row(why.value, str(count), _WHY[why])
    console.print(grid)


def _said(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)
