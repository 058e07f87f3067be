"""What every other suite takes for granted of the brokers that it runs on."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from sluicegate.errors import StackError
from sluicegate.local.broker import EmbeddedBroker, Request
from tests.fixtures.kafka import MakeTopics
from tests.waiting import wait_until_sync

_MSG_SIZE_TOO_LARGE = 10


def _produce(address: str, topic: str, value: bytes = b"value") -> KafkaError | None:
    reports: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": address, "enable.idempotence": True, "log_level": 0})
    producer.produce(topic, value, b"key", partition=0, on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(10) == 0
    return reports[0]


def test_topics_have_the_partition_counts_asked_for(kafka: str, make_topics: MakeTopics, prefix: str) -> None:
    """A topic is there with its own partition count when `make_topics` returns."""
    make_topics({f"{prefix}.a": 1, f"{prefix}.b": 5})
    found = Producer({"bootstrap.servers": kafka}).list_topics(timeout=10).topics
    assert {name[-1]: len(topic.partitions) for name, topic in found.items() if name.startswith(prefix)} == {
        "a": 1,
        "b": 5,
    }


def test_commit_keeps_its_metadata(kafka: str, make_topics: MakeTopics, prefix: str) -> None:
    """A commit's metadata comes back with its offset: done-maps rest on it."""
    topic = f"{prefix}.a"
    make_topics({topic: 1})
    assert _produce(kafka, topic) is None
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": prefix, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(topic, 0, 1, "done-map")], asynchronous=False)
    (committed,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    consumer.close()
    assert (committed.offset, committed.metadata) == (1, "done-map")


def test_embedded_broker_comes_back_with_its_records() -> None:
    """`down` stops every answer and `up` gives the same broker back."""
    with EmbeddedBroker({"a": 1}) as broker:
        assert _produce(broker.address, "a") is None
        watcher = Consumer({"bootstrap.servers": broker.address, "group.id": "g", "log_level": 0})
        broker.down()
        with pytest.raises(Exception, match=r"(?i)time|transport|down"):
            watcher.list_topics(timeout=0.2)
        broker.up()
        wait_until_sync(lambda: bool(watcher.list_topics(timeout=10).brokers))
        assert watcher.get_watermark_offsets(TopicPartition("a", 0), timeout=10) == (0, 1)
        watcher.close()


def test_embedded_broker_injects_errors() -> None:
    """An injected error answers exactly as many requests as were asked for."""
    with EmbeddedBroker({"a": 1}) as broker:
        broker.fail(Request.PRODUCE, [_MSG_SIZE_TOO_LARGE])
        refused = _produce(broker.address, "a")
        assert refused is not None
        assert refused.code() == KafkaError.MSG_SIZE_TOO_LARGE
        assert _produce(broker.address, "a") is None


def test_stopped_embedded_broker_says_so() -> None:
    """Using a broker outside its `with` block is an error with a name, not a crash in C."""
    broker = EmbeddedBroker({"a": 1})
    with pytest.raises(StackError, match="not running"):
        broker.down()
    with broker:
        assert broker.address.startswith("127.0.0.1:")
    with pytest.raises(StackError, match="not running"):
        _ = broker.address
