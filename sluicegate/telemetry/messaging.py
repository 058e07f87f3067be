"""Spans of records, by OpenTelemetry's semantic conventions for messaging (Kafka)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sluicegate.telemetry.traces import NO_TRACES, NOT_SPANNED, Attribute, Span, SpanKind, Traces, spanning

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
GROUP = "messaging.consumer.group.name"

SEND, PROCESS = "send", "process"


def record_attributes(operation: str, topic: str) -> dict[str, Attribute | None]:
    """Return what every span about one record of the topic says."""
    return {SYSTEM: "kafka", OPERATION: operation, OPERATION_TYPE: operation, DESTINATION: topic}


def sending(traces: Traces, topic: str) -> AbstractContextManager[Span]:
    """Show in the current trace how long a record took to its confirmation, all tries together."""
    return NOT_SPANNED if traces is NO_TRACES else _sending(traces, topic)


@contextmanager
def _sending(traces: Traces, topic: str) -> Iterator[Span]:
    span = traces.child(f"{SEND} {topic}", SpanKind.PRODUCER, record_attributes(SEND, topic))
    with spanning(traces, span):
        yield span
