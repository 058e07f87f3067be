"""Reads bounded ranges of partitions to their ends, and keeps a replay's place in them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, Committed, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.kafka.security import librdkafka_security
from sluicegate.records import Record
from sluicegate.settings import KafkaSettings

_POLL_S = 0.1  # `consume` waits until its batch is full or this is over
_STALL_S = 30.0
_PREFETCH_RECORDS = 1_000
_PREFETCH_KBYTES = 8_192


class RangeReader:
    """Reads what partitions hold between two offsets. It joins no group. Use it as a context, in one thread.

    Commits go to `group`, which has no members: it only remembers how far a replay came.
    """

    def __init__(self, kafka: KafkaSettings, *, group: str) -> None:
        self._consumer = Consumer(
            {
                **consumer_config(
                    kafka.bootstrap_servers,
                    client_id="sluicegate-replay",
                    group=group,
                    session_timeout_s=kafka.session_timeout_s,
                    prefetch_records=_PREFETCH_RECORDS,
                    prefetch_kbytes=_PREFETCH_KBYTES,
                    security=librdkafka_security(kafka),
                ),
                "enable.partition.eof": True,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def read(self, ranges: Mapping[Partition, Bounds], *, batch_records: int) -> Iterator[list[Record]]:
        """Yield the records, each partition in its order, a batch as they come in; all of them when it ends.

        Raises BrokerError when nothing comes for 30 s, the time between two batches not counted.
        """
        open_until = {place: bounds.high for place, bounds in ranges.items() if bounds.low < bounds.high}
        self._consumer.assign(
            [TopicPartition(each.topic, each.number, ranges[each].low) for each in open_until]
        )
        deadline = time.monotonic() + _STALL_S
        while open_until:
            messages = self._consumer.consume(batch_records, timeout=_POLL_S)
            batch: list[Record] = []
            for message in messages:
                place = Partition(topic=message.topic() or "", number=message.partition() or 0)
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise BrokerError(f"Kafka did not hand out {place.topic}: {error.str()}")
                    open_until.pop(place, None)
                    continue
                record = record_of(message)
                high = open_until.get(place)
                if high is not None and record.offset < high:
                    batch.append(record)
                if high is not None and record.offset >= high - 1:
                    self._leave(place, open_until)
            if batch:
                yield batch
            if messages:
                deadline = time.monotonic() + _STALL_S
            elif time.monotonic() > deadline:
                raise BrokerError(f"Kafka handed out nothing for {_STALL_S:.0f} s: run the command again")
        self._consumer.unassign()

    def commit(self, offsets: Mapping[Partition, tuple[int, Counter[str]]]) -> None:
        """Keep the next offset and the tally so far of each partition. Raises BrokerError."""
        places = [
            TopicPartition(place.topic, place.number, offset, orjson.dumps(tally).decode())
            for place, (offset, tally) in offsets.items()
        ]
        try:
            committed = self._consumer.commit(offsets=places, asynchronous=False) or []
        except KafkaException as exc:
            raise BrokerError(f"Kafka did not keep the replay's place: {exc.args[0].str()}") from exc
        if failed := next((place.error for place in committed if place.error is not None), None):
            raise BrokerError(f"Kafka did not keep the replay's place: {failed.str()}")

    def _leave(self, place: Partition, open_until: dict[Partition, int]) -> None:
        del open_until[place]
        self._consumer.pause([TopicPartition(place.topic, place.number)])


def tally_of(committed: Committed) -> Counter[str]:
    """Return the tally that was kept with an offset; an unreadable one counts nothing."""
    try:
        found = orjson.loads(committed.metadata or b"{}")
    except orjson.JSONDecodeError:
        return Counter()
    if not isinstance(found, dict):
        return Counter()
    return Counter({name: count for name, count in found.items() if isinstance(count, int) and count > 0})
