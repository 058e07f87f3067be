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

from consumers.relay.held_partition import Entry, HeldPartition, InHand, Window
from consumers.relay.observing import Observer
from consumers.relay.plan import Moved, Tier, hold, move
from sluicegate.clock import Clock
from sluicegate.delivery.due_queue import DueEntry, DueQueue
from sluicegate.delivery.offsets import Commit
from sluicegate.errors import BrokerError, PublishError
from sluicegate.kafka.admin import Partition
from sluicegate.kafka.config import ClientConfig
from sluicegate.kafka.reading import append_time_ms, record_of
from sluicegate.records import OutgoingRecord
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.pulse import STUCK_S, Pulse, TimedWork

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_LONGEST_POLL_S = 0.1
_BATCH_RECORDS = 500
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
    """Bounds of one relay. `max_bytes` is over all partitions; seconds where the name says so.

    `publish_timeout_s` and `sync_commit_s` are the Kafka clients' own, by which they are judged.
    """

    window: Window = field(default_factory=Window)
    max_bytes: int = 256 * 1024 * 1024
    commit_interval_s: float = 0.5
    revoke_timeout_s: float = 5.0
    stop_timeout_s: float = 15.0
    request_timeout_s: float = 5.0
    publish_timeout_s: float = 30.0
    sync_commit_s: float = 10.0


