"""What waits in a stream's tiers, added up tier by tier. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from consumers.inspection.copies import WaitingCopy
from sluicegate.state.api import Phase, Standing


@dataclass(slots=True, kw_only=True)
class TierTally:
    """One tier's records. Moments are Unix ms, None while there is no record.

    `ended` counts those whose event has its end already and `cancelled` those that an operator has ended:
    nothing comes of either when they are due. Both are None where Redis was not asked.
    """

    tier: int
    parked: int = 0
    ended: int | None = None
    cancelled: int | None = None
    oldest_published_at_ms: int | None = None
    oldest_parked_at_ms: int | None = None
    next_due_at_ms: int | None = None
    last_due_at_ms: int | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)

    def add(self, copy: WaitingCopy, key: str) -> None:
        """Count one record of the tier; `key` is its event's."""
        self.parked += 1
        self.reasons[copy.reason] += 1
        self.keys[key] += 1
        published_at_ms = copy.retry.origin_timestamp_ms if copy.retry else copy.record.timestamp_ms
        self.oldest_published_at_ms = _least(self.oldest_published_at_ms, published_at_ms)
        self.oldest_parked_at_ms = _least(self.oldest_parked_at_ms, copy.record.timestamp_ms)
        self.next_due_at_ms = _least(self.next_due_at_ms, copy.due_at_ms)
        self.last_due_at_ms = max(self.last_due_at_ms or 0, copy.due_at_ms)

    def add_standings(self, standings: Sequence[Standing | None]) -> None:
        """Count how the events of the tier's records stand."""
        known = [standing for standing in standings if standing is not None]
        self.ended = sum(standing.phase is Phase.DONE for standing in known)
        self.cancelled = sum(standing.is_cancelled for standing in known)


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
