"""The spans of one delivery: the delivery itself, and each wait for a permit.

A delivery that came back from a tier or from the DLQ stands in the trace of its publisher, linked to the
delivery that sent it there: nothing spans the time in between, which is a record that lies in Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from sluicegate.limiter.api import Blocked, Lane, NeverFits
from sluicegate.processing.account import Account
from sluicegate.processing.conclusion import DecisionWord
from sluicegate.processing.reading import Delivered, Delivery
from sluicegate.processing.routes import Granted
from sluicegate.telemetry.messaging import GROUP, OFFSET, PARTITION, PROCESS, record_attributes
from sluicegate.telemetry.traces import ERROR_TYPE, Attributes, Span, SpanKind, Traces, span_of, spanning

_EVENT = "sluicegate.event"  # the hash that is `id` in logs and `ce_id` of the result
_STREAM = "sluicegate.stream"
_ATTEMPT = "sluicegate.attempt"
_DECISION = "sluicegate.decision"
_REASON = "sluicegate.reason"
_CALLS = "sluicegate.calls"
_LANE = "sluicegate.lane"
_SCOPE = "sluicegate.scope"
_IS_PROBE = "sluicegate.probe"


@span_of
def processing(traces: Traces, delivered: Delivered, group: str) -> Iterator[Span]:
    """Show the work on one delivery, in its publisher's trace."""
    record, retry = delivered.record, delivered.retry
    span = traces.message(
        f"{PROCESS} {record.topic}",
        SpanKind.CONSUMER,
        {
            **record_attributes(PROCESS, record.topic),
            PARTITION: str(record.partition),
            OFFSET: record.offset,
            GROUP: group,
            _EVENT: delivered.ref.identity,
            _STREAM: delivered.ref.stream,
            _ATTEMPT: delivered.attempt,
        },
        parent=delivered.envelope.traceparent if isinstance(delivered, Delivery) else None,
        links=(retry.traceparent,) if retry is not None and retry.traceparent is not None else (),
    )
    with spanning(traces, span):
        yield span


def decided(account: Account, decision: DecisionWord) -> Attributes:
    """Return what a delivery came to. Parking is no error; a dead letter is."""
    is_error = decision is DecisionWord.DEAD_LETTER
    return {
        _DECISION: decision.value,
        _CALLS: account.calls,
        ERROR_TYPE if is_error else _REASON: account.error,
    }


@span_of
def waiting_for_permit(traces: Traces, lane: Lane) -> Iterator[Span]:
    """Show how long a call waited for its limits."""
    span = traces.child("limiter wait", SpanKind.INTERNAL, {_LANE: lane.name.lower()})
    with spanning(traces, span):
        yield span


def answered(answer: Granted | Blocked | NeverFits) -> Attributes:
    """Return what the wait came to: the scope whose limits the call may use, or what keeps it back."""
    match answer:
        case Granted(permit=permit):
            return {_SCOPE: permit.scope, _IS_PROBE: permit.is_probe or None}
        case Blocked(cause=cause) | NeverFits(dimension=cause):
            return {_REASON: cause.value}
        case _:
            assert_never(answer)
