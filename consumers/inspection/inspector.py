"""Reads what the backlog is computed from, again and again, without disturbing anybody's group."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from consumers.inspection.backlog import Sample, StreamBacklog, stream_backlog
from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, Committed, KafkaAdmin, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.retry.headers import parse_retry_headers
from sluicegate.settings import Settings
from sluicegate.topics import relay_group, stream_topics

_READ_TIMEOUT_S = 10.0
_POLL_S = 0.05  # `consume` waits until its batch is full or this is over
_BATCH_RECORDS = 500
_PREFETCH_RECORDS = 1_000
_PREFETCH_KBYTES = 4_096


class Inspector:
    """Looks at every stream of the settings. Use it as a context; not safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = {stream: stream_topics(settings, stream) for stream in settings.streams}
        self._admin = KafkaAdmin(settings.kafka.bootstrap_servers)
        self._parked = _ParkedReader(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parked.close()

    def look(self) -> tuple[StreamBacklog, ...]:
        """Return each stream's backlog now; a topic that is missing is empty. Raises BrokerError."""
        counts = self._admin.partition_counts()
        committed: dict[Partition, Committed | None] = {}
        tiers = [topic for topics in self._topics.values() for topic in topics.tiers]
        for topics in self._topics.values():
            places = _partitions((topics.input, topics.due), counts)
            committed |= self._admin.committed(topics.group, places)
        tier_places = _partitions(tiers, counts)
        committed |= self._admin.committed(relay_group(self._settings), tier_places)
        # Bounds come after commits: what was finished in between shows as unfinished, never the reverse.
        names = [
            name
            for topics in self._topics.values()
            for name in (topics.input, topics.due, *topics.tiers, topics.results, topics.dlq)
        ]
        bounds = self._admin.bounds(_partitions(names, counts))
        due_at_ms = self._parked.read(
            {place: bounds[place] for place in tier_places}, committed, now_ms=_now_ms()
        )
        sample = Sample(bounds=bounds, committed=committed, due_at_ms=due_at_ms)
        return tuple(stream_backlog(stream, topics, sample) for stream, topics in self._topics.items())


class _ParkedReader:
    """Keeps the due times of parked records, reading each record once."""

    def __init__(self, settings: Settings) -> None:
        self._horizon_s = settings.retry.horizon_s
        self._consumer = Consumer(
            consumer_config(
                settings.kafka.bootstrap_servers,
                client_id="sluicegate-inspector",
                group="no-group",
                session_timeout_s=settings.kafka.session_timeout_s,
                prefetch_records=_PREFETCH_RECORDS,
                prefetch_kbytes=_PREFETCH_KBYTES,
            )
        )
        self._next: dict[Partition, int] = {}
        self._due_at_ms: dict[Partition, dict[int, int]] = {}

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def read(
        self,
        bounds: Mapping[Partition, Bounds],
        committed: Mapping[Partition, Committed | None],
        *,
        now_ms: int,
    ) -> Mapping[Partition, Mapping[int, int]]:
        """Return the due time of each record above the relay's commits, by place and offset."""
        unread: dict[Partition, int] = {}
        for place, bound in bounds.items():
            found = committed.get(place)
            start = max(bound.low, 0 if found is None else found.offset)
            self._next[place] = max(self._next.get(place, 0), start)
            kept = self._due_at_ms.setdefault(place, {})
            for offset in [offset for offset in kept if offset < start]:
                del kept[offset]
            if self._next[place] < bound.high:
                unread[place] = bound.high
        if unread:
            self._read(unread, now_ms)
        return self._due_at_ms

    def _read(self, unread: dict[Partition, int], now_ms: int) -> None:
        self._consumer.assign(
            [TopicPartition(place.topic, place.number, self._next[place]) for place in unread]
        )
        deadline = time.monotonic() + _READ_TIMEOUT_S
        while unread and time.monotonic() < deadline:
            for message in self._consumer.consume(_BATCH_RECORDS, timeout=_POLL_S):
                if (error := message.error()) is not None:
                    raise BrokerError(f"Kafka did not hand out a parked record: {error.str()}")
                record = record_of(message)
                place = Partition(topic=record.topic, number=record.partition)
                self._next[place] = record.offset + 1
                headers = parse_retry_headers(record.headers, now_ms=now_ms, horizon_s=self._horizon_s)
                if headers is not None:
                    self._due_at_ms[place][record.offset] = headers.due_at_ms
            for place in list(unread):
                # The position also passes over transaction markers at a partition's end.
                position = self._consumer.position([TopicPartition(place.topic, place.number)])[0].offset
                if max(position, self._next[place]) >= unread[place]:
                    del unread[place]
        self._consumer.unassign()


def _partitions(topics: Iterable[str], counts: Mapping[str, int]) -> list[Partition]:
    return [
        Partition(topic=topic, number=number) for topic in topics for number in range(counts.get(topic, 0))
    ]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
