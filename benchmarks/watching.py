"""Watching a process from outside while it fills a topic: its speed, its CPU time and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from benchmarks.processes import cpu_s, memory_mb

_WATCH_S = 0.05
_ASK_TIMEOUT_S = 5.0
_RUN_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one process came to. `redis_cpu_ms` is what an event cost the Redis server."""

    events_per_s: float
    cpu_ms: float
    redis_cpu_ms: float
    idle_mb: float
    running_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    at: float
    results: int
    cpu_s: float
    redis_cpu_s: float


class ResultsWatch:
    """Counts a topic's records by its watermarks, which costs the machine nearly nothing."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topic}.watch"})
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def count(self) -> int:
        """Return how many records the topic has."""
        bounds = (
            self._consumer.get_watermark_offsets(partition, timeout=_ASK_TIMEOUT_S)
            for partition in self._partitions
        )
        return sum(bound[1] for bound in bounds if bound is not None)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def watch(
    results: ResultsWatch, *, pid: int, redis_pid: int, events: int, begin: Callable[[], None]
) -> Figures:
    """Call `begin` and return the figures between the first and the last tenth of the results."""
    idle_mb = running_mb = memory_mb(pid)
    begin()
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    first: _Sample | None = None
    while time.monotonic() < deadline:
        now = _Sample(
            at=time.monotonic(), results=results.count(), cpu_s=cpu_s(pid), redis_cpu_s=cpu_s(redis_pid)
        )
        running_mb = max(running_mb, memory_mb(pid))
        if first is None and now.results >= events * 0.1:
            first = now
        elif first is not None and now.results >= events * 0.9:
            done = now.results - first.results
            return Figures(
                events_per_s=done / (now.at - first.at),
                cpu_ms=1000 * (now.cpu_s - first.cpu_s) / done,
                redis_cpu_ms=1000 * (now.redis_cpu_s - first.redis_cpu_s) / done,
                idle_mb=idle_mb,
                running_mb=running_mb,
            )
        time.sleep(_WATCH_S)
    raise AssertionError(f"{results.count()} of {events} results after {_RUN_TIMEOUT_S:g} s")
