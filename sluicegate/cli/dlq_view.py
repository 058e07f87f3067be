"""How dead letters are shown, to programs and to people. Payload only where it is asked for."""

from __future__ import annotations

import base64
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumers.inspection.letters import Letter, is_under_way
from sluicegate.cli.wording import counted, moment, printable
from sluicegate.records import Origin
from sluicegate.state.api import Phase, Standing

_PIPE_WIDTH = 160
_HEADER_LENGTH = 200
_SHOWN_STATUSES = 3
_INDENT = (0, 0, 0, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The dead letters to show, how their events stand by origin, and how many records the DLQ holds."""

    letters: tuple[Letter, ...]
    standings: Mapping[Origin, Standing | None]
    records: int


@dataclass(slots=True, kw_only=True)
class _Group:
    """What the letters of one reason have in common. The example is the newest letter."""

    count: int = 0
    under_way: int = 0
    first_ms: int = 0
    last_ms: int = -1
    example: Letter | None = None
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, letter: Letter, standing: Standing | None) -> None:
        at_ms = letter.ended_at_ms
        self.first_ms = min(self.first_ms, at_ms) if self.count else at_ms
        if at_ms >= self.last_ms:
            self.last_ms, self.example = at_ms, letter
        self.count += 1
        self.under_way += is_under_way(standing)
        if letter.retry is not None and letter.retry.http_status is not None:
            self.statuses[str(letter.retry.http_status)] += 1


def _by_reason(found: Found) -> list[tuple[str, _Group]]:
    groups: dict[str, _Group] = {}
    for letter in found.letters:
        groups.setdefault(letter.reason, _Group()).add(letter, found.standings.get(letter.origin))
    return sorted(groups.items(), key=lambda item: (-item[1].count, item[0]))


# --- all ------------------------------------------------------------------------------------------


def as_json(stream: str, found: Found) -> dict[str, Any]:
    """Return what `--json` prints without `--show`."""
    return {
        "stream": stream,
        "records": found.records,
        "dead_letters": len(found.letters),
        "reasons": {
            reason: {
                "dead_letters": group.count,
                "under_way": group.under_way,
                "first_at_ms": group.first_ms,
                "last_at_ms": group.last_ms,
                "http_statuses": dict(group.statuses),
                "newest": str(group.example.place) if group.example else None,
            }
            for reason, group in _by_reason(found)
        },
    }


def as_table(stream: str, found: Found) -> RenderableType:
    """Return what people see: one line a reason, and a letter of each to look at."""
    left_out = found.records - len(found.letters)
    remark = Text(
        f"{left_out:,} more are history: their events were replayed (`--all` shows them)", style="dim"
    )
    remarks = [remark] if left_out else []
    if not found.letters:
        return Group(Text(f"{stream} has no dead letters"), *remarks)
    grid = Table(box=None, pad_edge=False)
    for heading in ("reason", "events", "under way", "first", "last", "HTTP", "newest (--show)"):
        grid.add_column(heading, justify="right" if heading in {"events", "under way"} else "left")
    for reason, group in _by_reason(found):
        place = group.example.place if group.example else None
        grid.add_row(
            Text(printable(reason)),
            f"{group.count:,}",
            f"{group.under_way:,}" if group.under_way else "",
            moment(group.first_ms),
            moment(group.last_ms),
            counted(group.statuses, _SHOWN_STATUSES),
            f"{place.partition}/{place.offset}" if place else "",
        )
    if len(_by_reason(found)) > 1:
        grid.add_row("all", f"{len(found.letters):,}", style="bold")
    return Group(grid, *remarks)


# --- one ------------------------------------------------------------------------------------------


def letter_json(
    letter: Letter, standing: Standing | None, others: Sequence[str], *, payload: bool
) -> dict[str, Any]:
    """Return what `--json` prints with `--show`. A value that is no UTF-8 is given as base64."""
    record, retry = letter.record, letter.retry
    said: dict[str, Any] = {
        "place": str(letter.place),
        "event_id": letter.event_id,
        "identity": letter.ref.identity,
        "origin": str(letter.origin) if retry is not None else None,
        "key": _text_or_none(record.key),
        "reason": letter.reason,
        "where": letter.where,
        "ended_at_ms": letter.ended_at_ms,
        "published_at_ms": retry and retry.origin_timestamp_ms,
        "first_failed_at_ms": retry and retry.first_failed_at_ms,
        "attempt": retry and retry.attempt,
        "counted_failures": retry and retry.counted_failures,
        "deferrals": retry and retry.deferrals,
        "replays": retry and retry.replay_count,
        "last_call": {
            "reason": retry and retry.reason,
            "http_status": retry and retry.http_status,
        },
        "now": _stands(standing),
        "others": list(others),
        "headers": [[name, value.decode("utf-8", "backslashreplace")] for name, value in record.headers],
        "value_bytes": len(record.value or b""),
    }
    if payload:
        said |= _payload_json(record.value)
    return said


def letter_text(
    letter: Letter, standing: Standing | None, others: Sequence[str], *, payload: bool
) -> RenderableType:
    """Return what people see of one dead letter."""
    record = letter.record
    parts: list[RenderableType] = [Text(f"dead letter {letter.place}", style="bold"), _grid(_facts(letter))]
    parts += [Text("history", style="bold"), _grid(_history(letter, standing, others))]
    headers = [
        (name, printable(value.decode("utf-8", "backslashreplace"), _HEADER_LENGTH))
        for name, value in record.headers
    ]
    parts += [Text("headers", style="bold"), _grid(headers)]
    if payload:
        parts += [Text("value", style="bold"), Padding(Text(_payload_text(record.value)), _INDENT)]
    return Group(*parts)


def print_view(view: RenderableType) -> None:
    """Print for a terminal as wide as it is, or for a pipe."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(view)


def _facts(letter: Letter) -> Iterator[tuple[str, str]]:
    record = letter.record
    yield "reason", printable(letter.reason) + (f" ({printable(letter.where)})" if letter.where else "")
    yield "event", printable(letter.event_id)
    yield "identity", letter.ref.identity
    if letter.retry is not None:
        yield "origin", str(letter.origin)
    if record.key is not None:
        yield "key", printable(record.key.decode("utf-8", "backslashreplace"))
    yield "value", f"{len(record.value or b''):,} bytes; --payload shows it"


def _history(letter: Letter, standing: Standing | None, others: Sequence[str]) -> Iterator[tuple[str, str]]:
    retry = letter.retry
    if retry is not None:
        yield moment(retry.origin_timestamp_ms), "published"
        if retry.first_failed_at_ms is not None:
            yield moment(retry.first_failed_at_ms), "first call refused or failed"
        last = f"; last call: {retry.reason}" if retry.reason else ""
        status = f" (HTTP {retry.http_status})" if retry.http_status else ""
        yield (
            "",
            f"attempt {retry.attempt}, {retry.counted_failures} failures that count to max_attempts,"
            f" {retry.deferrals} waits without a call{last}{status}",
        )
        if retry.replay_count:
            yield "", f"replayed {retry.replay_count} times, last as {retry.replay_id}"
    yield moment(letter.ended_at_ms), f"dead letter: {printable(letter.reason)}"
    if others:
        yield "", f"also at {', '.join(others)}"
    yield "now", _stands(standing)


def _stands(standing: Standing | None) -> str:
    if standing is None:
        return "unknown to Redis: never taken since, or forgotten"
    if standing.phase is not Phase.DONE:
        return "under way again" + (", cancelled" if standing.is_cancelled else "")
    return f"ended as {standing.kind.value}" if standing.kind is not None else "ended"


def _grid(rows: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Padding:
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(printable(name)), Text(value))
    return Padding(grid, _INDENT)


def _payload_json(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"value": None}
    try:
        return {"value": value.decode("utf-8")}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode("ascii")}


def _payload_text(value: bytes | None) -> str:
    """Return the value as text that no terminal takes for a command; JSON is laid out."""
    if value is None:
        return "none: a tombstone"
    try:
        text = orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        text = value.decode("utf-8", "backslashreplace")
    return "\n".join(printable(line, len(line)) for line in text.split("\n"))


def _text_or_none(key: bytes | None) -> str | None:
    return None if key is None else key.decode("utf-8", "backslashreplace")
