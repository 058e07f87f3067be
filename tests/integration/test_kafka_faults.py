"""What Kafka does to a worker: leaders and coordinators that move, and produce requests that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.records import OutgoingRecord
from sluicegate.telemetry.pulse import TimedWork
from streams.runtime.app import AppPlan
from streams.runtime.producer import FaustPublisher
from tests.integration.test_faust_transport import (
    PARTITIONS,
    START_S,
    OpenGate,
    plan_for,
    publish,
    running,
)
from tests.waiting import wait_until

BROKERS = 3
TOO_LARGE, TOO_FEW_REPLICAS, NOT_AUTHORIZED = 10, 19, 29


@pytest.fixture
def cluster(prefix: str) -> Iterator[tuple[EmbeddedBroker, AppPlan]]:
    """Return three brokers of the test's own, and the plan of a worker on them."""
    with EmbeddedBroker(brokers=BROKERS) as cluster:
        plan = plan_for(cluster.address, prefix)
        cluster.create_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
        yield cluster, plan


def has_taken(gate: OpenGate, count: int) -> bool:
    """Whether so many records were taken, each of them once or more."""
    return len(gate.places()) == count


async def test_leaders_and_the_coordinator_move_and_every_record_is_still_taken(
    cluster: tuple[EmbeddedBroker, AppPlan],
) -> None:
    """A reassignment of partitions or a broker that leaves is no fault: clients follow, and publishes too."""
    brokers, plan = cluster
    gate, record = OpenGate(), OutgoingRecord(topic=plan.due_topic, key=b"k", value=b"v", partition=0)
    async with running(plan, gate) as app:
        publisher = FaustPublisher(lambda: app, timeout_s=20, watched=TimedWork("publish"))
        publish(brokers.address, plan.input_topic, 60)
        await wait_until(lambda: len(gate.places()) == 60, timeout_s=START_S)
        for leader in range(1, BROKERS + 1):
            brokers.move_coordinator(plan.group, leader)
            for topic in (plan.input_topic, plan.due_topic):
                for partition in range(PARTITIONS):
                    brokers.move_leader(topic, partition, leader)
            publish(brokers.address, plan.input_topic, 60)
            await publisher.publish(record)
            await wait_until(partial(has_taken, gate, 60 + leader * 61), timeout_s=START_S)
    assert gate.fatal == []
    reader = Consumer({"bootstrap.servers": brokers.address, "group.id": plan.group})
    wanted = [TopicPartition(plan.input_topic, number) for number in range(PARTITIONS)]
    assert {place.offset for place in reader.committed(wanted, timeout=20)} == {40}
    reader.close()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        pytest.param([TOO_FEW_REPLICAS] * 2, None, id="too-few-replicas-for-a-moment"),
        pytest.param([NOT_AUTHORIZED], PublishRefusedError, id="not-authorized"),
        # Once in company and once alone.
        pytest.param([TOO_LARGE] * 2, RecordTooLargeError, id="too-large"),
    ],
)
async def test_a_produce_that_the_broker_refuses_is_repeated_or_said(
    cluster: tuple[EmbeddedBroker, AppPlan], answers: list[int], error: type[PublishError] | None
) -> None:
    """G1: what may pass is tried again until it is stored once; what will not is an error, never an ack."""
    brokers, plan = cluster
    place, record = (
        TopicPartition(plan.due_topic, 0),
        OutgoingRecord(topic=plan.due_topic, key=b"k", value=b"v"),
    )
    async with running(plan, OpenGate()) as app:
        publisher = FaustPublisher(lambda: app, timeout_s=20, watched=TimedWork("publish"))
        brokers.fail(Request.PRODUCE, answers)
        if error is None:
            await publisher.publish(record)
        else:
            with pytest.raises(error):
                await publisher.publish(record)
            await publisher.publish(record)
    reader = Consumer({"bootstrap.servers": brokers.address, "group.id": "reader"})
    ends = [
        reader.get_watermark_offsets(TopicPartition(place.topic, number), timeout=20)[1]
        for number in range(PARTITIONS)
    ]
    reader.close()
    assert sum(ends) == 1
