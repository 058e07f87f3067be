"""Spans of records, by OpenTelemetry's semantic conventions for messaging (Kafka)."""

from __future__ import annotations

from collections.abc import Iterator

from sluicegate.telemetry.traces import Attribute, Span, SpanKind, Traces, span_of, spanning

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


@span_of
def sending(traces: Traces, topic: str) -> Iterator[Span]:
    """Show in the current trace how long a record took to its confirmation, all tries together."""
    span = traces.child(f"{SEND} {topic}", SpanKind.PRODUCER, record_attributes(SEND, topic))
    with spanning(traces, span):
        yield span