class Relay:
    """Hands parked records on when they are due. Not thread-safe but for `ready`, `loop` and `publishes`.

    `partition_counts` says how many partitions each topic has; it is asked at every assignment.
    `clock` is the one that due times are measured by.
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
        limits: RelayLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._publisher = publisher
        self._clock = clock
        self._observer = Observer(tiers, metrics)
        self._partition_counts = partition_counts
        self._limits = limits or RelayLimits()
        self._monotonic = monotonic
        self._counts: Mapping[str, int] = {}
        self._held: dict[Partition, HeldPartition] = {}
        self._queue: DueQueue[Partition, InHand] = DueQueue(max_items=sys.maxsize, max_bytes=sys.maxsize)
        self._committing: dict[Partition, tuple[HeldPartition, Commit]] = {}
        self._next_commit_s = 0.0
        self._joined = False
        self._broker_up = False
        #: The loop, turn by turn and step by step of a rebalance.
        self.loop = Pulse("loop", now_s=monotonic)
        self.publishes = TimedWork("publish", now_s=monotonic)
        self._consumer = Consumer(
            {
                **consumer_config,
                "on_commit": self._on_commit,
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
        first = self._consumer.poll(self._poll_timeout_s())
        if first is not None:
            rest = self._consumer.consume(_BATCH_RECORDS, timeout=0)
            for message in (first, *rest):
                self._take(message)
        self._publisher.poll(0)
        self._probe()
        self._move_due()
        self._flow()
        if self._monotonic() >= self._next_commit_s:
            self._next_commit_s = self._monotonic() + self._limits.commit_interval_s
            self._commit()
            self._observer.look(self._held.values())

    # --- taking in ------------------------------------------------------------------------------

    def _poll_timeout_s(self) -> float:
        next_due_ms = self._queue.next_due_ms
        if next_due_ms is None:
            return _LONGEST_POLL_S
        return min(max(0.0, (next_due_ms - self._clock.now_ms()) / 1000), _LONGEST_POLL_S)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            _log.warning("relay.consumer.error", topic=message.topic(), error=error.str())
            return
        record = record_of(message)
        place = Partition(topic=record.topic, number=record.partition)
        owner = self._held.get(place)
        if owner is None:
            return
        done_before = owner.tracker.already_done(record.offset)
        owner.tracker.delivered(record.offset)
        if done_before:
            return
        counts = self._counts.get(owner.tier.due_topic)
        held = hold(record, owner.tier, partitions=counts, now_ms=self._clock.now_ms())
        self._observer.mended(held)
        entry = DueEntry(
            due_ms=held.wake_at_ms,
            partition=place,
            offset=record.offset,
            size_bytes=held.size_bytes,
            payload=InHand(held=held, owner=owner),
        )
        owner.entered(entry, append_time_ms(message))
        self._queue.push(entry)

    # --- handing on -----------------------------------------------------------------------------

    def _move_due(self) -> None:
        for _ in range(_BATCH_RECORDS):
            entry = self._queue.pop_due(self._clock.now_ms())
            if entry is None:
                return
            owner = entry.payload.owner
            if owner.stopped:
                owner.failed.append(entry)
            else:
                self._send(entry)

    def _probe(self) -> None:
        now_s = self._monotonic()
        for owner in self._held.values():
            if entry := owner.probe(now_s):
                self._send(entry)

    def _send(self, entry: Entry) -> None:
        now_ms = self._clock.now_ms()
        moved = move(entry.payload.held, now_ms=now_ms)
        ended = self.publishes.begun(self._limits.publish_timeout_s)

        def on_sent(error: PublishError | None) -> None:
            ended()
            self._on_sent(entry, moved, now_ms, error)

        self._publisher.send(moved.record, on_sent)

    def _on_sent(self, entry: Entry, moved: Moved, sent_ms: int, error: PublishError | None) -> None:
        owner = entry.payload.owner
        if owner.dropped:
            return
        if error is not None:
            if owner.fail(entry, self._monotonic()):
                _log.error(
                    "relay.partition.stopped",
                    topic=owner.place.topic,
                    partition=owner.place.number,
                    offset=entry.offset,
                    failures=owner.failures,
                    error=str(error),
                )
            return
        for waiting in owner.recovered(entry):
            self._queue.push(waiting)
        owner.left(entry)
        self._observer.moved(entry.payload.held, moved.move, sent_ms)

    # --- windows and commits --------------------------------------------------------------------

    def _flow(self) -> None:
        now_ms = self._clock.now_ms()
        full = self._queue.bytes >= self._limits.max_bytes
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        for owner in self._held.values():
            wait = owner.must_wait(now_ms) or (full and owner.records > 0)
            if wait != owner.paused:
                (pause if wait else resume).append(TopicPartition(owner.place.topic, owner.place.number))
                owner.paused = wait
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)

    def _commit(self) -> None:
        if self._committing:
            return
        offsets = self._offsets(tuple(self._held.values()))
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exc:
            self._on_commit(exc.args[0], offsets)

    def _offsets(self, owners: Sequence[HeldPartition]) -> list[TopicPartition]:
        offsets = []
        for owner in owners:
            commit = owner.tracker.snapshot() if owner.tracker.dirty else None
            if commit is not None:
                place = owner.place
                self._committing[place] = (owner, commit)
                offsets.append(TopicPartition(place.topic, place.number, commit.offset, commit.metadata))
        return offsets

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        committing, self._committing = self._committing, {}
        if error is not None:
            # Refused while the group changes hands, or the coordinator is away: the next one says it all.
            _log.info("relay.commit.refused", error=error.str())
            return
        for offset in offsets:
            found = committing.get(Partition(topic=offset.topic, number=offset.partition))
            if found is None or offset.error is not None:
                continue
            owner, commit = found
            if (offset.offset, offset.metadata or "") == (commit.offset, commit.metadata):
                owner.tracker.confirm(commit)

    # --- assignments ----------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._counts = self._asked(self._partition_counts, "partition counts") or self._counts
        committed = self._asked(
            lambda: consumer.committed(partitions, timeout=self._limits.request_timeout_s), "commits"
        )
        for place in committed if committed is not None else partitions:
            owner = HeldPartition(
                place=Partition(topic=place.topic, number=place.partition),
                tier=self._tiers[place.topic],
                window=self._limits.window,
            )
            refusal = owner.tracker.restore(place.offset if place.offset >= 0 else None, place.metadata or "")
            if refusal is not None:
                self._observer.refused_map(owner.tier, refusal)
            self._held[owner.place] = owner
        consumer.assign(partitions)
        # A partition that was paused when it was taken away would stay so.
        consumer.resume(partitions)
        self._joined = True
        _log.info("relay.assigned", partitions=len(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        owners = self._owners(partitions)
        self._settle(owners, self._limits.revoke_timeout_s)
        self._drop(owners)
        _log.info("relay.revoked", partitions=len(partitions))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop(self._owners(partitions))
        self._joined = False
        _log.warning("relay.lost", partitions=len(partitions))

    def _settle(self, owners: Sequence[HeldPartition], timeout_s: float) -> None:
        self.loop.beat(timeout_s + STUCK_S)
        self._publisher.flush(timeout_s)
        self._committing.clear()
        offsets = self._offsets(owners)
        if not offsets:
            return
        self.loop.beat(self._limits.sync_commit_s + STUCK_S)
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            # What is not committed is released once more by the next owner, and recognised.
            _log.warning("relay.commit.refused", error=exc.args[0].str())
        self._committing.clear()

    def _owners(self, partitions: Sequence[TopicPartition]) -> tuple[HeldPartition, ...]:
        places = (Partition(topic=place.topic, number=place.partition) for place in partitions)
        return tuple(owner for place in places if (owner := self._held.get(place)))

    def _drop(self, owners: Sequence[HeldPartition]) -> None:
        for owner in owners:
            owner.dropped = True
            self._held.pop(owner.place, None)
            self._queue.drop_partition(owner.place)

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
