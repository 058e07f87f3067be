"""Reading bounded ranges of partitions to their ends, assigned by hand: no group is joined."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, TopicPartition

from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.kafka.security import librdkafka_security
from sluicegate.records import Record
from sluicegate.settings import KafkaSettings

_POLL_S = 0.05  # `consume` waits until its batch is full or this is over
_BATCH_RECORDS = 500
_PREFETCH_RECORDS = 1_000
_PREFETCH_KBYTES = 8_192
_LOG_LEVEL = 2  # as syslog counts: critical and worse


class RangeReader:
    """Reads what partitions hold between two offsets. Use it as a context, in one thread.

    `group` is only a name that brokers check rights by. Nothing coming for `silence_s` is an error.
    """

    def __init__(self, kafka: KafkaSettings, *, client_id: str, group: str, silence_s: float) -> None:
        config = consumer_config(
            kafka.bootstrap_servers,
            client_id=client_id,
            group=group,
            session_timeout_s=kafka.session_timeout_s,
            prefetch_records=_PREFETCH_RECORDS,
            prefetch_kbytes=_PREFETCH_KBYTES,
            security=librdkafka_security(kafka),
        )
        # What goes wrong is raised: a command needs no line for every try to reach a broker that is away.
        self._consumer = Consumer({**config, "enable.partition.eof": True, "log_level": _LOG_LEVEL})
        self._silence_s = silence_s

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
        """Yield the records one by one; see `batches`."""
        for batch in self.batches(ranges):
            yield from batch

    def batches(self, ranges: Mapping[Partition, Bounds]) -> Iterator[list[Record]]:
        """Yield the records as they come in, each partition in its order, and end when all are read.

        The end of a partition counts, too: its last offsets may be a transaction's markers. Raises
        BrokerError when a record cannot be had or nothing comes, the time between two batches not counted.
        """
        open_until = {place: bounds.high for place, bounds in ranges.items() if bounds.low < bounds.high}
        if not open_until:
            return
        places = [TopicPartition(place.topic, place.number, ranges[place].low) for place in open_until]
        self._consumer.assign(places)
        self._consumer.resume(places)  # one that an earlier reading paused at its end would stay so
        try:
            yield from self._batches(open_until)
        finally:
            self._consumer.unassign()

    def _batches(self, open_until: dict[Partition, int]) -> Iterator[list[Record]]:
        deadline = time.monotonic() + self._silence_s
        while open_until:
            messages = self._consumer.consume(_BATCH_RECORDS, timeout=_POLL_S)
            batch: list[Record] = []
            for message in messages:
                place = Partition(topic=message.topic() or "", number=message.partition() or 0)
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise BrokerError(f"Kafka did not hand out a record of {place.topic}: {error.str()}")
                    open_until.pop(place, None)
                    continue
                record, high = record_of(message), open_until.get(place)
                if high is not None and record.offset < high:
                    batch.append(record)
                if high is not None and record.offset >= high - 1:
                    del open_until[place]
                    self._consumer.pause([TopicPartition(place.topic, place.number)])
            if batch:
                yield batch
            if messages:
                deadline = time.monotonic() + self._silence_s
            elif time.monotonic() > deadline:
                raise BrokerError(f"Kafka hands out nothing more of {min(open_until).topic}: try again")
