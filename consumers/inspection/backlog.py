"""Where a stream's events are, computed from offsets, commits and the parked records' due times. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluicegate.delivery.done_map import decode
from sluicegate.kafka.admin import Bounds, Committed, Partition
from sluicegate.topics import StreamTopics


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBacklog:
    """What is parked in one tier (numbered from 1), and when its next and its last record are due."""

    tier: int
    parked: int
    next_due_at_ms: int | None
    last_due_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBacklog:
    """Where a stream's events are.

    `published`, `results` and `dead_letters` count the records that the topics hold. `lag` is what of the
    input is not finished, `running` the part of it and of `due` that workers must have taken: it lies
    below something that is finished, so it is a lower bound. `due` waits in `due`, running or not.
    """

    stream: str
    published: int
    lag: int
    running: int
    tiers: tuple[TierBacklog, ...]
    due: int
    results: int
    dead_letters: int

    @property
    def parked(self) -> int:
        """What is parked in all tiers together."""
        return sum(tier.parked for tier in self.tiers)

    @property
    def remaining(self) -> int:
        """Events that are not at their end, as far as offsets tell."""
        return self.lag + self.parked + self.due

    @property
    def finished(self) -> int:
        """Events that are at their end, as far as offsets tell."""
        return max(0, self.published - self.remaining)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """One partition's records that its group has not finished: how many, and how many of them were taken."""

    count: int
    taken: int


def unfinished(bounds: Bounds, committed: Committed | None) -> Unfinished:
    """Compare what a partition holds with what its group committed, done-map included."""
    start = bounds.low if committed is None else max(committed.offset, bounds.low)
    if committed is None or start >= bounds.high:
        return Unfinished(count=max(0, bounds.high - start), taken=0)
    done = [offset for offset in decode(committed.offset, committed.metadata).done if offset >= start]
    reached = max(done, default=start - 1) + 1
    return Unfinished(count=bounds.high - start - len(done), taken=reached - start - len(done))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was read of a cluster at one moment. `due_at_ms` has the due times of parked records by place."""

    bounds: Mapping[Partition, Bounds]
    committed: Mapping[Partition, Committed | None]
    due_at_ms: Mapping[Partition, Mapping[int, int]]


def stream_backlog(stream: str, topics: StreamTopics, sample: Sample) -> StreamBacklog:
    """Compute one stream's backlog from a sample."""
    taken_in = (_sum(sample, topics.input), _sum(sample, topics.due))
    return StreamBacklog(
        stream=stream,
        published=_held(sample, topics.input),
        lag=taken_in[0].count,
        running=sum(each.taken for each in taken_in),
        tiers=tuple(_tier(number, topic, sample) for number, topic in enumerate(topics.tiers, 1)),
        due=taken_in[1].count,
        results=_held(sample, topics.results),
        dead_letters=_held(sample, topics.dlq),
    )


def _tier(number: int, topic: str, sample: Sample) -> TierBacklog:
    due_at_ms = [
        due_at_ms
        for place in _partitions(sample, topic)
        for due_at_ms in _waiting(sample.due_at_ms.get(place, {}), sample.committed.get(place))
    ]
    return TierBacklog(
        tier=number,
        parked=_sum(sample, topic).count,
        next_due_at_ms=min(due_at_ms, default=None),
        last_due_at_ms=max(due_at_ms, default=None),
    )


def _waiting(due_at_ms: Mapping[int, int], committed: Committed | None) -> list[int]:
    if committed is None:
        return list(due_at_ms.values())
    done = decode(committed.offset, committed.metadata).done
    return [at for offset, at in due_at_ms.items() if offset >= committed.offset and offset not in done]


def _sum(sample: Sample, topic: str) -> Unfinished:
    each = [
        unfinished(sample.bounds[place], sample.committed.get(place)) for place in _partitions(sample, topic)
    ]
    return Unfinished(count=sum(one.count for one in each), taken=sum(one.taken for one in each))


def _held(sample: Sample, topic: str) -> int:
    return sum(sample.bounds[place].high - sample.bounds[place].low for place in _partitions(sample, topic))


def _partitions(sample: Sample, topic: str) -> list[Partition]:
    return [place for place in sample.bounds if place.topic == topic]
