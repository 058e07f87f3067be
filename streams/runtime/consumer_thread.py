"""The thread in which aiokafka runs: fetching, seeking and committing, without losing a record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import aiokafka
from aiokafka import errors
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from sluicegate.delivery.offsets import Commit
from sluicegate.errors import BrokerError
from streams.runtime.allowance import Allowance
from streams.runtime.assignment import Committed
from streams.runtime.liveness import Vitals, ticking
from streams.runtime.lost_places import Jump, LostPlaces, begin_at_the_oldest
from streams.runtime.watching import Patience, watch_coordinator, watch_fetcher

_FETCH_MAX_WAIT_MS = 500
_COMMIT_TIMEOUT_S = 10.0
_REJOIN_BACKOFF_S = 1.0
_LETTING_GO_S = 10.0
# librdkafka's readers take commit metadata for a C string and run past the end of one that is not
# terminated; its own commits end with this, so ours do too.
_END = "\0"

# What no retry cures: a person has to change rights, names or settings.
FATAL_ERRORS = (
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.InvalidGroupIdError,
    errors.InconsistentGroupProtocolError,
    errors.InvalidSessionTimeoutError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records taken from the fetcher, and under which generation: those not delivered must be sought back.

    `jumps` holds the partitions that go on elsewhere, because Kafka had nothing where they were.
    """

    generation: int
    records: Mapping[TP, list[Any]]
    positions: Mapping[TP, int]
    jumps: Mapping[TP, Jump]


class OwnApp(Protocol):
    """What the thread asks of its app: its name as a static member, and aiokafka's security arguments.

    An `instance_id` of None is an ordinary member.
    """

    instance_id: str | None
    security: Mapping[str, Any]


class Watched(Protocol):
    """What the thread asks of its app: where to show that it moves, and what a revoke waits for."""

    vitals: Vitals
    publish_timeout_s: float


class FatalListener(Protocol):
    """Who has to know what the thread cannot go on with; it lives in the main thread."""

    def on_fatal(self, error: BaseException) -> None:
        """Stop the worker."""


class TrackingConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka with the Range assignor, read_committed, and an eye on its coordinator."""

    _turn = 0
    _tick: asyncio.Task[None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lost_places = LostPlaces()

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=self._instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            # Range keeps input/p and due/p on one member; sticky and round-robin do not.
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
            # We go to the oldest record ourselves: aiokafka would not tell what was deleted unread.
            auto_offset_reset="none",
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            isolation_level="read_committed",
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **cast(OwnApp, self.app).security,
        )

    @property
    def _instance_id(self) -> str | None:
        return cast(OwnApp, self.app).instance_id

    async def on_start(self) -> None:
        """Start the consumer and watch its coordinator and its fetcher."""
        self._tick = asyncio.create_task(ticking(self._vitals.thread))
        while not self.should_stop:
            try:
                await super().on_start()
                break
            except errors.KafkaConnectionError as error:
                # Left to Faust it crashes the app, in this thread, while the app's start returns as if well.
                self.log.warning("Kafka is not reachable, trying again: %s", type(error).__name__)
                await self._ensure_consumer().stop()
                await self.sleep(_REJOIN_BACKOFF_S)
        if self.should_stop:
            return
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        watch_coordinator(coordinator, self._vitals, self._patience)
        watch_fetcher(consumer._fetcher, self._vitals, self._patience)
        coordinator._push_error_to_user = self._on_coordinator_error
        if self._instance_id is not None:
            coordinator.reset_generation = self._fenced(coordinator, coordinator.reset_generation)
        coordinator._coordination_task.add_done_callback(self._on_routine_ended)
        consumer._fetcher._fetch_task.add_done_callback(self._on_routine_ended)

    async def on_thread_stop(self) -> None:
        """Leave the group."""
        try:
            await super().on_thread_stop()
        finally:
            if self._tick is not None:
                self._tick.cancel()
            self._vitals.leave()

    @property
    def _vitals(self) -> Vitals:
        return cast(Watched, self.app).vitals

    @property
    def _patience(self) -> Patience:
        conf = self.app.conf
        return Patience(
            session_timeout_s=conf.broker_session_timeout,
            request_timeout_s=conf.broker_request_timeout,
            # Publishes under way and the last commit have the timeout each; the rest is Faust's.
            revoke_s=2 * cast(Watched, self.app).publish_timeout_s + _LETTING_GO_S,
        )

    def _fenced(self, coordinator: Any, reset: Callable[[], None]) -> Callable[[], None]:
        """Stop a static member that lost its place, instead of letting it join again.

        aiokafka's heartbeats carry no instance id, so one whose id was taken over is only told that it is
        unknown. Joining anew it would throw out its successor, which would do the same, for ever.
        """

        def lost() -> None:
            if coordinator.generation > 0 and not coordinator._closing.done():
                coordinator._closing.set_result(None)
                self._stop_worker(
                    BrokerError(
                        f"the group has no member {self._instance_id} of ours any more: another process took "
                        "[kafka] instance_id over, or no heartbeat came through for session_timeout_s"
                    )
                )
            reset()

        return lost

    async def _on_coordinator_error(self, error: BaseException) -> None:
        """Replace aiokafka's answer, which parks until a poll that Faust never makes.

        What cannot pass stops the worker; anything else is tried again by joining anew, since a heartbeat
        that ended with an error is not started again before the next join.
        """
        if isinstance(error, FATAL_ERRORS):
            self._stop_worker(error)
            await self._ensure_consumer()._coordinator._closing
            return
        self.log.warning("group coordination failed, trying again: %s", type(error).__name__)
        self._vitals.rebalance.beat()
        await asyncio.sleep(_REJOIN_BACKOFF_S)
        self._ensure_consumer()._coordinator.request_rejoin()

    def _on_routine_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop_worker(error)

    def _stop_worker(self, error: BaseException) -> None:
        listener = cast(FatalListener, self.consumer)
        self.parent_loop.call_soon_threadsafe(listener.on_fatal, error)

    # --- called from the main thread --------------------------------------------------------------

    async def fetch(self, allowance: Allowance, timeout_s: float) -> Batch:
        """Take what is allowed, evenly from all that have records; wait up to `timeout_s` for a first one."""
        batch: Batch = await self.call_thread(self._fetch, allowance, timeout_s)
        return batch

    async def seek_back(self, generation: int, offsets: Mapping[TP, int]) -> None:
        """Make records that were taken but never delivered be fetched again."""
        await self.call_thread(self._seek_back, generation, offsets)

    async def committed(self) -> tuple[int, Mapping[TP, Committed]]:
        """Seek every assigned partition to its commit; return the generation and the commits."""
        found: tuple[int, Mapping[TP, Committed]] = await self.call_thread(self._seek_to_committed)
        return found

    async def commit_offsets(self, generation: int, commits: Mapping[TP, Commit]) -> bool:
        """Commit offsets with their done-maps; False when it did not succeed and may be tried again."""
        done: bool = await self.call_thread(self._commit_offsets, generation, commits)
        return done

    # --- run in the consumer's thread -------------------------------------------------------------

    async def _fetch(self, allowance: Allowance, timeout_s: float) -> Batch:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise errors.ConsumerStoppedError
        jumps = await self._lost_places.find(consumer)
        wanted = {driver.ensure_aiokafka_TP(tp): tp for tp in allowance.of_partition}
        records: dict[TP, list[Any]] = {}
        with fetcher._subscriptions.fetch_context():
            # One partition at a time: a single call would drain the first one's whole batch before the rest.
            ready = self._in_turn([tp for tp in fetcher._records if tp in wanted])
            failed: errors.KafkaError | None = None
            while ready:
                tp = ready.pop()
                share = allowance.share(wanted[tp], [wanted[other] for other in ready])
                if share <= 0:
                    continue
                try:
                    got = await fetcher.fetched_records([tp], timeout=0, max_records=share)
                except errors.KafkaError as error:
                    # What the others gave must be delivered: their positions have moved.
                    failed = failed if self._lost_places.note(error, consumer) else error
                    continue
                self._collect(records, got)
                allowance.took(wanted[tp], sum(map(len, got.values())))
            if failed is not None and not records and not jumps:
                raise failed
            if not records and not jumps:
                try:
                    got = await fetcher.fetched_records(
                        list(wanted), timeout=timeout_s, max_records=allowance.least()
                    )
                except errors.KafkaError as error:
                    if not self._lost_places.note(error, consumer):
                        raise
                else:
                    self._collect(records, got)
        # No suspension between taking the last record and reading generation and positions.
        positions = {}
        for tp in wanted:
            if consumer._subscription.is_assigned(tp):
                position = consumer._subscription.subscription.assignment.state_value(tp)._position
                if position is not None:
                    positions[TP(tp.topic, tp.partition)] = position
        return Batch(
            generation=consumer._coordinator.generation, records=records, positions=positions, jumps=jumps
        )

    def _in_turn(self, ready: list[Any]) -> list[Any]:
        """Begin with another one each time: the first may take all there is room for."""
        self._turn += 1
        first = self._turn % max(1, len(ready))
        return ready[first:] + ready[:first]

    @staticmethod
    def _collect(records: dict[TP, list[Any]], got: Mapping[Any, list[Any]]) -> None:
        for tp, taken in got.items():
            records.setdefault(TP(tp.topic, tp.partition), []).extend(taken)

    async def _seek_back(self, generation: int, offsets: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        if consumer._coordinator.generation != generation:
            return  # a newer assignment starts from the commit anyway
        for tp, offset in offsets.items():
            partition = driver.ensure_aiokafka_TP(tp)
            if consumer._subscription.is_assigned(partition):
                state = consumer._subscription.subscription.assignment.state_value(partition)
                if state._position is not None and state._position > offset:
                    consumer._fetcher.seek_to(partition, offset)

    async def _seek_to_committed(self) -> tuple[int, Mapping[TP, Committed]]:
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        generation = coordinator.generation
        partitions = set(consumer._subscription.assigned_partitions())
        async with asyncio.timeout(_COMMIT_TIMEOUT_S):
            commits = await coordinator.fetch_committed_offsets(list(partitions))
        if coordinator.generation != generation:
            return (
                coordinator.generation,
                {},
            )  # a rebalance came between: what it assigned is not to be sought by this
        found = {}
        for tp in partitions:
            commit = commits.get(tp)
            known = commit is not None and commit.offset >= 0
            found[TP(tp.topic, tp.partition)] = Committed(
                offset=commit.offset if known else None,
                metadata=commit.metadata.rstrip(_END) if known else "",
            )
            if not consumer._subscription.is_assigned(tp):
                continue
            if known:
                consumer._fetcher.seek_to(tp, commit.offset)
            else:
                # Never committed: begin at the beginning (again), or what was fetched and dropped is lost.
                begin_at_the_oldest(consumer, tp)
        return generation, found

    async def _commit_offsets(self, generation: int, commits: Mapping[TP, Commit]) -> bool:
        consumer = self._ensure_consumer()
        if consumer._coordinator.generation != generation:
            return False
        offsets = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(commit.offset, commit.metadata + _END)
            for tp, commit in commits.items()
        }
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await consumer.commit(offsets)
        except FATAL_ERRORS as error:
            self._stop_worker(error)
            return False
        except (errors.CommitFailedError, errors.IllegalStateError) as error:
            self.log.info("commit refused, the group is rebalancing: %s", type(error).__name__)
            return False
        except errors.OffsetMetadataTooLargeError:
            # The broker's offset.metadata.max.bytes is lower than ours: work above the watermark repeats.
            self.log.error(
                "the broker refuses done-maps: raise its offset.metadata.max.bytes to 4096 or more"
            )
            return await self._commit_offsets(
                generation, {tp: replace(commit, metadata="") for tp, commit in commits.items()}
            )
        except (errors.KafkaError, TimeoutError) as error:
            self.log.warning("commit failed, trying again: %s", type(error).__name__)
            return False
        return True
