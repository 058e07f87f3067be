"""From a record to a delivery: decoded, validated, named, or known to be bad and why.

Retry headers count only on the stream's own `due` topic, and only when they name an origin on its input
topic in the same partition number: on an input record they are whatever its publisher copied there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from sluicegate.clock import Clock
from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.cloudevent import CloudEvent
from sluicegate.events.models import Event
from sluicegate.processing.decoding import Decoded, EventDecoder, Undecodable
from sluicegate.records import Record
from sluicegate.retry.decisions import Progress
from sluicegate.retry.headers import ReplaySource, RetryHeaders, parse_retry_headers
from sluicegate.state.api import Copy, EventRef
from sluicegate.telemetry.labels import Repair, TakenFrom
from sluicegate.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A record in our hands. `retry` None: the input record. `event_id` is what others call the event."""

    record: Record
    ref: EventRef
    retry: RetryHeaders | None
    event_id: str

    @property
    def copy(self) -> Copy:
        """Which record of its event this is."""
        return self.retry.copy if self.retry is not None else Copy()

    @property
    def attempt(self) -> int:
        """The 1-based number of the call that this delivery makes first."""
        return self.retry.attempt if self.retry is not None else 1

    @property
    def deferrals(self) -> int:
        """How many deliveries of the event ended without a call."""
        return self.retry.deferrals if self.retry is not None else 0

    @property
    def origin_timestamp_ms(self) -> int:
        """When the event was first published, as the broker says."""
        return self.retry.origin_timestamp_ms if self.retry is not None else self.record.timestamp_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(_Taken):
    """A record that is an event."""

    envelope: CloudEvent
    event: Event

    @property
    def lane(self) -> Hashable:
        """What runs one at a time: the key's events within their partition, from the input and `due`."""
        return self.ref.origin.partition, self.ref.key

    @property
    def tenant(self) -> str | None:
        """Whose event it is; None where its model does not say."""
        return getattr(self.event, "tenant", None)

    @property
    def progress(self) -> Progress:
        """How far the event has come before this delivery."""
        return Progress.of_delivery(self.retry, self.envelope.time_ms)

    @property
    def published_key(self) -> bytes:
        """The key that its results and dead letters carry: the record's, else the id that stands for it."""
        return self.record.key if self.record.key is not None else self.ref.key.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class BadDelivery(_Taken):
    """A record that will never be an event. Its `ref` heeds no gate: nobody waits for it or before it."""

    reason: BadEventReason
    where: str

    @property
    def lane(self) -> Hashable:
        """A lane of its own: it neither waits for its neighbours nor holds them up."""
        return self.record.topic, self.record.partition, self.record.offset

    @property
    def published_key(self) -> bytes | None:
        """The key as it came."""
        return self.record.key


Delivered = Delivery | BadDelivery


class DeliveryReader:
    """Reads one stream's records. Never raises for what a record holds."""

    def __init__(
        self,
        *,
        stream: str,
        input_topic: str,
        due_topic: str,
        model: type[Event],
        ordered: bool,
        max_event_bytes: int,
        horizon_s: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`max_event_bytes` bounds a value; due times beyond `horizon_s` from now are not believed."""
        self._stream = stream
        self._input_topic = input_topic
        self._due_topic = due_topic
        self._decoder = EventDecoder(
            stream=stream, model=model, ordered=ordered, max_event_bytes=max_event_bytes
        )
        self._horizon_s = horizon_s
        self._clock = clock
        self._null_keys = metrics.repairs.labels(stream=stream, kind=Repair.NULL_KEY)
        self._mended_headers = metrics.repairs.labels(stream=stream, kind=Repair.RETRY_HEADER)
        self._taken = {source: metrics.taken.labels(stream=stream, source=source) for source in TakenFrom}

    def read(self, record: Record) -> Delivered:
        """Return the delivery, or why the record can never become one."""
        is_due = record.topic == self._due_topic
        self._taken[TakenFrom.DUE if is_due else TakenFrom.INPUT].inc()
        retry = self._retry_headers(record) if is_due else None
        origin = retry.origin if retry is not None else record.place
        if is_due and retry is None:
            error = BadEventError(BadEventReason.BAD_ENVELOPE, "retry-origin")
            return _bad(record, retry, self._decoder.undecodable(record, origin, error))
        match self._decoder.decode(record, origin):
            case Undecodable() as bad:
                return _bad(record, retry, bad)
            case Decoded() as good:
                if record.key is None:
                    self._null_keys.inc()
                return Delivery(
                    record=record,
                    ref=replace(good.ref, ordered=False) if _is_out_of_order(retry) else good.ref,
                    retry=retry,
                    event_id=good.event_id,
                    envelope=good.envelope,
                    event=good.event,
                )

    def _retry_headers(self, record: Record) -> RetryHeaders | None:
        retry = parse_retry_headers(record.headers, now_ms=self._clock.now_ms(), horizon_s=self._horizon_s)
        if retry is None or (retry.origin.topic, retry.origin.partition) != (
            self._input_topic,
            record.partition,
        ):
            return None
        self._mended_headers.inc(len(retry.repaired))
        return retry


def _is_out_of_order(retry: RetryHeaders | None) -> bool:
    """Whether the event came back from the DLQ: its followers went on without it long ago."""
    return retry is not None and retry.replay_source is ReplaySource.DLQ


def _bad(record: Record, retry: RetryHeaders | None, bad: Undecodable) -> BadDelivery:
    return BadDelivery(
        record=record, ref=bad.ref, retry=retry, event_id=bad.event_id, reason=bad.reason, where=bad.where
    )
