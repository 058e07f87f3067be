"""How `sluicegate status` shows streams, to programs and to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers.inspection.backlog import StreamBacklog
from consumers.inspection.costs import MeanCost
from sluicegate.cli.outlook import StreamStatus
from sluicegate.cli.pausing import pause_json, told
from sluicegate.cli.wording import duration, printable

_COLUMNS = ("stream", "lag", "running", "parked", "next due", "due", "results", "dlq", "rate")
_REASON_LENGTH = 200


def as_json(statuses: Sequence[StreamStatus]) -> dict[str, Any]:
    """Return what `--json` prints: one object a stream."""
    return {"streams": {status.backlog.stream: _json(status) for status in statuses}}


def _json(status: StreamStatus) -> dict[str, Any]:
    backlog = status.backlog
    return {
        "published": backlog.published,
        "lag": backlog.lag,
        "running": backlog.running,
        "parked": backlog.parked,
        "tiers": [
            {
                "tier": tier.tier,
                "parked": tier.parked,
                "next_due_at_ms": tier.next_due_at_ms,
                "last_due_at_ms": tier.last_due_at_ms,
            }
            for tier in backlog.tiers
        ],
        "due": backlog.due,
        "results": backlog.results,
        "dlq": backlog.dead_letters if status.still_dead is None else status.still_dead,
        "dlq_records": backlog.dead_letters,
        "rate_per_s": round(status.rate_per_s, 3),
        "eta_s": _rounded(status.eta_s),
        "eta_at_quota_s": _rounded(status.at_quota_s),
        "eta_at_rate_s": _rounded(status.at_rate_s),
        "bound_by": status.bound_by,
        "held_by": status.held_by,
        "paused": pause_json(status.pause),
        "cost": _cost_json(status.cost),
    }


def _cost_json(cost: MeanCost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {
        "results": cost.results,
        "calls": round(cost.calls, 3),
        "input_tokens": round(cost.input_tokens, 1),
        "output_tokens": round(cost.output_tokens, 1),
        "share_with_calls": round(cost.share, 3),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def as_table(statuses: Sequence[StreamStatus], *, now_ms: int) -> RenderableType:
    """Return what people see: a line a stream, and a sentence for each that is paused."""
    grid = Table(box=None, pad_edge=False)
    for heading in _COLUMNS:
        grid.add_column(heading, justify="left" if heading == "stream" else "right")
    grid.add_column("done in")
    for status in statuses:
        backlog = status.backlog
        next_due = [tier.next_due_at_ms for tier in backlog.tiers if tier.next_due_at_ms is not None]
        grid.add_row(
            backlog.stream,
            str(backlog.lag),
            str(backlog.running),
            _parked(backlog),
            duration((min(next_due) - now_ms) / 1000) if next_due else "",
            str(backlog.due),
            str(backlog.results),
            str(backlog.dead_letters if status.still_dead is None else status.still_dead),
            f"{status.rate_per_s:.1f}/s",
            _end(status),
        )
    return Group(grid, *_pauses(statuses, now_ms))


def _parked(backlog: StreamBacklog) -> str:
    tiers = [f"{tier.tier}: {tier.parked}" for tier in backlog.tiers if tier.parked]
    return f"{backlog.parked} ({', '.join(tiers)})" if tiers else "0"


def _end(status: StreamStatus) -> Text:
    """Say when it ends and what that rests on."""
    if status.held_by is not None:
        return Text("paused" if status.held_by == "pause" else "circuit open", style="yellow")
    if status.backlog.remaining == 0:
        return Text("now")
    if status.at_quota_s is not None:
        return Text(f"{duration(status.at_quota_s)} at the quota ({status.bound_by})")
    if status.at_rate_s is not None:
        return Text(f"{duration(status.at_rate_s)} at this rate")
    return Text("?")


def _pauses(statuses: Sequence[StreamStatus], now_ms: int) -> Iterator[Text]:
    for status in statuses:
        if status.pause is not None:
            said = printable(told(status.pause, now_ms), _REASON_LENGTH)
            yield Text(f"{status.backlog.stream} is paused {said}", style="yellow")
