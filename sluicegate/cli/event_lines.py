"""From lines of JSON to records of a stream's input, each checked against the stream's model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.cloudevent import binary_headers
from sluicegate.events.models import Event, read_model
from sluicegate.events.strict_json import read_object
from sluicegate.records import OutgoingRecord

_ID_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMaker:
    """Makes records for one input topic. `source` becomes `ce_source`."""

    topic: str
    model: type[Event]
    source: str
    max_event_bytes: int

    def record(self, line: bytes, *, time_ms: int) -> OutgoingRecord:
        """Return the line as a record, its value untouched; BadEventError names at most a field.

        Its `ce_id` is a digest of the value: the same line published again is the same event, whose
        completed calls are not paid for twice.
        """
        value = line.strip()
        if len(value) > self.max_event_bytes:
            raise BadEventError(BadEventReason.TOO_LARGE)
        event = read_model(self.model, read_object(value))
        headers = binary_headers(
            id=sha256(value).hexdigest()[:_ID_DIGITS],
            source=self.source,
            type=self.model.ce_type,
            time_ms=time_ms,
        )
        key = str(getattr(event, self.model.id_field)).encode("utf-8")
        return OutgoingRecord(topic=self.topic, key=key, value=value, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLines:
    """Every record that the lines hold, and what is wrong with the others: `line 3: not-json`."""

    records: tuple[OutgoingRecord, ...]
    faults: tuple[str, ...]


def read_lines(lines: Iterable[bytes], maker: EventMaker, *, time_ms: int) -> ReadLines:
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
