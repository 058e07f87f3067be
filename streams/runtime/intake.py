"""Between the agents and the dispatcher: how much is taken, from where, and when nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

from sluicegate.delivery.dispatcher import Item, KeyedDispatcher
from sluicegate.processing.reading import Delivered, DeliveryReader
from sluicegate.records import Record
from sluicegate.telemetry.metrics import Metrics
from streams.runtime.consumer import TrackedMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """What pauses the input. `blocked_for_s` says how long the scope of the stream stays blocked."""

    stream: str
    due_topic: str
    in_place_max_s: float
    publish_timeout_s: float
    blocked_for_s: Callable[[], float]


class Intake:
    """Takes what the dispatcher has room for; Kafka is the queue for the rest.

    While the stream's scope is blocked for longer than an in-place retry may wait, no fresh event is
    taken: a provider's bad hour stays in the topic, in order. `due` is never paused for that.
    """

    def __init__(
        self,
        *,
        rules: IntakeRules,
        reader: DeliveryReader,
        dispatcher: KeyedDispatcher[Delivered],
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._rules = rules
        self._reader = reader
        self._dispatcher = dispatcher
        self._paused = metrics.intake_paused.labels(rules.stream)
        self._on_fatal = on_fatal
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether the process drains."""
        return self._stopped

    def stop(self) -> None:
        """Take nothing any more: the process drains."""
        self._stopped = True

    def room(self, topic: str, partition: int) -> int:
        """How many records may be taken from there now."""
        if self._is_paused(topic):
            return 0
        return self._dispatcher.room(topic, partition, topic == self._rules.due_topic)

    def room_of(self, topic: str) -> int:
        """How many records may be taken from all of the topic's partitions together."""
        if self._is_paused(topic):
            return 0
        return self._dispatcher.room_in_all(topic == self._rules.due_topic)

    def _is_paused(self, topic: str) -> bool:
        if self._stopped:
            return True
        blocked = self._rules.blocked_for_s() > self._rules.in_place_max_s
        self._paused.set(blocked)
        return blocked and topic != self._rules.due_topic

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

    def take(self, message: TrackedMessage) -> None:
        """Hand one record to the dispatcher, unless its assignment is over."""
        assignment = message.assignment
        if self._stopped or assignment.closed:
            return
        headers = cast("Sequence[tuple[str, bytes | None]]", message.headers or ())  # as aiokafka gives them
        record = Record(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=max(0, round(message.timestamp * 1000)),  # -1: its producer gave none
            key=message.key,
            value=message.value,
            headers=tuple((name, value or b"") for name, value in headers),
        )
        delivered = self._reader.read(record)
        tracker = assignment.trackers[message.tp]
        self._dispatcher.submit(
            Item(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                lane=delivered.lane,
                order=delivered.ref.origin.offset,
                size_bytes=len(record.value or b""),
                is_due=record.topic == self._rules.due_topic,
                payload=delivered,
                ack=partial(tracker.done, record.offset),
            )
        )
