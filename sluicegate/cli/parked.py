"""`sluicegate parked STREAM`: what waits in a stream's retry tiers, and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers.inspection.copies import CopyReader
from consumers.inspection.parked import TierTally
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.operator import now_ms
from sluicegate.cli.stream_state import decoder_of, standings_of
from sluicegate.cli.wording import counted, duration
from sluicegate.errors import StateUnavailableError
from sluicegate.retry.policy import tier_bounds_s
from sluicegate.settings import Settings
from sluicegate.state.api import EventRef

_PIPE_WIDTH = 160
_LATE_S = 5.0  # a release is milliseconds late: from here on it is nobody's jitter
_SHOWN_REASONS = 4


def parked(stream: str, *, keys: int = 3, json: bool = False, config: Path | None = None) -> None:
    """Show what waits in a stream's retry tiers: how much, since when, until when, why, and of which keys.

    Counts the records that the relay has not released. They are read from Kafka without joining a group;
    Redis is asked which of their events have ended meanwhile, and may be away.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    keys
        How many of each tier's most frequent keys to show.
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    seen_at_ms = now_ms()
    tallies = take_stock(settings, stream, now_ms=seen_at_ms)
    if json:
        sys.stdout.write(orjson.dumps(as_json(stream, tallies, keys=keys, now_ms=seen_at_ms)).decode() + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    console.print(as_table(settings, stream, tallies, keys=keys, now_ms=seen_at_ms))


def take_stock(settings: Settings, stream: str, *, now_ms: int) -> tuple[TierTally, ...]:
    """Read the tiers and add them up; without Redis nothing is known of ends. Raises BrokerError."""
    decoder = decoder_of(settings, stream)
    tallies = tuple(TierTally(tier=number) for number in range(1, len(settings.retry.tiers_s) + 1))
    refs: list[list[EventRef]] = [[] for _ in tallies]
    with CopyReader(settings, stream) as reader:
        for copy in reader.parked(now_ms=now_ms):
            origin = copy.retry.origin if copy.retry is not None else copy.record.place
            ref = decoder.decode(copy.record, origin).ref
            tallies[copy.tier - 1].add(copy, ref.key)
            refs[copy.tier - 1].append(ref)
    try:
        for tally, own in zip(tallies, refs, strict=True):
            tally.add_standings(standings_of(settings, stream, own) if own else [])
    except StateUnavailableError as exc:
        sys.stderr.write(f"sluicegate: which events have ended is not known: {exc}\n")
    return tallies


def as_json(stream: str, tallies: Sequence[TierTally], *, keys: int, now_ms: int) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "stream": stream,
        "at_ms": now_ms,
        "parked": sum(tally.parked for tally in tallies),
        "tiers": [
            {
                "tier": tally.tier,
                "parked": tally.parked,
                "ended": tally.ended,
                "cancelled": tally.cancelled,
                "oldest_published_at_ms": tally.oldest_published_at_ms,
                "oldest_parked_at_ms": tally.oldest_parked_at_ms,
                "next_due_at_ms": tally.next_due_at_ms,
                "last_due_at_ms": tally.last_due_at_ms,
                "reasons": dict(tally.reasons),
                "keys": [{"key": key, "parked": count} for key, count in tally.keys.most_common(keys)],
            }
            for tally in tallies
        ],
    }


def as_table(
    settings: Settings, stream: str, tallies: Sequence[TierTally], *, keys: int, now_ms: int
) -> RenderableType:
    """Return what people see: one line a tier that holds anything, and what will come to nothing."""
    held = [tally for tally in tallies if tally.parked]
    if not held:
        return Text(f"nothing of {stream} is parked")
    grid = Table(box=None, pad_edge=False)
    for heading in ("tier", "parked", "oldest", "next due", "last due", "reasons", "keys"):
        grid.add_column(heading, justify="right" if heading in {"parked", "oldest"} else "left")
    for tally in held:
        grid.add_row(
            _tier(settings, tally.tier),
            f"{tally.parked:,}",
            _age(tally.oldest_published_at_ms, now_ms),
            _due(tally.next_due_at_ms, now_ms),
            _due(tally.last_due_at_ms, now_ms),
            Text(counted(tally.reasons, _SHOWN_REASONS)),
            Text(counted(dict(tally.keys.most_common(keys)))),
        )
    return Group(grid, *_remarks(held, now_ms))


def _remarks(held: Sequence[TierTally], now_ms: int) -> list[Text]:
    remarks = []
    if ended := sum(tally.ended or 0 for tally in held):
        remarks.append(Text(f"{ended:,} of these have ended meanwhile: nothing comes of them", style="dim"))
    if cancelled := sum(tally.cancelled or 0 for tally in held):
        remarks.append(Text(f"{cancelled:,} are cancelled and about to become dead letters", style="dim"))
    if any(_late_s(tally.next_due_at_ms, now_ms) > _LATE_S for tally in held):
        remarks.append(Text("records are overdue: is `sluicegate relay` running?", style="yellow"))
    return remarks


def _tier(settings: Settings, number: int) -> str:
    _, most_s = tier_bounds_s(number, settings.retry.tiers_s)
    return f"{number} (up to {duration(most_s)})"


def _age(at_ms: int | None, now_ms: int) -> str:
    return "" if at_ms is None else duration((now_ms - at_ms) / 1000)


def _due(at_ms: int | None, now_ms: int) -> Text:
    if at_ms is None:
        return Text()
    late_s = _late_s(at_ms, now_ms)
    if late_s > _LATE_S:
        return Text(f"{duration(late_s)} ago", style="yellow")
    return Text("now" if late_s >= 0 else f"in {duration(-late_s)}")


def _late_s(at_ms: int | None, now_ms: int) -> float:
    return 0.0 if at_ms is None else (now_ms - at_ms) / 1000
