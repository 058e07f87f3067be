"""What Kafka holds in the protocol's small world: the input, a tier, `due` and what was published."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from sluicegate.state.api import Copy, End, EndKind, EventRef


class Place(Enum):
    """Where a record of the input or of `due` is, as its consumer group sees it."""

    WAITING = auto()
    IN_LANE = auto()
    RUNNING = auto()
    ACKED = auto()
    COMMITTED = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class Delivered:
    """A record of the input (`copy` is the input's) or of `due`."""

    ref: EventRef
    copy: Copy
    place: Place = Place.WAITING


@dataclass(slots=True, kw_only=True)
class Topics:
    """One key's records. `made` numbers the copies in the order in which they were made."""

    events: list[EventRef]
    input: list[Delivered] = field(init=False)
    due: list[Delivered] = field(default_factory=list)
    tier: list[tuple[EventRef, Copy]] = field(default_factory=list)
    published: list[tuple[int, End]] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=lambda: {Copy().id: 0})
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input = [Delivered(ref=ref, copy=Copy()) for ref in self.events]

    @property
    def dead(self) -> set[int]:
        """The origins that have a dead letter in Kafka."""
        return {offset for offset, end in self.published if end.kind is EndKind.DEAD_LETTER}

    def number(self, copy: Copy) -> Copy:
        """Number a copy that was just made and return it."""
        self.made[copy.id] = len(self.made)
        return copy

    def note(self, what: str) -> None:
        """Add a line to the story that a violation is told with."""
        self.trace.append(what)
