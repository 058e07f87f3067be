"""Confirmed publishing, on the embedded broker and on real Kafka."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.records import OutgoingRecord
from tests.fixtures.kafka import MakeTopics

_CLUSTER_AUTHORIZATION_FAILED = 31
_MSG_SIZE_TOO_LARGE = 10


def _read(address: str, topic: str, partitions: int, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found = consumer.consume(count, timeout=10)
    consumer.close()
    return found


async def test_published_record_is_stored_as_given(kafka: str, make_topics: MakeTopics, prefix: str) -> None:
    """Key, value, headers and the chosen partition arrive unchanged, repeated headers in their order."""
    make_topics({prefix: 3})
    headers = (("a", b"1"), ("a", b"2"), ("b", b"\xff"))
    with ConfluentPublisher(kafka, client_id="test") as publisher:
        await publisher.publish(
            OutgoingRecord(topic=prefix, key=b"k", value=b"v", headers=headers, partition=2)
        )
    (message,) = _read(kafka, prefix, 3, 1)
    assert (message.partition(), message.key(), message.value()) == (2, b"k", b"v")
    assert tuple(message.headers() or ()) == headers


@pytest.mark.parametrize(
    ("key", "partition"), [(b"conversation-1", 6), (b"conversation-2", 9), (b"\x00\xff", 1)]
)
def test_key_chooses_the_partition_as_java_does(
    embedded_broker: EmbeddedBroker, prefix: str, key: bytes, partition: int
) -> None:
    """A key lies where murmur2 puts it: (hash & 0x7fffffff) mod 12, figures from aiokafka's own code."""
    embedded_broker.create_topics({prefix: 12})
    with ConfluentPublisher(embedded_broker.address, client_id="test") as publisher:
        assert publisher.publish_all([OutgoingRecord(topic=prefix, key=key, value=b"v")]) == (None,)
    (message,) = _read(embedded_broker.address, prefix, 12, 1)
    assert message.partition() == partition


async def test_many_publishes_side_by_side_are_all_confirmed(
    kafka: str, make_topics: MakeTopics, prefix: str
) -> None:
    """Publishes that run together share round trips and each returns only for its own record."""
    make_topics({prefix: 2})
    with ConfluentPublisher(kafka, client_id="test") as publisher:
        async with asyncio.TaskGroup() as group:
            for index in range(200):
                record = OutgoingRecord(topic=prefix, key=b"%d" % index, value=b"v")
                group.create_task(publisher.publish(record))
    assert len(_read(kafka, prefix, 2, 200)) == 200


async def test_record_too_large_for_its_topic_is_refused(
    kafka: str, make_topics: MakeTopics, embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """A record that the topic never will take is refused, and its neighbour in the batch is stored."""
    make_topics({prefix: 1}, {"max.message.bytes": "1000"})
    large = OutgoingRecord(topic=prefix, key=b"k", value=b"x" * 2000)
    with ConfluentPublisher(kafka, client_id="test") as publisher:
        if kafka == embedded_broker.address:
            embedded_broker.fail(Request.PRODUCE, [_MSG_SIZE_TOO_LARGE])
        with pytest.raises(RecordTooLargeError):
            await publisher.publish(large)
        await publisher.publish(OutgoingRecord(topic=prefix, key=b"k", value=b"small"))
    (message,) = _read(kafka, prefix, 1, 1)
    assert message.value() == b"small"


def test_broker_that_stays_away_is_an_unknown_outcome() -> None:
    """Without a confirmation the outcome is a PublishError within the timeout, never a refusal."""
    with EmbeddedBroker({"a": 1}) as broker:
        publisher = ConfluentPublisher(broker.address, client_id="test", timeout_s=1.0)
        broker.down()
        (outcome,) = publisher.publish_all([OutgoingRecord(topic="a", key=None, value=b"v")])
        broker.up()
        publisher.close()
    assert isinstance(outcome, PublishError)
    assert not isinstance(outcome, PublishRefusedError)


def test_publisher_goes_on_after_a_fatal_error() -> None:
    """An error that ends an idempotent producer ends the record, not the publisher."""
    record = OutgoingRecord(topic="a", key=b"k", value=b"v")
    with EmbeddedBroker({"a": 1}) as broker:
        broker.fail(Request.INIT_PRODUCER_ID, [_CLUSTER_AUTHORIZATION_FAILED])
        with ConfluentPublisher(broker.address, client_id="test", timeout_s=3.0) as publisher:
            (first,) = publisher.publish_all([record])
            (second,) = publisher.publish_all([record])
    assert isinstance(first, PublishError)
    assert second is None
