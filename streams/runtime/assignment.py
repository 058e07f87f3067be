"""What one worker owns between two rebalances: a tracker for each partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from faust.types import TP

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
    #: Set at the revoke: what an agent still holds from before must not be taken any more.
    closed: bool = False

    @classmethod
    def restore(cls, generation: int, committed: Mapping[TP, Committed]) -> Assignment:
        """Rebuild the trackers from what the group committed."""
        trackers = {}
        for tp, place in committed.items():
            tracker = OffsetTracker()
            if place.offset is not None:
                tracker.restore(place.offset, place.metadata)
            trackers[tp] = tracker
        return cls(generation=generation, trackers=trackers)

    def take_commits(self) -> dict[TP, Commit]:
        """Return what changed since the last call, offset and done-map taken together."""
        commits = {}
        for tp, tracker in self.trackers.items():
            if tracker.dirty and (commit := tracker.snapshot()) is not None:
                commits[tp] = commit
        return commits

    def put_back(self, tps: Iterable[TP]) -> None:
        """Offer these partitions again at the next commit: theirs did not succeed."""
        for tp in tps:
            self.trackers[tp].dirty = True
