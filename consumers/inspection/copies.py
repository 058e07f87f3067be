"""The copies of a stream that wait: in its tiers for the relay, in `due` for a worker. Read, never taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from consumers.inspection.reading import onlooker, partitions_of, unfinished_ranges
from sluicegate.delivery.done_map import decode
from sluicegate.kafka.admin import Bounds, KafkaAdmin, Partition
from sluicegate.records import Record
from sluicegate.retry.headers import BAD_HEADERS_REASON, RetryHeaders, RetrySource, parse_retry_headers
from sluicegate.settings import Settings
from sluicegate.topics import relay_group, stream_topics


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingCopy:
    """One record that nobody has finished. `tier` counts from 1; 0: it is in `due`, released already.

    `retry` None: its headers name no origin, so the relay will dead-letter it.
    """

    tier: int
    record: Record
    retry: RetryHeaders | None
    due_at_ms: int

    @property
    def reason(self) -> str:
        """Why it waits: its predecessor, else the reason of its last call."""
        if self.retry is None:
            return BAD_HEADERS_REASON
        if self.retry.source is RetrySource.PREDECESSOR:
            return RetrySource.PREDECESSOR.value
        return self.retry.reason or (self.retry.source.value if self.retry.source else "unknown")


class CopyReader:
    """Reads one stream's waiting copies. Use it as a context."""

    def __init__(self, settings: Settings, stream: str) -> None:
        self._settings = settings
        self._topics = stream_topics(settings, stream)
        self._tiers = {topic: number for number, topic in enumerate(self._topics.tiers, start=1)}
        self._admin = KafkaAdmin.of(settings.kafka)
        self._reader = onlooker(settings)

    def __enter__(self) -> CopyReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def parked(self, *, now_ms: int) -> Iterator[WaitingCopy]:
        """Yield what the tiers hold and the relay has not finished, as of now. Raises BrokerError."""
        yield from self._waiting(tuple(self._topics.tiers), relay_group(self._settings), now_ms)

    def due(self, *, now_ms: int) -> Iterator[WaitingCopy]:
        """Yield what `due` holds and the workers have not finished, running or not. Raises BrokerError."""
        yield from self._waiting((self._topics.due,), self._topics.group, now_ms)

    def _waiting(self, topics: tuple[str, ...], group: str, now_ms: int) -> Iterator[WaitingCopy]:
        places = partitions_of(topics, self._admin.partition_counts())
        ranges, committed = unfinished_ranges(self._admin, group, places)
        done = {
            place: decode(found.offset, found.metadata).done
            for place, found in committed.items()
            if found is not None
        }
        for record in self._reader.read(_not_empty(ranges)):
            if record.offset not in done.get(Partition(topic=record.topic, number=record.partition), ()):
                yield self._copy(record, now_ms)

    def _copy(self, record: Record, now_ms: int) -> WaitingCopy:
        # A due time's horizon counts from when the record was stored, as the relay has it.
        stored_ms = min(record.timestamp_ms, now_ms) if record.timestamp_ms > 0 else now_ms
        horizon_s = self._settings.retry.horizon_s
        retry = parse_retry_headers(record.headers, now_ms=stored_ms, horizon_s=horizon_s)
        return WaitingCopy(
            tier=self._tiers.get(record.topic, 0),
            record=record,
            retry=retry,
            due_at_ms=now_ms if retry is None else retry.due_at_ms,
        )


def _not_empty(ranges: dict[Partition, Bounds]) -> dict[Partition, Bounds]:
    return {place: bounds for place, bounds in ranges.items() if bounds.low < bounds.high}
