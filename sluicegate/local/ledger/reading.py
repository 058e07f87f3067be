"""Reads a run's history from Kafka: every topic from its start, with no group, and the groups' commits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, TopicPartition

from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, KafkaAdmin, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.local.ledger.history import CommittedPlaces, EndedAs, History, PartitionProgress
from sluicegate.local.ledger.parsing import StreamRules, read_copy, read_ended, read_progress, read_published
from sluicegate.records import Record
from sluicegate.topics import StreamTopics

# `consume` waits until its batch is full or this is over, so it ends every topic's reading.
_POLL_S = 0.1
_SILENT_S = 20.0
_BATCH_RECORDS = 500
_PREFETCH_RECORDS = 2_000
_PREFETCH_KBYTES = 8_192
_NO_GROUP = "no-group"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlaces:
    """One stream's topics, and what the ledger must know of its events."""

    rules: StreamRules
    topics: StreamTopics


def read_history(bootstrap_servers: str, streams: Sequence[StreamPlaces], *, relay_group: str) -> History:
    """Read everything that the topics hold now. Raises BrokerError when Kafka does not answer."""
    admin = KafkaAdmin(bootstrap_servers)
    counts = admin.partition_counts()
    reader = _TopicReader(bootstrap_servers, admin, counts)
    published = tuple(
        read_published(record, stream.rules)
        for stream in streams
        for record in reader.read((stream.topics.input,))
    )
    events = {event.origin: event for event in published}
    ends = (
        read_ended(record, kind, events)
        for stream in streams
        for kind, topic in (
            (EndedAs.RESULT, stream.topics.results),
            (EndedAs.DEAD_LETTER, stream.topics.dlq),
        )
        for record in reader.read((topic,))
    )
    parked = (read_copy(record) for stream in streams for record in reader.read(stream.topics.tiers))
    released = (read_copy(record) for stream in streams for record in reader.read((stream.topics.due,)))
    return History(
        published=published,
        ends=tuple(end for end in ends if end is not None),
        parked=tuple(copy for copy in parked if copy is not None),
        released=tuple(copy for copy in released if copy is not None),
        committed=CommittedPlaces(progress=_progress(admin, counts, streams, relay_group)),
    )


def _progress(
    admin: KafkaAdmin, counts: Mapping[str, int], streams: Sequence[StreamPlaces], relay_group: str
) -> dict[tuple[str, int], PartitionProgress]:
    found: dict[tuple[str, int], PartitionProgress] = {}
    for stream in streams:
        for group, topics in (
            (stream.topics.group, (stream.topics.input, stream.topics.due)),
            (relay_group, stream.topics.tiers),
        ):
            partitions = partitions_of(topics, counts)
            for place, committed in admin.committed(group, partitions).items():
                if committed is not None:
                    found[place.topic, place.number] = read_progress(committed.offset, committed.metadata)
    return found


def partitions_of(topics: Sequence[str], counts: Mapping[str, int]) -> list[Partition]:
    """Return every partition of the topics that exist."""
    return [
        Partition(topic=topic, number=number) for topic in topics for number in range(counts.get(topic, 0))
    ]


class _TopicReader:
    """Reads whole topics with assign(): no group is joined and nothing is committed."""

    def __init__(self, bootstrap_servers: str, admin: KafkaAdmin, counts: Mapping[str, int]) -> None:
        self._config = consumer_config(
            bootstrap_servers,
            client_id="sluicegate-ledger",
            group=_NO_GROUP,
            session_timeout_s=6.0,
            prefetch_records=_PREFETCH_RECORDS,
            prefetch_kbytes=_PREFETCH_KBYTES,
        )
        self._admin = admin
        self._counts = counts

    def read(self, topics: Sequence[str]) -> Iterator[Record]:
        """Yield every record that lies below the partitions' ends as they are now."""
        bounds = self._admin.bounds(partitions_of(topics, self._counts))
        unread = {place: bound for place, bound in bounds.items() if bound.low < bound.high}
        if not unread:
            return
        consumer = Consumer(self._config)
        try:
            consumer.assign(
                [TopicPartition(place.topic, place.number, unread[place].low) for place in unread]
            )
            yield from self._until_read(consumer, unread)
        finally:
            consumer.close()

    def _until_read(self, consumer: Consumer, unread: dict[Partition, Bounds]) -> Iterator[Record]:
        heard_s = time.monotonic()
        while unread:
            messages = consumer.consume(_BATCH_RECORDS, timeout=_POLL_S)
            for message in messages:
                yield _checked(message)
            for place in self._reached(consumer, unread):
                del unread[place]
            if messages:
                heard_s = time.monotonic()
            elif unread and time.monotonic() - heard_s > _SILENT_S:
                raise BrokerError("Kafka did not hand out records that it holds; is the broker up?")

    @staticmethod
    def _reached(consumer: Consumer, unread: dict[Partition, Bounds]) -> list[Partition]:
        # The position, not the last record: the end of a partition may be a transaction's marker.
        places = consumer.position([TopicPartition(place.topic, place.number) for place in unread])
        return [
            place
            for place, position in zip(unread, places, strict=True)
            if position.offset >= unread[place].high
        ]


def _checked(message: Message) -> Record:
    if (error := message.error()) is not None:
        raise BrokerError(f"Kafka did not hand out a record: {error.str()}")
    return record_of(message)
