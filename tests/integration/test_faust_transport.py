"""The Faust side without the dispatcher: what is delivered, committed and sought back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from faust.types import TP, Message
from structlog.testing import capture_logs

from sluicegate.delivery.done_map import DoneMap, decode
from sluicegate.delivery.offsets import Commit
from sluicegate.errors import BrokerError, PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.records import OutgoingRecord
from sluicegate.telemetry.pulse import TimedWork
from streams.runtime.app import AppPlan, StreamApp, build_app, register_agents
from streams.runtime.consumer import Fetched, TrackingConsumer
from streams.runtime.embedded import hold_back_leaders_sync
from streams.runtime.liveness import Vitals
from streams.runtime.producer import FaustPublisher, IdempotentProducer
from tests.fixtures.kafka import DeleteRecords, MakeTopics, create_real_topics
from tests.waiting import wait_until

PARTITIONS = 6
START_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def _groups_of_several_on_the_embedded_broker() -> None:
    hold_back_leaders_sync()


class OpenGate:
    """A gate that takes everything, holds it, and finishes what a test tells it to."""

    def __init__(self) -> None:
        self.taken: list[Fetched] = []
        self.fatal: list[BaseException] = []
        self.open = True
        self.finish: Callable[[Fetched], bool] = lambda fetched: True

    def room(self, topic: str, partition: int) -> int:
        """Take up to 100 at a time."""
        return 100 if self.open else 0

    def room_of(self, topic: str) -> int:
        """Take up to 100 of each topic at a time."""
        return 100 if self.open else 0

    async def wait_for_room(self, timeout_s: float) -> None:
        """Look again soon."""
        await asyncio.sleep(0)

    async def forget(self) -> None:
        """Hold nothing back at a rebalance."""

    def on_fatal(self, error: BaseException) -> None:
        """Remember what would have stopped the worker."""
        self.fatal.append(error)

    def take(self, fetched: Fetched) -> None:
        """Take one record and finish it if the test wants that."""
        if fetched.assignment.closed:
            return
        self.taken.append(fetched)
        if self.finish(fetched):
            fetched.assignment.trackers[fetched.tp].done(fetched.record.offset)

    def places(self) -> Counter[tuple[str, int, int]]:
        """Count how often each record was taken."""
        records = [fetched.record for fetched in self.taken]
        return Counter((record.topic, record.partition, record.offset) for record in records)


def plan_for(kafka: str, prefix: str) -> AppPlan:
    """Return the plan of a stream whose topics begin with the prefix."""
    return AppPlan(
        bootstrap_servers=kafka,
        group=f"{prefix}.group",
        input_topic=f"{prefix}.in",
        due_topic=f"{prefix}.due",
        session_timeout_s=6.0,
        rebalance_timeout_s=10.0,
        publish_timeout_s=10.0,
        max_request_bytes=2_000_000,
    )


@asynccontextmanager
async def running(plan: AppPlan, gate: OpenGate, vitals: Vitals | None = None) -> AsyncIterator[StreamApp]:
    """Run one app until the block ends."""
    app = build_app(plan, gate, vitals or Vitals())
    register_agents(app, plan, gate.take)
    app.finalize()
    app.in_worker = True
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def consumer_of(app: StreamApp) -> TrackingConsumer:
    """Return the app's consumer as what it is."""
    consumer = app.consumer
    assert isinstance(consumer, TrackingConsumer)
    return consumer


def assigned(app: StreamApp) -> set[tuple[str, int]]:
    """Return what the app owns now."""
    current = consumer_of(app).current_assignment
    return set() if current is None else {(tp.topic, tp.partition) for tp in current.trackers}


def publish(kafka: str, topic: str, count: int) -> None:
    """Publish records round-robin over the partitions, from a plain client."""
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(count):
        producer.produce(topic, key=b"%d" % number, value=b"{}", partition=number % PARTITIONS)
    assert producer.flush(20) == 0


@pytest.fixture
def plan(kafka: str, prefix: str, make_topics: MakeTopics) -> AppPlan:
    """Make the two topics of a stream."""
    plan = plan_for(kafka, prefix)
    make_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    return plan


async def test_a_restart_runs_again_only_what_was_unfinished(kafka: str, plan: AppPlan) -> None:
    """The done-map in the commit's metadata spares what finished above the watermark."""
    publish(kafka, plan.input_topic, 60)
    first = OpenGate()
    first.finish = lambda fetched: fetched.record.offset % 5 != 0  # 0 and 5 of each stay open
    async with running(plan, first):
        await wait_until(lambda: len(first.taken) == 60, timeout_s=START_S)
    second = OpenGate()
    async with running(plan, second):
        await wait_until(lambda: len(second.taken) >= 2 * PARTITIONS, timeout_s=START_S)
    assert {offset for _, _, offset in second.places()} == {0, 5}
    assert len(second.taken) == 2 * PARTITIONS


