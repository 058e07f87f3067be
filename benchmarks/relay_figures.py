"""How releases are judged: against the moments that were drawn for them, not against a rate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One record as it came out: when it was due, when `due` stored it, when a reader had it (Unix ms)."""

    copy: str
    due_ms: int
    stored_ms: int
    seen_ms: float

    @property
    def late_ms(self) -> int:
        """From the moment drawn to the append in `due`; negative is early."""
        return self.stored_ms - self.due_ms


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed; NaN of nothing."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def most_in_a_window(times_ms: Sequence[float], window_ms: float) -> int:
    """Return how many of the moments the fullest window [t, t + window) holds."""
    ordered = sorted(times_ms)
    return max(
        (bisect_left(ordered, start + window_ms) - index for index, start in enumerate(ordered)), default=0
    )


def most_above_drawn(releases: Sequence[Release], window_ms: int) -> int:
    """Return by how many the releases in any window [t, t + window) exceed those drawn in it, at least 0."""
    stored = sorted(release.stored_ms for release in releases)
    drawn = sorted(release.due_ms for release in releases)

    def inside(times_ms: Sequence[int], start: int) -> int:
        return bisect_left(times_ms, start + window_ms) - bisect_left(times_ms, start)

    # What is in a window changes only where one of its ends passes a moment.
    starts = {
        *stored,
        *(at + 1 for at in drawn),
        *(at + 1 - window_ms for at in stored),
        *(at - window_ms for at in drawn),
    }
    return max((inside(stored, start) - inside(drawn, start) for start in starts), default=0)
