"""What a run left behind, as plain facts: records, calls, samples of commits, and what was done to it.

Nothing of the suite's judgement imports the product: these types, the reading and the checker know
Kafka, JSON and the documented headers, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record; `at_s` is the broker's append time, seconds since the epoch."""

    place: Place
    at_s: float
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()

    def text(self, name: str) -> str | None:
        """Return a header's last value, None when it is not there."""
        found = [value for header, value in self.headers if header == name]
        return found[-1].decode("utf-8", "replace") if found else None

    @property
    def origin(self) -> Place | None:
        """The input record that this one says it comes from."""
        topic, partition, offset = (
            self.text(f"retry-origin-{part}") for part in ("topic", "partition", "offset")
        )
        if topic is None or partition is None or offset is None:
            return None
        return Place(topic=topic, partition=int(partition), offset=int(offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call in the simulator's record. `fault` is what spoilt it; times are seconds since the epoch."""

    received_at_s: float
    completed_at_s: float | None
    status: int | None
    step: str
    fault: str | None = None

    @property
    def is_paid(self) -> bool:
        """Whether a whole and usable answer went out."""
        return self.status == 200 and self.completed_at_s is not None and self.fault in (None, "slow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A group's commit for one partition as it was seen at `at_s`: all below `offset` is finished."""

    at_s: float
    group: str
    topic: str
    partition: int
    offset: int
    metadata: str


class Harm(StrEnum):
    """What a fault can do to promises; every fault of the schedule is at most one of these."""

    CRASH = "crash"
    """A process lost what it had in its hands: killed, or stopped for longer than its session."""
    STATE_LOST = "state-lost"
    """Redis came back without all of its data."""
    STATE_AWAY = "state-away"
    """Redis answered nothing, late, or with errors."""
    BROKER_AWAY = "broker-away"
    """Kafka answered nothing, or was restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """Harm that was done between two moments, seconds since the epoch."""

    harm: Harm
    start_s: float
    end_s: float

    def overlaps(self, start_s: float, end_s: float) -> bool:
        """Whether any of it lies between two moments."""
        return self.start_s <= end_s and self.end_s >= start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process that ended otherwise than it should: by itself, or with another code."""

    process: str
    code: int
    wanted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The topics and the group of one stream."""

    name: str
    input: str
    due: str
    tiers: tuple[str, ...]
    results: str
    dlq: str
    group: str
    is_ordered: bool

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic of the stream."""
        return (self.input, self.due, *self.tiers, self.results, self.dlq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be sent: `per_s x window + burst` calls in any window."""

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that is known of a run. `texts` are logs and metrics by where they were found."""

    streams: tuple[Stream, ...]
    relay_group: str
    records: Mapping[str, tuple[Record, ...]]
    committed: tuple[Sample, ...]
    samples: tuple[Sample, ...] = ()
    calls: tuple[Call, ...] = ()
    limit: Limit
    disruptions: tuple[Disruption, ...] = ()
    exits: tuple[Exit, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    canaries: tuple[str, ...] = ()

    def of(self, topics: Iterable[str]) -> list[Record]:
        """Return the records of these topics."""
        return [record for topic in topics for record in self.records.get(topic, ())]

    def disrupted(self, harms: Iterable[Harm], start_s: float, end_s: float) -> bool:
        """Whether harm of one of these kinds was done between two moments."""
        wanted = frozenset(harms)
        return any(each.harm in wanted and each.overlaps(start_s, end_s) for each in self.disruptions)
