"""What the publisher for threads and the one for asyncio share: options, checks, and the way to Kafka."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Generic

from sluicegate.errors import BadEventError, ConfigurationError, PublishError
from sluicegate.events.cloudevent import is_attribute, well_formed_trace
from sluicegate.events.making import Body, Envelope, EventMaker
from sluicegate.events.models import EventT
from sluicegate.kafka.publisher import ConfluentPublisher, OnSettled
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.services.room import Room
from sluicegate.services.security import checked_security, configured
from sluicegate.telemetry.messaging import OFFSET, PARTITION, SEND, record_attributes
from sluicegate.telemetry.otel import ambient_traces
from sluicegate.telemetry.traces import Span, SpanKind

MAX_EVENT_BYTES: Final = 900_000  # the default of a stream's `max_event_bytes`


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the broker has confirmed: the event's `ce_id` and where its record lies.

    The offset is -1 where the broker only said that it had the record already.
    """

    id: str
    place: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """A checked record, its event's `ce_id`, and how many bytes it takes in memory."""

    record: OutgoingRecord
    id: str
    size_bytes: int
    span: Span


class Outlet(ABC, Generic[EventT]):
    """One stream's way out of a service."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic: str,
        model: type[EventT],
        source: str,
        client_id: str = "sluicegate-publisher",
        timeout_s: float = 30.0,
        linger_ms: int = 5,
        max_pending_records: int = 10_000,
        max_pending_bytes: int = 64 * 1024 * 1024,
        max_event_bytes: int = MAX_EVENT_BYTES,
        security: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare publishing; nothing is sent and no broker is asked yet.

        `topic` is the stream's input and `model` what its handler takes. `source` becomes `ce_source`: it
        names the service, and with an event's id it names the event. `timeout_s` bounds each record's way
        to its confirmation. `max_pending_records` and `max_pending_bytes` bound what is on its way;
        beyond them publishing waits. `max_event_bytes` must not be above the stream's setting.
        `security` holds librdkafka's `security.*`, `sasl.*` and `ssl.*` settings.
        Raises ConfigurationError for what could never be published.
        """
        self._maker = EventMaker(
            topic=topic, model=model, source=_checked_source(source), max_event_bytes=max_event_bytes
        )
        self._traces = ambient_traces()
        self._timeout_s = timeout_s
        self._room_of_all = Room(records=max_pending_records, size_bytes=max_pending_bytes)
        self._is_closed = False
        checked = checked_security(security)
        self._kafka = configured(
            lambda: ConfluentPublisher(
                bootstrap_servers,
                client_id=client_id,
                timeout_s=timeout_s,
                linger_ms=linger_ms,
                security=checked,
            )
        )
        self._open()
        self._kafka.start_polling()

    @abstractmethod
    def _open(self) -> None:
        """Make what waits for room and confirmations in the subclass's own way."""

    @property
    def pending_records(self) -> int:
        """How many records are on their way and not confirmed."""
        return self._room_of_all.records

    def _addressed(self, envelope: Envelope) -> Addressed:
        span = self._span(well_formed_trace(envelope.traceparent))
        if span.traceparent is not None:
            envelope = replace(envelope, traceparent=span.traceparent)
        record = self._maker.enveloped(envelope, now_ms=time.time_ns() // 1_000_000)
        headers_bytes = sum(len(name) + len(value) for name, value in record.headers)
        return Addressed(
            record=record,
            id=dict(record.headers)["ce_id"].decode("utf-8"),
            size_bytes=len(record.key or b"") + len(record.value or b"") + headers_bytes,
            span=span,
        )

    def _span(self, traceparent: str | None) -> Span:
        """Start the span that the event's trace goes on from: below the caller's, whichever he names."""
        topic = self._maker.topic
        parent = self._traces.current() if traceparent is None else traceparent
        name, attributes = f"{SEND} {topic}", record_attributes(SEND, topic)
        return self._traces.message(name, SpanKind.PRODUCER, attributes, parent=parent)

    def _all_addressed(self, events: Iterable[Body | Envelope]) -> list[Addressed]:
        """Check all before the first is sent; the error names the event by its number, from 0."""
        addressed: list[Addressed] = []
        for number, event in enumerate(events):
            envelope = event if isinstance(event, Envelope) else Envelope(event=event)
            try:
                addressed.append(self._addressed(envelope))
            except BadEventError as exc:
                where = f"events[{number}]" + (f".{exc.where}" if exc.where else "")
                raise BadEventError(exc.reason, where) from None
        return addressed

    def _send(self, addressed: Addressed, on_settled: OnSettled) -> None:
        """Hand the record to Kafka's client; what becomes of it ends its span, too."""

        def settled(outcome: Origin | PublishError) -> None:
            if isinstance(outcome, PublishError):
                addressed.span.end(type(outcome).__name__)
            else:
                addressed.span.note({PARTITION: str(outcome.partition), OFFSET: outcome.offset})
                addressed.span.end()
            on_settled(outcome)

        self._kafka.hand_over(addressed.record, settled)

    @property
    def _no_room(self) -> str:
        return f"{self._maker.topic}: the broker has confirmed too little in {self._timeout_s:g} s"


def _checked_source(source: str) -> str:
    if not is_attribute(source):
        raise ConfigurationError("source: name the publishing service, for example /shop/helpdesk")
    return source
