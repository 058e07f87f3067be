"""Reading ranges of topics as an onlooker: partitions are assigned by hand and nothing is ever committed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, Committed, KafkaAdmin, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.kafka.security import librdkafka_security
from sluicegate.records import Record
from sluicegate.settings import Settings
from sluicegate.topics import onlookers_group

_SILENCE_TIMEOUT_S = 10.0
_POLL_S = 0.05  # `consume` waits until its batch is full or this is over
_BATCH_RECORDS = 500
_PREFETCH_RECORDS = 1_000
_PREFETCH_KBYTES = 4_096
_LOG_LEVEL = 2  # as syslog counts: critical and worse


class RangeReader:
    """Reads what partitions hold between two offsets. Use it as a context; not safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        config = consumer_config(
            settings.kafka.bootstrap_servers,
            client_id="sluicegate-inspector",
            group=onlookers_group(settings),
            session_timeout_s=settings.kafka.session_timeout_s,
            prefetch_records=_PREFETCH_RECORDS,
            prefetch_kbytes=_PREFETCH_KBYTES,
            security=librdkafka_security(settings.kafka),
        )
        # What goes wrong is raised: a command needs no line for every try to reach a broker that is away.
        self._consumer = Consumer({**config, "log_level": _LOG_LEVEL})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def read(self, ranges: Mapping[Partition, Bounds]) -> Iterator[Record]:
        """Yield the records of every range, each partition in its order, and end when all are read.

        Raises BrokerError when a record cannot be had, or nothing has come for 10 s.
        """
        ends = {place: bounds.high for place, bounds in ranges.items() if bounds.low < bounds.high}
        if not ends:
            return
        self._consumer.assign(
            [TopicPartition(place.topic, place.number, ranges[place].low) for place in ends]
        )
        try:
            yield from self._read(ends)
        finally:
            self._consumer.unassign()

    def _read(self, ends: dict[Partition, int]) -> Iterator[Record]:
        heard_at = time.monotonic()
        while ends:
            messages = self._consumer.consume(_BATCH_RECORDS, timeout=_POLL_S)
            if messages:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_TIMEOUT_S:
                raise BrokerError(f"Kafka hands out nothing more of {min(ends).topic}: try again")
            for message in messages:
                if (error := message.error()) is not None:
                    raise BrokerError(f"Kafka did not hand out a record of {message.topic()}: {error.str()}")
                record = record_of(message)
                if record.offset < ends.get(Partition(topic=record.topic, number=record.partition), 0):
                    yield record
            self._drop_read(ends)

    def _drop_read(self, ends: dict[Partition, int]) -> None:
        """Forget the partitions that are read; a position passes transaction markers at the end, too."""
        try:
            places = self._consumer.position([TopicPartition(place.topic, place.number) for place in ends])
        except KafkaException as exc:
            raise BrokerError(f"Kafka does not say how far it was read: {exc.args[0].str()}") from exc
        for place in places:
            partition = Partition(topic=place.topic, number=place.partition)
            if place.offset >= ends[partition]:
                del ends[partition]


def partitions_of(topics: Iterable[str], counts: Mapping[str, int]) -> list[Partition]:
    """Return every partition of the topics; one that is missing has none."""
    return [
        Partition(topic=topic, number=number) for topic in topics for number in range(counts.get(topic, 0))
    ]


def unfinished_ranges(
    admin: KafkaAdmin, group: str, places: list[Partition]
) -> tuple[dict[Partition, Bounds], Mapping[Partition, Committed | None]]:
    """Return what lies at or above the group's commits, and the commits, whose maps say what of it is done.

    Bounds come after commits: what was finished in between shows as unfinished, never the reverse.
    """
    committed = admin.committed(group, places)
    bounds = admin.bounds(places)
    ranges = {}
    for place, bound in bounds.items():
        found = committed[place]
        low = bound.low if found is None else max(bound.low, found.offset)
        ranges[place] = Bounds(low=min(low, bound.high), high=bound.high)
    return ranges, committed