async def test_the_commit_never_passes_an_unfinished_record(kafka: str, plan: AppPlan) -> None:
    """The head of a partition that never finishes stays uncommitted, whatever finishes behind it."""
    publish(kafka, plan.input_topic, 60)
    gate = OpenGate()
    gate.finish = lambda fetched: fetched.record.offset != 3
    async with running(plan, gate):
        await wait_until(lambda: len(gate.taken) == 60, timeout_s=START_S)
    reader = Consumer({"bootstrap.servers": kafka, "group.id": plan.group})
    wanted = [TopicPartition(plan.input_topic, number) for number in range(PARTITIONS)]
    places = reader.committed(wanted, timeout=20)
    reader.close()
    assert {place.offset for place in places} == {3}
    # Other clients read exactly the map that was committed, however their libraries keep strings.
    assert {decode(3, place.metadata or "").done for place in places} == {DoneMap.of(3, range(4, 10))}


async def test_no_record_is_lost_when_members_join_before_the_first_commit(kafka: str, plan: AppPlan) -> None:
    """A young group rebalances while fetches are under way and nothing was ever committed."""
    gates = [OpenGate(), OpenGate(), OpenGate()]
    for gate in gates:
        gate.finish = lambda fetched: False
    publish(kafka, plan.input_topic, 300)
    async with running(plan, gates[0]):
        await wait_until(lambda: len(gates[0].taken) > 0, timeout_s=START_S)
        async with running(plan, gates[1]):
            publish(kafka, plan.input_topic, 300)
            async with running(plan, gates[2]):
                publish(kafka, plan.input_topic, 300)
                seen: Counter[tuple[str, int, int]] = Counter()

                def all_seen() -> bool:
                    seen.clear()
                    for gate in gates:
                        seen.update(gate.places())
                    return len(seen) == 900

                await wait_until(all_seen, timeout_s=60, what="every record reached some member")
    assert not any(gate.fatal for gate in gates)


async def test_what_was_fetched_and_not_delivered_is_fetched_again(kafka: str, plan: AppPlan) -> None:
    """A flow that stops in the middle of a batch, as at every rebalance, skips none of its rest."""
    publish(kafka, plan.input_topic, 300)
    gate = OpenGate()
    async with running(plan, gate) as app:
        consumer = consumer_of(app)
        deliver, stops = consumer.callback, [0]

        async def deliver_and_stop(message: Message) -> None:
            await deliver(message)
            if stops[0] < 3:
                stops[0] += 1
                consumer.stop_flow()
                asyncio.get_running_loop().call_soon(consumer.resume_flow)

        consumer.callback = deliver_and_stop
        await wait_until(lambda: len(gate.places()) == 300, timeout_s=START_S)
    assert stops[0] > 0
    assert set(gate.places().values()) == {1}


async def test_input_and_due_of_one_partition_are_always_on_one_worker(
    kafka: str, prefix: str, make_topics: MakeTopics
) -> None:
    """The Range assignor gives both topics' partition p to one member, so that one lane sees both."""
    plan = plan_for(kafka, prefix)
    # Of an odd number: an even one looks right between two members with assignors that are wrong, too.
    make_topics({plan.input_topic: 5, plan.due_topic: 5})
    gates = [OpenGate(), OpenGate()]
    async with running(plan, gates[0]) as one, running(plan, gates[1]) as other:
        await wait_until(
            lambda: bool(assigned(one)) and bool(assigned(other)), timeout_s=START_S, what="both have work"
        )
        for app in (one, other):
            numbers = {topic: set[int]() for topic in (plan.input_topic, plan.due_topic)}
            for topic, number in assigned(app):
                numbers[topic].add(number)
            assert numbers[plan.input_topic] == numbers[plan.due_topic] != set()


async def test_a_closed_gate_leaves_records_in_kafka_and_an_open_one_takes_them_all(
    kafka: str, plan: AppPlan
) -> None:
    """Backpressure is a partition that is not fetched; nothing is skipped when it is fetched again."""
    publish(kafka, plan.input_topic, 30)
    gate = OpenGate()
    gate.open = False
    async with running(plan, gate) as app:
        await wait_until(lambda: len(assigned(app)) == 2 * PARTITIONS, timeout_s=START_S)
        assert gate.taken == []
        gate.open = True
        await wait_until(lambda: len(gate.taken) == 30, timeout_s=START_S)
    assert set(gate.places().values()) == {1}


