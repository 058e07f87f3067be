"""Reading a run's history from a broker: all of it, from every partition, with no group."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from sluicegate.delivery.done_map import DoneMap, encode
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.local.ledger import EndedAs, RunFacts, compute_ledger
from sluicegate.local.ledger.parsing import StreamRules
from sluicegate.local.ledger.reading import StreamPlaces, read_history
from sluicegate.topics import StreamTopics

RULES = StreamRules(name="chat", id_field="conversation_id", is_ordered=True, silent_speaker="agent")
RELAY = "relay"
FACTS = RunFacts(workers=1, kafka="embedded", redis="embedded", seed=0)


@pytest.fixture
def topics(embedded_broker: EmbeddedBroker) -> StreamTopics:
    """Return the topics of a stream, made on the broker with two partitions each."""
    prefix = f"l{secrets.token_hex(4)}"
    names = StreamTopics(
        input=f"{prefix}.chat",
        due=f"{prefix}.due",
        tiers=(f"{prefix}.retry.1", f"{prefix}.retry.2"),
        results=f"{prefix}.results",
        dlq=f"{prefix}.dlq",
        group=f"{prefix}.group",
    )
    embedded_broker.create_topics(
        dict.fromkeys((names.input, names.due, *names.tiers, names.results, names.dlq), 2)
    )
    return names


@pytest.fixture
def producer(embedded_kafka: str) -> Iterator[Producer]:
    """Return a plain producer, flushed when the test is over."""
    made = Producer({"bootstrap.servers": embedded_kafka})
    yield made
    made.flush(10)


Headers = list[tuple[str, str | bytes | None]]


def copy_of(topics: StreamTopics, partition: int, offset: int, **more: str) -> Headers:
    """Return the headers that name an event's origin, and more."""
    origin = {"topic": topics.input, "partition": str(partition), "offset": str(offset)}
    headers: Headers = [(f"retry-origin-{key}", text) for key, text in origin.items()]
    return [*headers, *((name.replace("_", "-"), text) for name, text in more.items())]


def commit(kafka: str, group: str, topic: str, partition: int, offset: int, done: set[int]) -> None:
    """Commit as a worker does: an offset and the map of what is done above it."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
    text = encode(DoneMap.of(offset, done)).text
    consumer.commit(offsets=[TopicPartition(topic, partition, offset, text)], asynchronous=False)
    consumer.close()


def test_every_record_and_commit_of_a_run_is_read(
    embedded_kafka: str, topics: StreamTopics, producer: Producer
) -> None:
    """More than one fetch, two partitions, both tiers, and what two groups committed."""
    events = 1200
    for offset in range(events):
        speaker = "agent" if offset % 2 else "customer"
        value = f'{{"conversation_id": "c", "speaker": "{speaker}"}}'
        producer.produce(topics.input, value, "key", partition=0)
    producer.produce(topics.input, b"broken", "other", partition=1)
    for offset in range(0, events, 2):
        ids = {"ce_id": f"r{offset}", "ce_causationid": f"{topics.input}/0/{offset}"}
        headers = [*copy_of(topics, 0, offset), *ids.items()]
        producer.produce(topics.results, b"{}", "key", partition=0, headers=headers)
    producer.produce(topics.dlq, b"broken", "other", partition=1, headers=copy_of(topics, 1, 0))
    for topic in (*topics.tiers, topics.due):
        due = copy_of(topics, 0, 7, retry_copy="1-a", retry_due_at_ms="1000")
        producer.produce(topic, b"{}", "key", partition=0, headers=due)
    assert producer.flush(30) == 0
    commit(embedded_kafka, topics.group, topics.input, 0, events - 2, {events - 1})
    commit(embedded_kafka, topics.group, topics.due, 0, 1, set())
    for tier in topics.tiers:
        commit(embedded_kafka, RELAY, tier, 0, 1, set())

    history = read_history(embedded_kafka, [StreamPlaces(rules=RULES, topics=topics)], relay_group=RELAY)

    ledger = compute_ledger(history, None, FACTS)
    assert (ledger.published, ledger.completed, ledger.recorded) == (events + 1, events // 2, events // 2)
    assert (ledger.dead_lettered, ledger.waiting, ledger.lost) == (1, 0, 0)
    assert (len(history.parked), len(history.released)) == (2, 1)
    assert [end.place.partition for end in history.ends if end.kind is EndedAs.DEAD_LETTER] == [1]


def test_empty_topics_are_an_empty_history(embedded_kafka: str, topics: StreamTopics) -> None:
    """A run in which nothing was published ends at once."""
    history = read_history(embedded_kafka, [StreamPlaces(rules=RULES, topics=topics)], relay_group=RELAY)

    assert compute_ledger(history, None, FACTS).published == 0
