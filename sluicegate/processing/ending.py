"""Ending an event: claimed with its content, published, confirmed, done. Then, and only then, acked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from prometheus_client import Counter

from sluicegate.clock import Clock
from sluicegate.delivery.dispatcher import Slot, Verdict
from sluicegate.errors import RecordTooLargeError
from sluicegate.processing.conclusion import STALE, Conclusion, DecisionWord, TakeAgain
from sluicegate.processing.letters import Death, dead_letter, reason_of, stub_of
from sluicegate.processing.publishing import PersistentPublisher
from sluicegate.processing.reading import Delivered
from sluicegate.processing.results import PREDECESSOR_DEAD_LETTERED
from sluicegate.records import OutgoingRecord
from sluicegate.retry.decisions import LetterReason
from sluicegate.state.api import Claimed, End, EndKind, Ends, EndVerdict
from sluicegate.state.patient import patiently
from sluicegate.telemetry.labels import Repair
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.traces import Traces
from sluicegate.topics import StreamTopics


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Ends events of one stream; `ended` counts them."""

    topics: StreamTopics
    ends: Ends
    publisher: PersistentPublisher
    clock: Clock
    metrics: Metrics
    ended: Mapping[EndKind, Counter]
    traces: Traces

    async def die(
        self, delivered: Delivered, gen: str, death: Death, slot: Slot[Delivered]
    ) -> Conclusion | TakeAgain:
        """End the event as a dead letter, unless it was given another end before."""
        return await self.end(delivered, gen, self._letter(delivered, death), slot)

    async def end(
        self, delivered: Delivered, gen: str, end: End, slot: Slot[Delivered]
    ) -> Conclusion | TakeAgain:
        """End the event in this way, or in the way that an earlier claim stored."""
        return await self._claim_and_finish(delivered, gen, end, slot, replaces=None)

    async def _claim_and_finish(
        self,
        delivered: Delivered,
        gen: str,
        end: End,
        slot: Slot[Delivered],
        *,
        replaces: EndKind | None,
    ) -> Conclusion | TakeAgain:
        claim = await patiently(lambda: self.ends.claim(delivered.ref, gen, end, replaces=replaces))
        match claim:
            case Claimed(end=stored):
                return await self.finish(delivered, gen, stored, slot)
            case EndVerdict.ALREADY_DONE:
                return self._stale(delivered)
            case EndVerdict.TAKE_AGAIN:
                return TakeAgain()
            case EndVerdict.DONE:
                raise AssertionError("a claim never answers that the event is done")
            case _:
                assert_never(claim)

    async def finish(
        self, delivered: Delivered, gen: str, end: End, slot: Slot[Delivered]
    ) -> Conclusion | TakeAgain:
        """Publish a claimed end and mark it done.

        A result that its topic will never take gives way to a dead letter, whose claim replaces the
        result's before anything is published: a crash at any point leaves one end to publish. A refusal
        that is not about the record's size concerns every event: it is raised and stops the process.
        """
        try:
            with slot.publishing():
                await self._publish(delivered, end)
                verdict = await patiently(lambda: self.ends.finish(delivered.ref, gen, end))
        except RecordTooLargeError:
            if end.kind is not EndKind.RESULT:
                raise
            death = Death(reason=LetterReason.RESULT_TOO_LARGE.value)
            letter = self._letter(delivered, death)
            return await self._claim_and_finish(delivered, gen, letter, slot, replaces=EndKind.RESULT)
        match verdict:
            case EndVerdict.DONE:
                self._count(delivered, end)
                return Conclusion(verdict=Verdict.ACK, decision=DecisionWord(end.kind.value))
            case EndVerdict.ALREADY_DONE:
                return self._stale(delivered)
            case EndVerdict.TAKE_AGAIN:
                return TakeAgain()
            case _:
                assert_never(verdict)

    def _letter(self, delivered: Delivered, death: Death) -> End:
        return dead_letter(delivered, death, self.clock.now_ms(), self.traces.current())

    async def _publish(self, delivered: Delivered, end: End) -> None:
        match end.kind:
            case EndKind.RECORDED:
                return
            case EndKind.RESULT:
                await self._send(delivered, self.topics.results, end)
            case EndKind.DEAD_LETTER:
                try:
                    await self._send(delivered, self.topics.dlq, end)
                except RecordTooLargeError:
                    await self._send(delivered, self.topics.dlq, stub_of(end))
            case _:
                assert_never(end.kind)

    async def _send(self, delivered: Delivered, topic: str, end: End) -> None:
        key, value = delivered.published_key, end.value
        if key is None and value is None:
            value = b""  # a record needs one of the two; the reason says that it was a tombstone
        await self.publisher.publish(OutgoingRecord(topic=topic, key=key, value=value, headers=end.headers))

    def _stale(self, delivered: Delivered) -> Conclusion:
        self.metrics.stale.labels(stream=delivered.ref.stream).inc()
        return STALE

    def _count(self, delivered: Delivered, end: End) -> None:
        stream = delivered.ref.stream
        self.ended[end.kind].inc()
        if end.kind is EndKind.DEAD_LETTER:
            self.metrics.dead_letters.labels(stream=stream, reason=reason_of(end.headers)).inc()
        if end.kind is EndKind.RESULT and PREDECESSOR_DEAD_LETTERED in dict(end.headers):
            self.metrics.repairs.labels(stream=stream, kind=Repair.PREDECESSOR_DEAD_LETTERED).inc()