async def test_tombstones_and_records_without_a_key_reach_the_agent(kafka: str, plan: AppPlan) -> None:
    """Faust decodes nothing, so that nothing can be acknowledged behind our back."""
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(plan.input_topic, key=b"k", value=None, partition=0)
    producer.produce(plan.input_topic, key=None, value=b"\xff\xfe", partition=0, headers=[("h", None)])
    assert producer.flush(20) == 0
    gate = OpenGate()
    async with running(plan, gate):
        await wait_until(lambda: len(gate.taken) == 2, timeout_s=START_S)
    records = [fetched.record for fetched in gate.taken]
    assert [(record.key, record.value) for record in records] == [(b"k", None), (None, b"\xff\xfe")]


async def test_a_publish_returns_when_the_broker_has_the_record(kafka: str, plan: AppPlan) -> None:
    """What was confirmed is there for another client, on the partition that was asked for."""
    gate, place = OpenGate(), TopicPartition(plan.due_topic, 4)
    other = Consumer({"bootstrap.servers": kafka, "group.id": f"{plan.group}.other"})
    async with running(plan, gate) as app:
        assert other.get_watermark_offsets(place, timeout=20) == (0, 0)
        publisher = FaustPublisher(lambda: app, timeout_s=10, watched=TimedWork("publish"))
        await publisher.publish(
            OutgoingRecord(topic=plan.due_topic, key=b"k", value=b"v", headers=(("a", b"b"),), partition=4)
        )
        # Asked without letting the event loop turn: the producer can do nothing more meanwhile.
        assert other.get_watermark_offsets(place, timeout=20) == (0, 1)
        other.close()
        await wait_until(lambda: len(gate.taken) == 1, timeout_s=START_S)
    [fetched] = gate.taken
    assert (fetched.record.topic, fetched.record.partition, fetched.record.value) == (plan.due_topic, 4, b"v")


