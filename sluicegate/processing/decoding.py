"""From a record's bytes to the event they are, and to the name that the state knows it by.

The worker asks this of what it takes; operators' commands ask it of parked records and dead letters, and
so look for exactly the row that a worker would.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.cloudevent import CloudEvent, read_event
from sluicegate.events.identity import event_identity, lane_key, own_id
from sluicegate.events.models import Event, read_model
from sluicegate.records import Headers, Origin, Record
from sluicegate.state.api import EventRef

_NO_EVENT = CloudEvent(data={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A record that is an event. `event_id` is what others call it."""

    ref: EventRef
    event_id: str
    envelope: CloudEvent
    event: Event

    @property
    def tenant(self) -> str | None:
        """Whose event it is; None where its model does not say."""
        return getattr(self.event, "tenant", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecodable:
    """A record that will never be an event. Its `ref` heeds no gate: nobody waits for it or before it."""

    ref: EventRef
    event_id: str
    reason: BadEventReason
    where: str


class EventDecoder:
    """Decodes one stream's records, copies and dead letters included. Never raises for what one holds."""

    def __init__(self, *, stream: str, model: type[Event], ordered: bool, max_event_bytes: int) -> None:
        """`max_event_bytes` bounds a value."""
        self._stream = stream
        self._model = model
        self._ordered = ordered
        self._max_event_bytes = max_event_bytes

    def decode(self, record: Record, origin: Origin) -> Decoded | Undecodable:
        """Return the event with its name, or why the record is none. `origin` is what its headers say."""
        try:
            envelope = read_event(record, max_event_bytes=self._max_event_bytes)
            event = read_model(self._model, envelope.data)
        except BadEventError as error:
            return self.undecodable(record, origin, error)
        key = lane_key(record.key, event)
        return Decoded(
            ref=EventRef(
                stream=self._stream,
                origin=origin,
                key=key,
                identity=event_identity(event=envelope, stream=self._stream, key=key, origin=origin),
                ordered=self._ordered,
            ),
            event_id=own_id(envelope, origin),
            envelope=envelope,
            event=event,
        )

    def undecodable(self, record: Record, origin: Origin, error: BadEventError) -> Undecodable:
        """Name a record that is known to be bad."""
        key = record.key.decode("utf-8", "backslashreplace") if record.key is not None else ""
        return Undecodable(
            ref=EventRef(
                stream=self._stream,
                origin=origin,
                key=key,
                identity=event_identity(event=_NO_EVENT, stream=self._stream, key=key, origin=origin),
                ordered=False,
            ),
            event_id=_header_id(record.headers) or str(origin),
            reason=error.reason,
            where=error.where,
        )


def _header_id(headers: Headers) -> str | None:
    """Return a bad record's own id where its headers name a plain one."""
    for name, value in headers:
        if name == "ce_id" and 0 < len(value) <= 256 and value.isascii():
            text = value.decode("ascii")
            return text if text.isprintable() else None
    return None
