"""What a worker shows of its partitions and of its own health in metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic, time

from aiokafka.errors import KafkaError
from faust.types import TP

from sluicegate.delivery.dispatcher import KeyedDispatcher
from sluicegate.processing.reading import Delivered
from sluicegate.telemetry.labels import MissedIn, TakenFrom, refused_map
from sluicegate.telemetry.metrics import Metrics
from streams.runtime.assignment import Assignment
from streams.runtime.consumer import TrackingConsumer
from streams.runtime.liveness import Vitals

_LOOK_EVERY_S = 2.0
_ASK_EVERY_S = 15.0
_ASK_TIMEOUT_S = 5.0


class WorkerObserver:
    """Looks at one worker every other second, and asks Kafka for the partitions' ends now and then.

    `consumer` returns None until the app runs. What Kafka does not answer stays as it was.
    """

    def __init__(
        self,
        *,
        stream: str,
        due_topic: str,
        metrics: Metrics,
        dispatcher: KeyedDispatcher[Delivered],
        consumer: Callable[[], TrackingConsumer | None],
        vitals: Vitals,
        wall_s: Callable[[], float] = time,
    ) -> None:
        self._stream = stream
        self._due_topic = due_topic
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._consumer = consumer
        self._wall_s = wall_s
        self._seen: Assignment | None = None
        self._missed_seen: Counter[str] = Counter()
        self._ends: Mapping[TP, int] = {}
        self._asked_at = float("-inf")
        metrics.fetch_age_seconds.set_function(lambda: vitals.delivery.silence_s)
        metrics.heartbeat_age_seconds.set_function(lambda: vitals.answered.silence_s)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            before = monotonic()
            await asyncio.sleep(_LOOK_EVERY_S)
            self._metrics.loop_late_seconds.set(max(0.0, monotonic() - before - _LOOK_EVERY_S))
            consumer = self._consumer()
            if consumer is not None:
                await self._ask(consumer)
            self.look()

    async def _ask(self, consumer: TrackingConsumer) -> None:
        if monotonic() - self._asked_at < _ASK_EVERY_S:
            return
        self._asked_at = monotonic()
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                self._ends = await consumer.ends()
        except (KafkaError, TimeoutError):
            pass  # Kafka is away, or a rebalance took the partitions: the old figures are the best there are

    def look(self) -> None:
        """Show what is so now."""
        consumer = self._consumer()
        if consumer is not None:
            self._count_missed(consumer.missed)
        assignment = consumer.current_assignment if consumer is not None else None
        if assignment is not None and assignment is not self._seen:
            self._seen = assignment
            for refusal in assignment.refused_maps.values():
                self._metrics.repairs.labels(self._stream, refused_map(refusal)).inc()
        for source in TakenFrom:
            self._show(source, assignment)

    def _count_missed(self, missed: Counter[str]) -> None:
        for topic, count in (missed - self._missed_seen).items():
            source = MissedIn.DUE if topic == self._due_topic else MissedIn.INPUT
            self._metrics.records_missed.labels(self._stream, source).inc(count)
        self._missed_seen = missed.copy()

    def _show(self, source: TakenFrom, assignment: Assignment | None) -> None:
        trackers = {
            tp: tracker
            for tp, tracker in (assignment.trackers if assignment is not None else {}).items()
            if (tp.topic == self._due_topic) == (source is TakenFrom.DUE)
        }
        appended_ms = [
            item.payload.record.timestamp_ms
            for item in self._dispatcher.in_hand()
            if item.is_due == (source is TakenFrom.DUE)
        ]
        age_s = self._wall_s() - min(appended_ms) / 1000 if appended_ms else 0.0
        metrics, labels = self._metrics, (self._stream, source.value)
        metrics.assigned.labels(*labels).set(len(trackers))
        metrics.oldest_seconds.labels(*labels).set(max(0.0, age_s))
        metrics.lag.labels(*labels).set(
            sum(tracker.remaining(self._ends.get(tp, 0)) for tp, tracker in trackers.items())
        )
        metrics.watermark_lag.labels(*labels).set(max((one.span for one in trackers.values()), default=0))
        metrics.metadata_bytes.labels(*labels).set(
            max((one.metadata_bytes for one in trackers.values()), default=0)
        )
