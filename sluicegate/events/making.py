"""From what a publisher has in its hands to the record that Kafka gets: checked, named and keyed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Generic

import orjson
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.cloudevent import binary_headers, is_attribute, well_formed_trace
from sluicegate.events.models import Event, EventT, read_model
from sluicegate.events.strict_json import read_object
from sluicegate.records import OutgoingRecord

_ID_DIGITS = 32

Body = Event | Mapping[str, object] | bytes
"""An event as a model, as its fields, or as JSON in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An event and what its headers shall say of it.

    `id` None: a digest of the value. `time` None: now; it must know its time zone. A `traceparent`
    that is not well-formed (W3C Trace Context) is left out, and the event goes without. In a
    process that traces with OpenTelemetry it names the span above the publisher's own; None: the current one.
    """

    event: Body = field(repr=False)
    id: str | None = None
    time: datetime | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMaker(Generic[EventT]):
    """Makes records for one input topic. `source` becomes `ce_source`."""

    topic: str
    model: type[EventT]
    source: str
    max_event_bytes: int

    def record(
        self, value: bytes, *, time_ms: int, id: str | None = None, traceparent: str | None = None
    ) -> OutgoingRecord:
        """Return the JSON as a record, untouched but for white space around it.

        It is read as the worker will read it: BadEventError says why the worker would refuse it, and
        names at most a field. Without an `id` its `ce_id` is a digest of the value: the same value
        published again is the same event, whose completed calls are not paid for twice.
        """
        value = value.strip()
        if len(value) > self.max_event_bytes:
            raise BadEventError(BadEventReason.TOO_LARGE)
        event = read_model(self.model, read_object(value))
        if id is not None and not is_attribute(id):
            raise BadEventError(BadEventReason.BAD_ENVELOPE, "ce_id")
        headers = binary_headers(
            id=sha256(value).hexdigest()[:_ID_DIGITS] if id is None else id,
            source=self.source,
            type=self.model.ce_type,
            time_ms=time_ms,
            traceparent=well_formed_trace(traceparent),
        )
        key = str(getattr(event, self.model.id_field)).encode("utf-8")
        return OutgoingRecord(topic=self.topic, key=key, value=value, headers=headers)

    def enveloped(self, envelope: Envelope, *, now_ms: int) -> OutgoingRecord:
        """Return the record of an event in its envelope; raises as `record` does.

        Raises TypeError for a model of another stream and ValueError for a `time` without time zone.
        """
        return self.record(
            self._value(envelope.event),
            time_ms=now_ms if envelope.time is None else _milliseconds(envelope.time),
            id=envelope.id,
            traceparent=envelope.traceparent,
        )

    def _value(self, event: Body) -> bytes:
        if isinstance(event, bytes):
            return event
        if isinstance(event, BaseModel) and not isinstance(event, self.model):
            raise TypeError(f"{self.topic} takes {self.model.__name__}, not {type(event).__name__}")
        value = _dumped(event)
        if value is None:
            # Outside the handler of the serializer's error, which may quote what it could not write.
            raise BadEventError(BadEventReason.NOT_JSON)
        return value


def _dumped(event: BaseModel | Mapping[str, object]) -> bytes | None:
    try:
        if isinstance(event, BaseModel):
            # A warning would quote a value; what does not fit is found when the value is read back.
            return event.model_dump_json(by_alias=True, warnings=False).encode("utf-8")
        # Sorted: the same fields give the same digest, in whatever order they were put together.
        return orjson.dumps(dict(event), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, PydanticSerializationError, UnicodeEncodeError):
        return None


def _milliseconds(time: datetime) -> int:
    if time.utcoffset() is None:
        raise ValueError("time must know its time zone: datetime.now(UTC) does")
    return round(time.timestamp() * 1000)
