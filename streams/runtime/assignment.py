"""What one worker owns between two rebalances: a tracker for each partition."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from faust.types import TP

from sluicegate.delivery.done_map import Refusal
from sluicegate.delivery.offsets import Commit, OffsetTracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A partition's committed offset and metadata; None where nothing was ever committed."""

    offset: int | None
    metadata: str


@dataclass(slots=True, kw_only=True, eq=False)
class Assignment:
    """One assignment of partitions; its identity is the epoch that everything delivered under it carries.

    A rebalance drops the whole object, so that nothing of an older epoch can acknowledge into a newer one.
    """

    generation: int
    trackers: Mapping[TP, OffsetTracker] = field(default_factory=dict)
    #: Done-maps that were not believed: what they listed runs again.
    refused_maps: Mapping[TP, Refusal] = field(default_factory=dict)
    #: Set at the revoke: what an agent still holds from before must not be taken any more.
    closed: bool = False
    #: Delivered to Faust's streams and not taken by an agent yet: the dispatcher does not count them so far.
    in_transit: Counter[TP] = field(default_factory=Counter)
    #: How many records agents took.
    taken: int = 0
    #: Set whenever an agent took a record.
    agent_took: asyncio.Event = field(default_factory=asyncio.Event)

    def took(self, tp: TP) -> None:
        """Note that an agent took a record."""
        self.in_transit[tp] -= 1
        self.taken += 1
        self.agent_took.set()

    @classmethod
    def restore(cls, generation: int, committed: Mapping[TP, Committed]) -> Assignment:
        """Rebuild the trackers from what the group committed."""
        trackers: dict[TP, OffsetTracker] = {}
        refused: dict[TP, Refusal] = {}
        for tp, place in committed.items():
            trackers[tp] = OffsetTracker()
            refusal = trackers[tp].restore(place.offset, place.metadata)
            if refusal is not None:
                refused[tp] = refusal
        return cls(generation=generation, trackers=trackers, refused_maps=refused)

    def unconfirmed(self) -> dict[TP, Commit]:
        """Return what no confirmed commit holds yet, offset and done-map taken together."""
        commits = {}
        for tp, tracker in self.trackers.items():
            if tracker.dirty and (commit := tracker.snapshot()) is not None:
                commits[tp] = commit
        return commits

    def confirm(self, commits: Mapping[TP, Commit]) -> None:
        """Note that the broker has these commits."""
        for tp, commit in commits.items():
            self.trackers[tp].confirm(commit)
