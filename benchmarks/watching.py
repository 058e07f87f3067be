"""Watching processes from outside while they fill a topic: their speed, CPU time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.processes import cpu_s, memory_mb

_WATCH_S = 0.05
_ASK_TIMEOUT_S = 5.0
_STALL_S = 45.0
_SHORTEST_S = 0.2  # a count takes some milliseconds, in which the results go on


class Watched(Protocol):
    """A process that can be watched."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the processes came to, together. `redis_cpu_ms` is what an event cost the Redis server.

    `shares` is each process's part of their CPU time.
    """

    events_per_s: float
    cpu_ms: float
    redis_cpu_ms: float
    idle_mb: float
    running_mb: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    at: float
    results: int
    cpu_s: tuple[float, ...]
    redis_cpu_s: float
    memory_mb: float


class ResultsWatch:
    """Counts a topic's records by its watermarks, which costs the machine nearly nothing."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topic}.watch"})
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def count(self) -> int:
        """Return how many records the topic has."""
        return sum(self._end(partition) for partition in self._partitions)

    def _end(self, partition: TopicPartition) -> int:
        deadline = time.monotonic() + _ASK_TIMEOUT_S
        while True:
            try:
                return self._consumer.get_watermark_offsets(partition, timeout=_ASK_TIMEOUT_S)[1]
            except KafkaException:  # a topic is there a moment before its partitions have leaders
                if time.monotonic() > deadline:
                    raise
                time.sleep(_WATCH_S)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def watch(
    results: ResultsWatch,
    processes: Sequence[Watched],
    *,
    redis_pid: int,
    events: int,
    begin: Callable[[], None],
) -> Figures:
    """Call `begin`, wait for all results, and return the figures between their first and last tenth.

    Raises AssertionError when a process ends, when for 45 s no result comes, or when they come too fast.
    """
    idle_mb = _memory_mb(processes)
    results.count()  # the first time takes as long as it takes to find the partitions' leaders
    with ThreadPoolExecutor(1) as thread:
        # Beside the watching: large events are being answered while others are still being published.
        begun = thread.submit(begin)
        samples = _samples(results, processes, redis_pid=redis_pid, events=events, begun=begun)
    first = next((each for each in samples if each.results >= events * 0.1), None)
    last = next((each for each in samples if each.results >= events * 0.9), None)
    if first is None or last is None or last.at - first.at < _SHORTEST_S:
        raise AssertionError("the results came too fast to be measured: publish more events")
    done = last.results - first.results
    cpu_used_s = [after - before for before, after in zip(first.cpu_s, last.cpu_s, strict=True)]
    return Figures(
        events_per_s=done / (last.at - first.at),
        cpu_ms=1000 * sum(cpu_used_s) / done,
        redis_cpu_ms=1000 * (last.redis_cpu_s - first.redis_cpu_s) / done,
        idle_mb=idle_mb,
        running_mb=max(each.memory_mb for each in samples),
        shares=tuple(used / sum(cpu_used_s) for used in cpu_used_s),
    )


def _samples(
    results: ResultsWatch,
    processes: Sequence[Watched],
    *,
    redis_pid: int,
    events: int,
    begun: Future[None],
) -> Sequence[_Sample]:
    """Look again and again until all results are there."""
    samples: list[_Sample] = []
    found, moved_at = -1, time.monotonic()
    while found < events:
        count = results.count()
        now = _Sample(
            at=time.monotonic(),
            results=count,
            cpu_s=tuple(cpu_s(each.pid) for each in processes),
            redis_cpu_s=cpu_s(redis_pid),
            memory_mb=_memory_mb(processes),
        )
        samples.append(now)
        if now.results > found:
            found, moved_at = now.results, now.at
        if begun.done():
            begun.result()
        if now.at - moved_at > _STALL_S or any(each.exit_code is not None for each in processes):
            raise AssertionError(f"only {now.results} of {events} results came: no figure")
        time.sleep(_WATCH_S)
    return samples


def _memory_mb(processes: Sequence[Watched]) -> float:
    return sum(memory_mb(each.pid) for each in processes)
