"""What Kafka holds after a run, as plain values: published events, their copies, their ends, the commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sluicegate.records import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An input record. `ends_silently`: its handler publishes nothing, by rule."""

    stream: str
    origin: Origin
    key: str
    timestamp_ms: int
    event_id: str
    ends_silently: bool
    is_ordered: bool


class EndedAs(StrEnum):
    """The ends that Kafka shows."""

    RESULT = "result"
    DEAD_LETTER = "dead-letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A result or a dead letter, at `place` of its topic."""

    kind: EndedAs
    origin: Origin
    ce_id: str
    place: Origin
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A record of a retry tier or of `due`, at `place` of its topic; `copy` is its `retry-copy`."""

    origin: Origin
    copy: str
    due_at_ms: int
    place: Origin
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionProgress:
    """What a group committed for one partition: all below `offset`, and `done_above` it."""

    offset: int = 0
    done_above: frozenset[int] = frozenset()

    def has(self, offset: int) -> bool:
        """Whether the record at this offset was finished."""
        return offset < self.offset or offset in self.done_above


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedPlaces:
    """The progress of the one group that reads each (topic, partition); none committed means none done."""

    progress: Mapping[tuple[str, int], PartitionProgress] = field(default_factory=dict)

    def has(self, place: Origin) -> bool:
        """Whether the record at this place was finished by its group."""
        found = self.progress.get((place.topic, place.partition))
        return found is not None and found.has(place.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that Kafka knows about one run."""

    published: tuple[Published, ...] = ()
    ends: tuple[Ended, ...] = ()
    parked: tuple[Copied, ...] = ()
    released: tuple[Copied, ...] = ()
    committed: CommittedPlaces = field(default_factory=CommittedPlaces)
