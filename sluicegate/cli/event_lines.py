"""From lines of JSON to records of a stream's input, each checked against the stream's model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.errors import BadEventError
from sluicegate.events.making import EventMaker
from sluicegate.events.models import EventT
from sluicegate.records import OutgoingRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLines:
    """Every record that the lines hold, and what is wrong with the others: `line 3: not-json`."""

    records: tuple[OutgoingRecord, ...]
    faults: tuple[str, ...]


def read_lines(lines: Iterable[bytes], maker: EventMaker[EventT], *, time_ms: int) -> ReadLines:
    """Read all lines, also behind a wrong one; empty lines are none."""
    records: list[OutgoingRecord] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(maker.record(line, time_ms=time_ms))
        except BadEventError as exc:
            faults.append(f"line {number}: {exc}")
    return ReadLines(records=tuple(records), faults=tuple(faults))
