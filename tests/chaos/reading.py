"""Reads Kafka and the simulator into plain facts.

By `assign()` and without commits: a reader that took part in a group would change what it looks at.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.chaos.history import Call, Place, Record, Sample

_TIMEOUT_S = 15.0
_SAMPLED_EVERY_S = 0.25


def read_records(kafka: str, topics: Mapping[str, int]) -> dict[str, tuple[Record, ...]]:
    """Return everything that stands in these topics (with their partition counts) as of now."""
    reader = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"chaos-{secrets.token_hex(4)}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_uncommitted",
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        return _read(reader, [TopicPartition(name, n, 0) for name in topics for n in range(topics[name])])
    finally:
        reader.close()


def _read(reader: Consumer, places: Sequence[TopicPartition]) -> dict[str, tuple[Record, ...]]:
    ends = {
        (place.topic, place.partition): reader.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]
        for place in places
    }
    found: defaultdict[str, list[Record]] = defaultdict(list)
    missing = {place for place, end in ends.items() if end > 0}
    reader.assign([place for place in places if (place.topic, place.partition) in missing])
    deadline = time.monotonic() + 2 * _TIMEOUT_S
    while missing:
        if time.monotonic() > deadline:
            raise TimeoutError(f"could not read {sorted(missing)} to their ends")
        for message in reader.consume(1000, timeout=0.5):
            if message.error() is not None:
                continue
            record = _record(message)
            place = record.place
            if place.offset < ends[place.topic, place.partition]:
                found[place.topic].append(record)
            if place.offset >= ends[place.topic, place.partition] - 1:
                missing.discard((place.topic, place.partition))
    return {topic: tuple(sorted(each, key=_by_place)) for topic, each in found.items()}


def _by_place(record: Record) -> tuple[int, int]:
    return record.place.partition, record.place.offset


def _record(message: Message) -> Record:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    key: Any = message.key()  # bytes without a deserializer
    value: Any = message.value()
    headers: Any = message.headers() or ()
    return Record(
        place=Place(topic=topic, partition=partition, offset=offset),
        at_s=message.timestamp()[1] / 1000,
        key=key,
        value=value,
        headers=tuple((name, content or b"") for name, content in headers),
    )


def read_calls(provider_url: str) -> tuple[Call, ...]:
    """Return the simulator's record of every call."""
    answer = httpx.get(f"{provider_url}/stats", timeout=_TIMEOUT_S, trust_env=False)
    stats = json.loads(answer.content)
    if stats["calls_dropped"]:
        raise ValueError("the simulator forgot calls")
    return tuple(
        Call(
            received_at_s=call["received_at"],
            completed_at_s=call["completed_at"],
            status=call["status"],
            step=call["request_id"].rpartition("/")[0],
            fault=call["fault"],
        )
        for call in stats["calls"]
    )


class CommitReader:
    """Asks the broker what groups have committed, without being a member of any."""

    def __init__(self, kafka: str, groups: Mapping[str, Mapping[str, int]]) -> None:
        """`groups` names the topics of each group, with their partition counts."""
        self._places = {
            group: [TopicPartition(name, n) for name, count in topics.items() for n in range(count)]
            for group, topics in groups.items()
        }
        self._clients = {
            group: Consumer(
                {"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False, "log_level": 0}
            )
            for group in groups
        }

    def read(self) -> tuple[Sample, ...]:
        """Return every commit there is; raises KafkaException while the broker is away."""
        samples: list[Sample] = []
        for group, client in self._clients.items():
            committed = client.committed(self._places[group], timeout=_TIMEOUT_S)
            at_s = time.time()
            samples += [
                Sample(
                    at_s=at_s,
                    group=group,
                    topic=place.topic,
                    partition=place.partition,
                    offset=place.offset,
                    metadata=place.metadata or "",
                )
                for place in committed
                if place.error is None and place.offset >= 0
            ]
        return tuple(samples)

    def close(self) -> None:
        """Let the clients go."""
        for client in self._clients.values():
            client.close()


class Sampler:
    """Samples commits four times a second in a thread of its own; keeps those that changed."""

    def __init__(self, reader: CommitReader) -> None:
        self._reader = reader
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self._found: list[Sample] = []

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was seen so far."""
        return tuple(self._found)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        known: dict[tuple[str, str, int], tuple[int, str]] = {}
        while not self._stopping.wait(_SAMPLED_EVERY_S):
            with suppress(KafkaException):  # the broker is away: there is nothing to see
                self._keep(self._reader.read(), known)

    def _keep(self, samples: Iterable[Sample], known: dict[tuple[str, str, int], tuple[int, str]]) -> None:
        for sample in samples:
            place, content = (sample.group, sample.topic, sample.partition), (sample.offset, sample.metadata)
            if known.get(place) != content:
                known[place] = content
                self._found.append(sample)
