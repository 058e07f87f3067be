"""The relay's loop: tiers in, `due` out. One thread polls always, and never sleeps for a due time.

The order that keeps everything: a record is published and confirmed where it goes, then its offset counts
as finished, then the commit says so, with the map of what else is finished. A crash between any two of
these repeats a record; the repeat carries the same `retry-copy` and is recognised where it is taken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import orjson
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.relay.committing import Committing
from consumers.relay.held_partition import Entry, HeldPartition, Room, Window, room_left
from consumers.relay.observing import Observer
from consumers.relay.plan import Held, Moved, Tier, hold, move
from sluicegate.clock import Clock
from sluicegate.delivery.due_queue import DueEntry, DueQueue
from sluicegate.errors import BrokerError, PublishError
from sluicegate.kafka.admin import Partition
from sluicegate.kafka.config import ClientConfig
from sluicegate.kafka.reading import append_time_ms, record_of
from sluicegate.records import OutgoingRecord, Record
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.pulse import STUCK_S, Pulse, TimedWork

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_LONGEST_POLL_S = 0.1
# Few enough that what is due goes out between two batches of a backlog that is read in.
_TAKEN_AT_ONCE = 200
_SENT_AT_ONCE = 500
# Below the 100,000 that the producer's queue holds: full, it would refuse records of healthy partitions.
_MOST_IN_FLIGHT = 50_000
# How long a turn waits for confirmations when due records wait for room in flight.
_CONFIRMATION_POLL_S = 0.002
_STATISTICS_MS = 2_000
_ASK_ATTEMPTS = 3


class Sender(Protocol):
    """What the relay needs of `sluicegate.kafka.publisher.ConfluentPublisher`."""

    def send(self, record: OutgoingRecord, on_done: Callable[[PublishError | None], None]) -> None:
        """Hand a record over; the outcome is told from within `poll` or `flush`, or at once."""

    def poll(self, timeout_s: float = 0.0) -> None:
        """Tell the outcomes that have arrived."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until every outcome is told; False when the time was over first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Bounds of one relay; seconds where the name says so.

    `max_bytes` is what held records may take over all partitions, overhead included. What is on its way
    to the broker is there a second time, in the producer. Each look, for the metrics, walks over all that is
    held: 10 ms for 130,000 records. `publish_timeout_s` and `sync_commit_s` are the Kafka clients' own, by
    which they are judged.
    """

    window: Window = field(default_factory=Window)
    max_bytes: int = 320 * 1024 * 1024
    commit_interval_s: float = 0.5
    look_interval_s: float = 2.0
    revoke_timeout_s: float = 5.0
    stop_timeout_s: float = 15.0
    request_timeout_s: float = 5.0
    publish_timeout_s: float = 30.0
    sync_commit_s: float = 10.0


class Relay:
    """Hands parked records on when they are due. Not thread-safe but for `ready`, `loop` and `publishes`.

    `partition_counts` says how many partitions each topic has; it is asked at every assignment.
    `clock` is the one that due times are measured by. `ends` tells the next offset of each partition, as far
    as somebody knows it, without asking Kafka.
    """

    def __init__(
        self,
        *,
        tiers: Sequence[Tier],
        consumer_config: ClientConfig,
        publisher: Sender,
        clock: Clock,
        metrics: Metrics,
        partition_counts: Callable[[], Mapping[str, int]],
        ends: Callable[[], Mapping[Partition, int]] = dict,
        limits: RelayLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._publisher = publisher
        self._clock = clock
        self._observer = Observer(tiers, metrics)
        self._partition_counts = partition_counts
        self._ends = ends
        self._limits = limits or RelayLimits()
        self._monotonic = monotonic
        self._counts: Mapping[str, int] = {}
        self._held: dict[Partition, HeldPartition] = {}
        self._queue: DueQueue[Partition, Held] = DueQueue(max_items=sys.maxsize, max_bytes=sys.maxsize)
        self._room = Room(is_full=False, sure_bytes=self._limits.max_bytes)
        self._in_flight = 0
        self._congested = False
        self._committing = Committing()
        self._next_commit_s = 0.0
        self._next_look_s = 0.0
        self._polled_at_s: float | None = None
        self._joined = False
        self._broker_up = False
        #: The loop, turn by turn and step by step of a rebalance.
        self.loop = Pulse("loop", now_s=monotonic)
        self.publishes = TimedWork("publish", now_s=monotonic)
        self._consumer = Consumer(
            {
                **consumer_config,
                "on_commit": self._committing.on_done,
                # Tells the position behind the last record, past markers of other services' transactions.
                "enable.partition.eof": True,
                "stats_cb": self._on_statistics,
                "statistics.interval.ms": _STATISTICS_MS,
            }
        )

    @property
    def ready(self) -> bool:
        """Whether the relay is in its group and Kafka answers; a partition that is stopped is an alert."""
        return self._joined and self._broker_up

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping`; then publish what is on its way, commit, and leave the group."""
        self._consumer.subscribe(
            list(self._tiers),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        try:
            while not stopping():
                self.turn()
            self._settle(tuple(self._held.values()), self._limits.stop_timeout_s)
        finally:
            self.loop.beat(self._limits.stop_timeout_s + STUCK_S)
            self._consumer.close()

    def turn(self) -> None:
        """Take what has arrived, hand on what is due, look after windows and commits."""
        self.loop.beat()
        polled_at_s, self._polled_at_s = self._polled_at_s, self._monotonic()
        if polled_at_s is not None:
            self._observer.polled(self._polled_at_s - polled_at_s)
        first = self._consumer.poll(self._poll_timeout_s())
        if first is not None:
            # At once: the next call may serve a rebalance, and the record would count for a new assignment
            # that has not come so far.
            self._take(first)
            # Near the bound one by one: a batch would carry each partition beyond its sure share.
            for message in () if self._room.is_full else self._consumer.consume(_TAKEN_AT_ONCE, timeout=0):
                self._take(message)
        self._publisher.poll(_CONFIRMATION_POLL_S if self._congested else 0)
        self._probe()
        self._move_due()
        self._flow()
        if self._monotonic() >= self._next_commit_s:
            self._next_commit_s = self._monotonic() + self._limits.commit_interval_s
            self._committing.begin(self._consumer, self._held.values())
        if self._monotonic() >= self._next_look_s:
            self._next_look_s = self._monotonic() + self._limits.look_interval_s
            self._observer.look(self._held.values(), self._room, self._ends(), self._clock.now_ms())

    # --- taking in ------------------------------------------------------------------------------

    def _poll_timeout_s(self) -> float:
        if self._congested:
            return 0.0
        next_due_ms = self._queue.next_due_ms
        if next_due_ms is None:
            return _LONGEST_POLL_S
        return min(max(0.0, (next_due_ms - self._clock.now_ms()) / 1000), _LONGEST_POLL_S)

    def _take(self, message: Message) -> None:
        topic, number = message.topic(), message.partition()
        if message.error() is not None and not self._at_end(message):
            return
        if topic is None or number is None:
            return
        owner = self._held.get(Partition(topic=topic, number=number))
        if owner is None:
            return
        self._look_for_a_gap(owner, message.offset() or 0)
        if message.error() is not None:
            owner.tracker.advance(message.offset() or 0)
            return
        self._hold(owner, record_of(message), append_time_ms(message))

    def _look_for_a_gap(self, owner: HeldPartition, offset: int) -> None:
        """Say when Kafka deleted records before they were read: the client goes to the oldest by itself.

        A gap may also be a marker of somebody's transaction; Kafka's oldest offset tells them apart.
        """
        wanted, place = owner.tracker.position(), owner.place
        if wanted is None or offset <= wanted:
            return
        at = TopicPartition(place.topic, place.number)
        bounds = self._asked(
            lambda: self._consumer.get_watermark_offsets(at, self._limits.request_timeout_s), "oldest record"
        )
        if bounds is not None and bounds[0] <= wanted:
            return
        # Without an answer as if all were deleted: better told once too often.
        missed = (offset if bounds is None else min(offset, bounds[0])) - wanted
        self._observer.missed(owner.tier, missed)
        _log.error(
            "relay.records.missed",
            topic=place.topic,
            partition=place.number,
            wanted=wanted,
            oldest=wanted + missed,
            missed=missed,
        )

    def _at_end(self, message: Message) -> bool:
        """Whether this is no record but the news that there is no further one; other errors are logged."""
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return True
        if error.fatal():
            raise BrokerError(f"the consumer cannot go on: {error.str()}")
        _log.warning("relay.consumer.error", topic=message.topic(), error=error.str())
        return False

    def _hold(self, owner: HeldPartition, record: Record, appended_ms: int | None) -> None:
        done_before = owner.tracker.already_done(record.offset)
        owner.tracker.delivered(record.offset)
        if done_before:
            return
        counts = self._counts.get(owner.tier.due_topic)
        held = hold(record, owner.tier, partitions=counts, now_ms=self._clock.now_ms())
        self._observer.mended(held)
        entry = DueEntry(
            due_ms=held.wake_at_ms,
            partition=owner.place,
            offset=record.offset,
            size_bytes=held.size_bytes,
            payload=held,
        )
        owner.entered(entry, appended_ms)
        self._queue.push(entry)

    # --- handing on -----------------------------------------------------------------------------

    def _move_due(self) -> None:
        self._congested = False
        for owner in self._held.values():
            while owner.backlog and owner.may_send and self._in_flight < _MOST_IN_FLIGHT:
                self._send(owner, owner.backlog.popleft())
            self._congested |= bool(owner.backlog) and not owner.stopped
        for _ in range(_SENT_AT_ONCE):
            if self._in_flight >= _MOST_IN_FLIGHT:
                self._congested = True
                return
            entry = self._queue.pop_due(self._clock.now_ms())
            if entry is None:
                return
            owner = self._held[entry.partition]
            # What waits for this partition is due longer: nothing overtakes it.
            if owner.backlog or not owner.may_send:
                owner.backlog.append(entry)
            else:
                self._send(owner, entry)

    def _probe(self) -> None:
        now_s = self._monotonic()
        for owner in self._held.values():
            if entry := owner.probe(now_s):
                self._send(owner, entry)

    def _send(self, owner: HeldPartition, entry: Entry) -> None:
        now_ms = self._clock.now_ms()
        moved = move(entry.payload, now_ms=now_ms)
        owner.in_flight += 1
        self._in_flight += 1
        ended = self.publishes.begun(self._limits.publish_timeout_s)

        def on_sent(error: PublishError | None) -> None:
            ended()
            self._on_sent(owner, entry, moved, now_ms, error)

        self._publisher.send(moved.record, on_sent)

    def _on_sent(
        self, owner: HeldPartition, entry: Entry, moved: Moved, sent_ms: int, error: PublishError | None
    ) -> None:
        owner.in_flight -= 1
        self._in_flight -= 1
        if owner.dropped:
            return
        place = owner.place
        if error is not None:
            if owner.fail(entry, self._monotonic()):
                _log.error(
                    "relay.partition.stopped",
                    topic=place.topic,
                    partition=place.number,
                    offset=entry.offset,
                    to=moved.record.topic,
                    failures=owner.failures,
                    error=str(error),
                )
            return
        if owner.recovered(entry):
            _log.info("relay.partition.resumed", topic=place.topic, partition=place.number)
        owner.left(entry)
        self._observer.moved(entry.payload, moved.move, sent_ms)

    # --- windows --------------------------------------------------------------------------------

    def _flow(self) -> None:
        now_ms = self._clock.now_ms()
        held_bytes = [owner.bytes for owner in self._held.values()]
        self._room = room_left(held_bytes, self._limits.max_bytes, was_full=self._room.is_full)
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        for owner in self._held.values():
            wait = owner.must_wait(now_ms, self._room)
            if wait != owner.paused:
                (pause if wait else resume).append(TopicPartition(owner.place.topic, owner.place.number))
                owner.paused = wait
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)

    # --- assignments ----------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._counts = self._asked(self._partition_counts, "partition counts") or self._counts
        committed = self._asked(lambda: self._committed(consumer, partitions), "commits")
        for place in committed or partitions:
            owner = HeldPartition(
                place=Partition(topic=place.topic, number=place.partition),
                tier=self._tiers[place.topic],
                window=self._limits.window,
            )
            refusal = owner.tracker.restore(place.offset if place.offset >= 0 else None, place.metadata or "")
            if refusal is not None:
                self._observer.refused_map(owner.tier, refusal)
            self._held[owner.place] = owner
        # From the offsets that the maps belong to; without an answer the client asks for itself.
        consumer.assign(committed or partitions)
        # A partition that was paused when it was taken away would stay so.
        consumer.resume(partitions)
        self._joined = True
        _log.info("relay.assigned", partitions=len(partitions))

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        found = consumer.committed(partitions, timeout=self._limits.request_timeout_s)
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return found

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        owners = self._owners(partitions)
        self._settle(owners, self._limits.revoke_timeout_s)
        self._drop(owners)
        _log.info("relay.revoked", partitions=len(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._committing.forget()
        self._drop(self._owners(partitions))
        self._joined = False
        _log.warning("relay.lost", partitions=len(partitions))

    def _settle(self, owners: Sequence[HeldPartition], timeout_s: float) -> None:
        self.loop.beat(timeout_s + STUCK_S)
        self._publisher.flush(timeout_s)
        self.loop.beat(self._limits.sync_commit_s + STUCK_S)
        self._committing.finish(self._consumer, owners)

    def _owners(self, partitions: Sequence[TopicPartition]) -> tuple[HeldPartition, ...]:
        places = (Partition(topic=place.topic, number=place.partition) for place in partitions)
        return tuple(owner for place in places if (owner := self._held.get(place)))

    def _drop(self, owners: Sequence[HeldPartition]) -> None:
        for owner in owners:
            owner.dropped = True
            self._held.pop(owner.place, None)
        self._queue.drop_partitions([owner.place for owner in owners])

    def _asked(self, question: Callable[[], T], what: str) -> T | None:
        # Within a rebalance there is no going back: without an answer the relay goes on and repeats more.
        for _ in range(_ASK_ATTEMPTS):
            self.loop.beat(self._limits.request_timeout_s + STUCK_S)
            try:
                return question()
            except (KafkaException, BrokerError) as exc:
                _log.warning("relay.question.unanswered", what=what, error=str(exc))
        return None

    def _on_statistics(self, text: str) -> None:
        brokers = orjson.loads(text).get("brokers", {}).values()
        self._broker_up = any(broker.get("state") == "UP" for broker in brokers)
