"""Parking: a copy goes to a retry tier, is confirmed, and only then becomes the one that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from sluicegate.delivery.dispatcher import Slot, Verdict
from sluicegate.processing.conclusion import STALE, Conclusion, DecisionWord, TakeAgain
from sluicegate.processing.publishing import PersistentPublisher
from sluicegate.processing.reading import Delivered, Delivery
from sluicegate.records import OutgoingRecord
from sluicegate.retry.decisions import Park, Progress
from sluicegate.retry.headers import RetryHeaders, next_copy, with_retry_headers
from sluicegate.state.api import Copies, ParkVerdict
from sluicegate.state.patient import patiently
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.traces import Traces
from sluicegate.topics import StreamTopics


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    """Sends events of one stream to its tiers. `new_id` gives random letters and digits."""

    topics: StreamTopics
    copies: Copies
    publisher: PersistentPublisher
    new_id: Callable[[], str]
    metrics: Metrics
    traces: Traces

    async def park(
        self,
        delivery: Delivery,
        gen: str,
        park: Park,
        progress: Progress,
        slot: Slot[Delivered],
        *,
        has_called: bool,
    ) -> Conclusion | TakeAgain:
        """Park the event. `has_called` says whether a call of this delivery reached the provider."""
        copied = _headers_of_copy(delivery, park, progress, self.new_id(), has_called=has_called)
        retry = replace(copied, traceparent=self.traces.current())
        record = OutgoingRecord(
            topic=self.topics.tiers[park.tier - 1],
            key=delivery.record.key,
            value=delivery.record.value,
            headers=with_retry_headers(delivery.record.headers, retry),
            partition=delivery.ref.origin.partition,
        )
        await patiently(lambda: self.copies.intend_park(delivery.ref, park.due_at_ms))
        with slot.publishing():
            await self.publisher.publish(record)
            # Only after the confirmation: a switch to a copy that is not there would lose the event.
            verdict = await patiently(
                lambda: self.copies.park(delivery.ref, delivery.copy, retry.copy, gen, park.due_at_ms)
            )
        match verdict:
            case ParkVerdict.SWITCHED:
                stream = delivery.ref.stream
                self.metrics.parked.labels(stream=stream, tier=str(park.tier), source=park.source.value).inc()
                return Conclusion(verdict=Verdict.ACK, decision=DecisionWord.PARKED)
            case ParkVerdict.REFUSED:
                self.metrics.stale.labels(stream=delivery.ref.stream).inc()
                return STALE
            case ParkVerdict.TAKE_AGAIN:
                return TakeAgain()
            case _:
                assert_never(verdict)


def _headers_of_copy(
    delivery: Delivery, park: Park, progress: Progress, token: str, *, has_called: bool
) -> RetryHeaders:
    before = delivery.retry
    reason = park.reason.value if park.reason is not None else before.reason if before is not None else None
    return RetryHeaders(
        origin=delivery.ref.origin,
        origin_timestamp_ms=delivery.origin_timestamp_ms,
        copy=next_copy(delivery.copy, token),
        due_at_ms=park.due_at_ms,
        attempt=progress.attempt + 1,
        counted_failures=progress.counted_failures,
        deferrals=delivery.deferrals + (not has_called),
        tier=park.tier,
        first_failed_at_ms=progress.first_failed_at_ms,
        source=park.source,
        reason=reason,
        http_status=park.http_status,
        replay_id=before.replay_id if before is not None else None,
        replay_count=before.replay_count if before is not None else 0,
        replay_source=before.replay_source if before is not None else None,
    )
