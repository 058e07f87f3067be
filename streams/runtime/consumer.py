"""Faust's consumer, with our own idea of what is fetched, delivered, committed and handed over."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.runtime.allowance import Allowance
from streams.runtime.assignment import Assignment
from streams.runtime.consumer_thread import FATAL_ERRORS, Batch, TrackingConsumerThread
from streams.runtime.liveness import Vitals
from streams.runtime.lost_places import Jump

_log = structlog.get_logger(__name__)

_FETCH_WAIT_S = 0.25
_RETRY_S = 1.0
# Bounds how long the event loop is at them: an agent decodes all that one message carries in one turn.
_RECORDS_PER_MESSAGE = 32


class Gate(Protocol):
    """What the consumer needs of the intake: how much it may take, and letting go at a rebalance."""

    def room(self, topic: str, partition: int) -> int:
        """How many records may be taken from there now; 0 leaves the partition alone."""

    def room_of(self, topic: str) -> int:
        """How many records may be taken from all of the topic's partitions together."""

    async def wait_for_room(self, timeout_s: float) -> None:
        """Return when room may have appeared, at the latest after the timeout."""

    async def forget(self) -> None:
        """Forget everything taken; let publishes under way end (bounded)."""

    def on_fatal(self, error: BaseException) -> None:
        """Stop the worker with a non-zero exit code."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fetched:
    """A record as aiokafka gave it, and the assignment that it was fetched under."""

    tp: TP
    record: Any
    assignment: Assignment


class Handover(ConsumerMessage):
    """A Faust message that carries some records of one topic on to its agent.

    A message for each record cost a turn of the event loop, and an eighth of a busy worker's time.
    """

    __slots__ = ("fetched",)

    fetched: Sequence[Fetched]


class TrackingConsumer(driver.Consumer):
    """A consumer that never commits past work in flight and never drops a fetched record."""

    _thread: TrackingConsumerThread

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        app: Any = self.app  # a StreamApp; naming it would be a circular import
        self.gate: Gate = app.gate
        self.publish_timeout_s: float = app.publish_timeout_s
        self.vitals: Vitals = app.vitals
        #: By topic: records that Kafka deleted before they were read, in this process's life.
        self.missed: Counter[str] = Counter()
        self._current: Assignment | None = None
        self._taken_seen = 0
        self._revokes = 0
        self._commit_lock = asyncio.Lock()
        self._restore_lock = asyncio.Lock()

    def _new_consumer_thread(self) -> TrackingConsumerThread:
        return TrackingConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def current_assignment(self) -> Assignment | None:
        """What is owned now; None between a revoke and the next assign."""
        return self._current

    @property
    def has_partitions(self) -> bool:
        """Whether any partition is owned now."""
        return self._current is not None and bool(self._current.trackers)

    async def ends(self) -> Mapping[TP, int]:
        """Return the next offset of each partition that is owned; raises KafkaError when nobody answers."""
        assignment = self._current
        # Once it is being stopped there is no thread to ask any more.
        if self.should_stop or assignment is None or not assignment.trackers:
            return {}
        return await self._thread.highwaters(*assignment.trackers)

    def on_fatal(self, error: BaseException) -> None:
        """Stop the worker: what happened cannot pass."""
        self.gate.on_fatal(error)

    # --- fetching and delivering ------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Run Faust's fetch loop; replaces one that loses records fetched across a rebalance."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    # The rebalance has to end first, and is watched itself.
                    self.vitals.delivery.rest()
                    self.vitals.agents.rest()
                    await self.wait_first(self.can_resume_flow.wait())
                    continue
                await self._fetch_once()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    async def _fetch_once(self) -> None:
        # Every turn is a sign of life, one that takes nothing because nothing may be taken, too.
        self.vitals.delivery.beat()
        assignment = self._current
        if assignment is None:
            # Faust gives up its wait for the commits of an assignment after a while and resumes the flow.
            await self.perform_seek()
            await self.sleep(_FETCH_WAIT_S)
            return
        self._look_at_agents(assignment)
        allowance = self._allowance(assignment)
        if not allowance:
            await self._wait_for_room(assignment)
            return
        try:
            batch = await self._thread.fetch(allowance, _FETCH_WAIT_S)
        except FATAL_ERRORS as error:
            self.on_fatal(error)
            return
        except self.consumer_stopped_errors:
            raise
        except KafkaError as error:
            self.log.warning("fetch failed, trying again: %s", type(error).__name__)
            await self.sleep(_RETRY_S)
            return
        for tp, jump in batch.jumps.items():
            self._tell(tp, jump)
        await self._deliver(assignment, batch)

    def _tell(self, tp: TP, jump: Jump) -> None:
        """Say that Kafka no longer had what came next: the only way in which it loses an event."""
        self.missed[tp.topic] += jump.missed
        _log.error(
            "worker.records.missed",
            topic=tp.topic,
            partition=tp.partition,
            wanted=jump.wanted,
            oldest=jump.oldest,
            missed=jump.missed,
        )

    def _look_at_agents(self, assignment: Assignment) -> None:
        """Expect of the agents that they take something while anything is handed to them."""
        if not assignment.in_transit.total():
            self.vitals.agents.rest()
        elif assignment.taken != self._taken_seen or self.vitals.agents.is_resting:
            self.vitals.agents.beat()
        self._taken_seen = assignment.taken

    def _allowance(self, assignment: Assignment) -> Allowance:
        waiting = assignment.in_transit
        of_topic = {topic: self.gate.room_of(topic) for topic in {tp.topic for tp in assignment.trackers}}
        of_partition = {
            tp: room
            for tp, tracker in assignment.trackers.items()
            if not tracker.must_stop and (room := self.gate.room(tp.topic, tp.partition) - waiting[tp]) > 0
        }
        allowance = Allowance(of_partition=of_partition, of_topic=of_topic)
        for tp, count in waiting.items():
            allowance.took(tp, count)
        return allowance.open()

    async def _wait_for_room(self, assignment: Assignment) -> None:
        if not assignment.in_transit.total():
            await self.gate.wait_for_room(_FETCH_WAIT_S)
            return
        assignment.agent_took.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FETCH_WAIT_S):
                await assignment.agent_took.wait()

    async def _deliver(self, assignment: Assignment, batch: Batch) -> None:
        left = {tp: deque(records) for tp, records in batch.records.items()}
        try:
            for records in _by_message(left):
                if not self._owns(assignment):
                    break
                fresh: list[Fetched] = []
                for tp, record in records:
                    tracker = assignment.trackers[tp]
                    finished = tracker.already_done(record.offset)
                    tracker.delivered(record.offset)
                    left[tp].popleft()
                    if not finished:
                        assignment.in_transit[tp] += 1
                        fresh.append(Fetched(tp=tp, record=record, assignment=assignment))
                if fresh:
                    await self.callback(self._handover(fresh))
            if self._owns(assignment):
                for tp, position in batch.positions.items():
                    if not left.get(tp):
                        assignment.trackers[tp].advance(position)
        finally:
            undelivered = {tp: records[0].offset for tp, records in left.items() if records}
            if undelivered:
                await self._thread.seek_back(batch.generation, undelivered)

    def _owns(self, assignment: Assignment) -> bool:
        return self.flow_active and self._current is assignment

    def _handover(self, fetched: Sequence[Fetched]) -> Handover:
        """Return a message in the name of its first record: Faust asks where it is from and how old it is."""
        first = fetched[0].record
        message = Handover(
            topic=first.topic,
            partition=first.partition,
            offset=first.offset,
            timestamp=max(0, first.timestamp) / 1000,
            timestamp_type=first.timestamp_type,
            headers=None,
            key=None,
            value=None,
            checksum=None,
            tp=fetched[0].tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.fetched = fetched
        return message

    # --- committing -------------------------------------------------------------------------------

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what changed, watermark and done-map together; one commit at a time."""
        async with self._commit_lock:
            assignment = self._current
            commits = assignment.unconfirmed() if assignment is not None else {}
            if assignment is None or not commits:
                return False
            done = await self._thread.commit_offsets(assignment.generation, commits)
            if done:
                assignment.confirm(commits)
            return done

    async def _commit_bounded(self) -> None:
        try:
            async with asyncio.timeout(self.publish_timeout_s):
                await self.commit()
        except TimeoutError:
            self.log.warning("the last commit of the assignment did not end in time; its work may repeat")

    # --- rebalancing and stopping -----------------------------------------------------------------

    async def perform_seek(self) -> None:
        """Start the new assignment from what the group committed. Faust calls it before the flow resumes.

        What fails here is tried again by the fetch loop, which takes nothing before it succeeded.
        """
        async with self._restore_lock:
            if self._current is None:
                await self._restore()

    async def _restore(self) -> None:
        revokes = self._revokes
        try:
            generation, committed = await self._thread.committed()
        except FATAL_ERRORS as error:
            self.on_fatal(error)
            return
        except (KafkaError, TimeoutError) as error:
            self.log.warning("commits cannot be read, trying again: %s", type(error).__name__)
            return
        if revokes == self._revokes and generation == self.app.consumer_generation_id:
            self._current = Assignment.restore(generation, committed)
            for tp, refusal in self._current.refused_maps.items():
                self.log.warning("done-map of %s/%s not believed: %s", tp.topic, tp.partition, refusal)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let publishes under way end, commit, and forget the rest: nothing is carried over."""
        self._revokes += 1
        self.stop_flow()
        self.vitals.delivery.rest()
        self.vitals.agents.rest()
        self.app.flow_control.suspend()
        if self._current is not None:
            self._current.closed = True
        try:
            await self.gate.forget()
            await self._commit_bounded()
        finally:
            self._current = None
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let Faust resume the flow, and expect that it does."""
        self.vitals.delivery.beat()
        await super().on_partitions_assigned(assigned, generation_id)

    async def wait_empty(self) -> None:
        """Commit and return: the runner has drained already, and a rebalance forgets."""
        await self._commit_bounded()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: liveness is judged by streams.runtime.liveness, which knows of pauses."""


def _by_message(left: Mapping[TP, deque[Any]]) -> Iterator[Sequence[tuple[TP, Any]]]:
    """Yield what one message may carry at a time: records of one topic, its partitions' in turn."""
    for _, partitions in groupby(sorted(left), key=lambda tp: tp.topic):
        in_turn = _round_robin({tp: tuple(left[tp]) for tp in partitions})
        while some := tuple(islice(in_turn, _RECORDS_PER_MESSAGE)):
            yield some


def _round_robin(left: Mapping[TP, Sequence[Any]]) -> Iterator[tuple[TP, Any]]:
    """Yield each partition's next record in turn, so that no partition waits behind another's batch."""
    waiting = {tp: iter(records) for tp, records in left.items()}
    while waiting:
        for tp in tuple(waiting):
            record = next(waiting[tp], None)
            if record is None:
                del waiting[tp]
            else:
                yield tp, record
