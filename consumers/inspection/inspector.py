"""Reads what the backlog is computed from, again and again, without disturbing anybody's group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from consumers.inspection.backlog import Sample, StreamBacklog, stream_backlog
from consumers.inspection.reading import onlooker, partitions_of
from sluicegate.kafka.admin import Bounds, Committed, KafkaAdmin, Partition
from sluicegate.retry.headers import parse_retry_headers
from sluicegate.settings import Settings
from sluicegate.topics import relay_group, stream_topics


class Inspector:
    """Looks at every stream of the settings. Use it as a context; not safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = {stream: stream_topics(settings, stream) for stream in settings.streams}
        self._admin = KafkaAdmin.of(settings.kafka)
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
            places = partitions_of((topics.input, topics.due), counts)
            committed |= self._admin.committed(topics.group, places)
        tier_places = partitions_of(tiers, counts)
        committed |= self._admin.committed(relay_group(self._settings), tier_places)
        # Bounds come after commits: what was finished in between shows as unfinished, never the reverse.
        names = [
            name
            for topics in self._topics.values()
            for name in (topics.input, topics.due, *topics.tiers, topics.results, topics.dlq)
        ]
        bounds = self._admin.bounds(partitions_of(names, counts))
        due_at_ms = self._parked.read(
            {place: bounds[place] for place in tier_places}, committed, now_ms=_now_ms()
        )
        sample = Sample(bounds=bounds, committed=committed, due_at_ms=due_at_ms)
        return tuple(stream_backlog(stream, topics, sample) for stream, topics in self._topics.items())


class _ParkedReader:
    """Keeps the due times of parked records, reading each record once."""

    def __init__(self, settings: Settings) -> None:
        self._horizon_s = settings.retry.horizon_s
        self._reader = onlooker(settings)
        self._next: dict[Partition, int] = {}
        self._due_at_ms: dict[Partition, dict[int, int]] = {}

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def read(
        self,
        bounds: Mapping[Partition, Bounds],
        committed: Mapping[Partition, Committed | None],
        *,
        now_ms: int,
    ) -> Mapping[Partition, Mapping[int, int]]:
        """Return the due time of each record above the relay's commits, by place and offset."""
        unread: dict[Partition, Bounds] = {}
        for place, bound in bounds.items():
            found = committed.get(place)
            start = max(bound.low, 0 if found is None else found.offset)
            self._next[place] = max(self._next.get(place, 0), start)
            kept = self._due_at_ms.setdefault(place, {})
            for offset in [offset for offset in kept if offset < start]:
                del kept[offset]
            if self._next[place] < bound.high:
                unread[place] = Bounds(low=self._next[place], high=bound.high)
        for record in self._reader.read(unread):
            place = Partition(topic=record.topic, number=record.partition)
            self._next[place] = record.offset + 1
            headers = parse_retry_headers(record.headers, now_ms=now_ms, horizon_s=self._horizon_s)
            if headers is not None:
                self._due_at_ms[place][record.offset] = headers.due_at_ms
        for place, bound in unread.items():
            self._next[place] = bound.high
        return self._due_at_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
