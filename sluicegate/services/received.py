"""From a record of a results topic to a result of the reader's own models. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

import orjson

from sluicegate.errors import BadEventError, BadEventReason, BadResultError
from sluicegate.events.cloudevent import CloudEvent, read_event
from sluicegate.events.models import ResultT, read_result_model
from sluicegate.records import Origin, Record

_CAUSATION = "ce_causationid"
# A result's size is bounded by its topic alone.
_ANY_SIZE = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Generic[ResultT]):
    """One result. `id` is the same however often it is published; `event_id` is the answered event's.

    `key` is None for a record without one. `place` is where the record lies: topic, partition, offset.
    """

    result: ResultT
    id: str
    event_id: str | None
    key: str | None
    time_ms: int | None
    traceparent: str | None
    place: Origin
    headers: Mapping[str, bytes] = field(repr=False)


def read_result(record: Record, models: Mapping[str, type[ResultT]]) -> Received[ResultT]:
    """Read a record by the model of its `ce_type`; BadResultError when it is none of them."""
    try:
        envelope = read_event(record, max_event_bytes=_ANY_SIZE)
        model = models.get(envelope.type or "")
        if envelope.id is None or model is None:
            raise BadEventError(BadEventReason.BAD_ENVELOPE, "ce_type" if envelope.id else "ce_id")
        result = read_result_model(model, orjson.dumps(envelope.data))
    except BadEventError as exc:
        raise BadResultError(str(record.place), exc.reason, exc.where) from None
    return _received(record, envelope, envelope.id, result)


def result_id(record: Record) -> str | None:
    """Return the `ce_id` of a record, None where it has none that can be read."""
    for name, value in record.headers:
        if name == "ce_id":
            return value.decode("utf-8", "backslashreplace")
    return None


def _received(record: Record, envelope: CloudEvent, id: str, result: ResultT) -> Received[ResultT]:
    headers = dict(record.headers)
    cause = headers.get(_CAUSATION)
    return Received(
        result=result,
        id=id,
        event_id=None if cause is None else cause.decode("utf-8", "backslashreplace"),
        key=None if record.key is None else record.key.decode("utf-8", "backslashreplace"),
        time_ms=envelope.time_ms,
        traceparent=envelope.traceparent,
        place=record.place,
        headers=headers,
    )
