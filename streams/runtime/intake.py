"""Between the agents and the dispatcher: how much is taken, from where, and when nothing is."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

from sluicegate.delivery.dispatcher import Item, KeyedDispatcher
from sluicegate.limiter.api import ScopeView
from sluicegate.processing.reading import Delivered, DeliveryReader
from sluicegate.records import Record
from sluicegate.telemetry.metrics import Metrics
from streams.runtime.consumer import Fetched

# An event that makes no call (it may be no event at all) does not use up the right to probe.
_PROBES_APART_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """What pauses the input. `views` show the scope of each route of the stream."""

    stream: str
    due_topic: str
    in_place_max_s: float
    publish_timeout_s: float
    views: Sequence[ScopeView]


class Intake:
    """Takes what the dispatcher has room for; Kafka is the queue for the rest.

    While every route of the stream is closed (its circuit open, or blocked for longer than an in-place
    retry may wait), no fresh event is taken: a provider's bad hour stays in the topic, in order. `due`
    is never paused for that. When a circuit wants a probe and this worker has nothing in hand that could
    make it, one fresh event is taken, so that an outage ends by itself.

    While an operator pauses the stream nothing is taken from anywhere, not even for a probe.
    """

    def __init__(
        self,
        *,
        rules: IntakeRules,
        reader: DeliveryReader,
        dispatcher: KeyedDispatcher[Delivered],
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
        is_paused: Callable[[], bool] = lambda: False,
        now_s: Callable[[], float] = monotonic,
    ) -> None:
        """`is_paused` says whether an operator paused the stream; `now_s` is a clock that never goes back."""
        self._rules = rules
        self._reader = reader
        self._dispatcher = dispatcher
        self._paused = metrics.intake_paused.labels(rules.stream)
        self._on_fatal = on_fatal
        self._stopped = False
        self._is_paused = is_paused
        self._now_s = now_s
        self._fresh_at_s = -math.inf

    @property
    def is_stopped(self) -> bool:
        """Whether the process drains."""
        return self._stopped

    def stop(self) -> None:
        """Take nothing any more: the process drains."""
        self._stopped = True

    def room(self, topic: str, partition: int) -> int:
        """How many records may be taken from there now."""
        is_due = topic == self._rules.due_topic
        return min(self._most(is_due), self._dispatcher.room(topic, partition, is_due))

    def room_of(self, topic: str) -> int:
        """How many records may be taken from all of the topic's partitions together."""
        is_due = topic == self._rules.due_topic
        return min(self._most(is_due), self._dispatcher.room_in_all(is_due))

    def _most(self, is_due: bool) -> int:
        """How many records may be taken at once, whatever the dispatcher has room for."""
        if self._stopped:
            return 0
        if self._is_paused():
            self._paused.set(1)
            return 0
        is_closed = all(map(self._is_closed, self._rules.views))
        self._paused.set(is_closed)
        if is_due or not is_closed:
            return sys.maxsize
        return int(self._may_probe())

    def _is_closed(self, view: ScopeView) -> bool:
        return view.circuit() is not None or view.blocked_for_s() > self._rules.in_place_max_s

    def _may_probe(self) -> bool:
        # In this order: a worker with work in hand does not apply for a probe that its work will make.
        return (
            self._dispatcher.idle
            and self._now_s() - self._fresh_at_s >= _PROBES_APART_S
            and any(view.wants_probe() for view in self._rules.views)
        )

    async def wait_for_room(self, timeout_s: float) -> None:
        """Return when an event was finished, at the latest after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._dispatcher.room_made()

    async def forget(self) -> None:
        """Forget everything taken; publishes under way end (bounded)."""
        await self._dispatcher.forget(self._rules.publish_timeout_s)

    def on_fatal(self, error: BaseException) -> None:
        """Stop the worker with a non-zero exit code."""
        self._on_fatal(error)

    def take(self, fetched: Fetched) -> None:
        """Hand one record to the dispatcher, unless its assignment is over."""
        assignment, given = fetched.assignment, fetched.record
        if self._stopped or assignment.closed:
            return
        record = Record(
            topic=given.topic,
            partition=given.partition,
            offset=given.offset,
            timestamp_ms=max(0, given.timestamp),  # -1: its producer gave none
            key=given.key,
            value=given.value,
            headers=tuple((name, value or b"") for name, value in given.headers),
        )
        is_due = record.topic == self._rules.due_topic
        if not is_due:
            self._fresh_at_s = self._now_s()
        delivered = self._reader.read(record)
        tracker = assignment.trackers[fetched.tp]
        self._dispatcher.submit(
            Item(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                lane=delivered.lane,
                order=delivered.ref.origin.offset,
                size_bytes=len(record.value or b""),
                is_due=is_due,
                payload=delivered,
                ack=partial(tracker.done, record.offset),
            )
        )
