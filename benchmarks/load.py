"""The events that a benchmark of the worker publishes, and the check that each of them has its result."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from sluicegate.events.cloudevent import binary_headers

_PARAGRAPH = "My parcel has not come yet, and nobody answers the telephone. What am I to do now? "
TEXT = _PARAGRAPH * 4
_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 5.0
_LARGEST_RECORD_BYTES = 4_000_000

Event = tuple[str, int]
"""A conversation's id and the turn in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`events` customers' messages, spread evenly over `keys` conversations, with texts of `text_bytes`."""

    events: int
    keys: int
    text_bytes: int = len(TEXT)

    def event(self, number: int) -> Event:
        """Return the event that is published as the `number`th, counted from 0."""
        turn, conversation = divmod(number, self.keys)
        return f"conversation-{conversation}", turn

    @property
    def text(self) -> str:
        """What every customer says."""
        return (_PARAGRAPH * (self.text_bytes // len(_PARAGRAPH) + 1))[: self.text_bytes]


class EventPublisher:
    """Publishes events as our own publisher does: CloudEvents, on the partition that Java would choose."""

    def __init__(self, kafka: str, *, linger_ms: int) -> None:
        """`linger_ms` is how long a record waits for others to go with it."""
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "partitioner": "murmur2_random",
                "linger.ms": linger_ms,
                "acks": "all",
                "message.max.bytes": _LARGEST_RECORD_BYTES,
            }
        )

    def publish(self, topic: str, event: Event, text: str) -> None:
        """Hand one event to the producer."""
        key, turn = event
        value = {"conversation_id": key, "turn": turn, "speaker": "customer", "text": text}
        headers = binary_headers(
            id=f"{topic}-{key}-{turn}", source="benchmark", type="message", time_ms=int(time.time() * 1000)
        )
        while True:
            try:
                self._producer.produce(topic, key=key, value=orjson.dumps(value), headers=list(headers))
            except BufferError:  # large events fill the producer's queue before they are many
                self._producer.poll(0.1)
            else:
                break
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when the broker has everything. Raises AssertionError when it does not take it."""
        if self._producer.flush(_TIMEOUT_S):
            raise AssertionError("the broker did not take the events: no figure would mean anything")


def publish(kafka: str, topic: str, load: Load) -> None:
    """Publish all events, and return when the broker has them."""
    publisher = EventPublisher(kafka, linger_ms=20)
    text = load.text
    for number in range(load.events):
        publisher.publish(topic, load.event(number), text)
    publisher.flush()


def check_results(kafka: str, topic: str, partitions: int, load: Load) -> None:
    """Raise AssertionError unless the topic holds exactly one result of each event."""
    found = Counter(_read_events(kafka, topic, partitions))
    wanted = {load.event(number) for number in range(load.events)}
    missing, repeated = len(wanted - found.keys()), found.total() - len(found)
    if missing or repeated or len(found) != len(wanted):
        raise AssertionError(
            f"{topic}: {missing} of {load.events} results are missing, {repeated} are repeated: no figure"
        )


def _read_events(kafka: str, topic: str, partitions: int) -> list[Event]:
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": f"{topic}.check", "enable.auto.commit": False}
    )
    try:
        places = [TopicPartition(topic, number, 0) for number in range(partitions)]
        count = sum(consumer.get_watermark_offsets(place, timeout=_ASK_TIMEOUT_S)[1] for place in places)
        consumer.assign(places)
        events: list[Event] = []
        deadline = time.monotonic() + _TIMEOUT_S
        while len(events) < count and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    value = orjson.loads(message.value() or b"")
                    events.append((value["conversation_id"], value["turn"]))
        return events
    finally:
        consumer.close()