@pytest.mark.real_kafka
async def test_a_static_member_comes_back_unnoticed_and_yields_to_its_successor(
    real_kafka: str, prefix: str
) -> None:
    """With a lasting name a restart moves no partition; of two with one name the older one gives up."""
    plan = replace(plan_for(real_kafka, prefix), session_timeout_s=20.0)
    create_real_topics(real_kafka, {plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    first, neighbour = replace(plan, instance_id="worker-0"), replace(plan, instance_id="worker-1")
    async with running(neighbour, OpenGate()) as other:
        async with running(first, OpenGate()) as one:
            await wait_until(
                lambda: len(assigned(one)) == len(assigned(other)) == PARTITIONS, timeout_s=START_S
            )
            before, undisturbed = assigned(one), consumer_of(other).current_assignment
        gates = [OpenGate(), OpenGate()]
        async with running(first, gates[0]) as again:
            await wait_until(lambda: assigned(again) == before, timeout_s=START_S)
            async with running(first, gates[1]) as successor:
                await wait_until(lambda: assigned(successor) == before, timeout_s=START_S)
                await wait_until(lambda: bool(gates[0].fatal), timeout_s=START_S, what="the older gives up")
                assert isinstance(gates[0].fatal[0], BrokerError)
                assert gates[1].fatal == []
        assert consumer_of(other).current_assignment is undisturbed


@pytest.mark.real_kafka
async def test_a_refused_record_does_not_close_its_partition_to_those_after_it(
    real_kafka: str, prefix: str
) -> None:
    """G1: behind a gap in what a producer sends the broker takes nothing, and it refuses whole batches."""
    plan, topic = plan_for(real_kafka, prefix), f"{prefix}.small"
    create_real_topics(real_kafka, {plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    create_real_topics(real_kafka, {topic: 1}, {"max.message.bytes": "2000"})
    async with running(plan, OpenGate()) as app:
        publisher = FaustPublisher(lambda: app, timeout_s=10, watched=TimedWork("publish"))
        small = OutgoingRecord(topic=topic, key=b"k", value=b"v", headers=())
        await publisher.publish(small)
        with pytest.raises(RecordTooLargeError):
            await publisher.publish(replace(small, value=b"v" * 3000))
        for _ in range(3):
            await publisher.publish(small)
        together = [publisher.publish(replace(small, value=b"v" * 500)) for _ in range(20)]
        await asyncio.gather(*together)
    stored = Consumer({"bootstrap.servers": real_kafka, "group.id": prefix})
    assert stored.get_watermark_offsets(TopicPartition(topic, 0), timeout=20) == (0, 24)
    stored.close()


async def test_a_producer_that_ended_is_no_reason_to_try_again(
    embedded_broker: EmbeddedBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing is repeated until the broker confirms; without a sender that would be for ever."""
    plan = plan_for(embedded_broker.address, prefix)
    embedded_broker.create_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    async with running(plan, OpenGate()) as app:
        producer = app.producer
        assert isinstance(producer, IdempotentProducer)
        accumulator = producer._ensure_producer()._message_accumulator
        monkeypatch.setattr(accumulator, "drain_by_nodes", None)
        publisher = FaustPublisher(lambda: app, timeout_s=10, watched=TimedWork("publish"))
        record = OutgoingRecord(topic=plan.due_topic, key=b"k", value=b"v", headers=())
        with pytest.raises(PublishRefusedError):
            await publisher.publish(record)


async def test_a_topic_that_is_not_known_yet_is_a_reason_to_try_again(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """A worker outlives a broker that is away when it parks to a tier for the first time."""
    plan, later = plan_for(embedded_broker.address, prefix), f"{prefix}.later"
    plan = replace(plan, publish_timeout_s=1.0)
    embedded_broker.create_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS, later: 1})
    async with running(plan, OpenGate()) as app:
        publisher = FaustPublisher(lambda: app, timeout_s=10, watched=TimedWork("publish"))
        record = OutgoingRecord(topic=later, key=b"k", value=b"v", headers=())
        embedded_broker.down()
        try:
            with pytest.raises(PublishError) as given_up:
                await publisher.publish(record)
        finally:
            embedded_broker.up()
        assert not isinstance(given_up.value, PublishRefusedError)
        await publisher.publish(record)


async def test_records_that_kafka_deleted_unread_are_told_and_the_oldest_left_comes_next(
    kafka: str, plan: AppPlan, delete_records: DeleteRecords
) -> None:
    """An offset out of range is never passed over in silence, nor answered with the end of the topic."""
    publish(kafka, plan.input_topic, 10 * PARTITIONS)
    first = OpenGate()
    async with running(plan, first):
        await wait_until(lambda: len(first.taken) == 10 * PARTITIONS, timeout_s=START_S)
    publish(kafka, plan.input_topic, 10 * PARTITIONS)
    delete_records(plan.input_topic, 2, 17)
    gate = OpenGate()
    with capture_logs() as logs:
        async with running(plan, gate) as app:
            await wait_until(lambda: len(gate.taken) == 10 * PARTITIONS - 7, timeout_s=START_S)
            missed = consumer_of(app).missed
    assert {offset for _, number, offset in gate.places() if number == 2} == {17, 18, 19}
    assert set(gate.places().values()) == {1}
    assert missed == {plan.input_topic: 7}
    told = [entry for entry in logs if entry["event"] == "worker.records.missed"]
    assert [(entry["partition"], entry["wanted"], entry["oldest"]) for entry in told] == [(2, 10, 17)]
    assert gate.fatal == []


async def test_a_worker_that_is_stopped_is_asked_for_its_partitions_ends_without_a_crash(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """Metrics are looked after until the very end, when the consumer's thread is gone."""
    plan = plan_for(embedded_broker.address, prefix)
    embedded_broker.create_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    async with running(plan, OpenGate()) as app:
        await wait_until(lambda: len(assigned(app)) == 2 * PARTITIONS, timeout_s=START_S)
        consumer = consumer_of(app)
        assert set((await consumer.ends()).values()) == {0}
    assert await consumer.ends() == {}


async def test_a_commit_of_an_earlier_generation_is_refused(kafka: str, plan: AppPlan) -> None:
    """A zombie's last word does not move what its successor works from."""
    publish(kafka, plan.input_topic, 60)
    gate = OpenGate()
    gate.finish = lambda message: False
    async with running(plan, gate) as app:
        await wait_until(lambda: len(gate.taken) == 60, timeout_s=START_S)
        thread, place = consumer_of(app)._thread, TP(plan.input_topic, 0)
        generation = app.consumer_generation_id
        assert not await thread.commit_offsets(
            generation - 1, {place: Commit(offset=9, metadata="", version=0)}
        )
        assert await thread.commit_offsets(generation, {place: Commit(offset=1, metadata="", version=0)})
        _, committed = await thread.committed()
    assert committed[place].offset == 1
