"""How long to wait before the next try: pure functions of numbers and of a uniform draw from [0, 1).

Jitter is drawn inside a bound, never drawn and then clamped to it: clamping would gather at one
moment what jitter was to keep apart.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.settings import RetrySettings, StreamSettings

Uniform = Callable[[], float]

_SPREAD_SHARE = 0.1
_LEAST_SPREAD_S = 1.0
_BEHIND_BASE_S = 1.0
_BEHIND_CAP_S = 30.0
_BEHIND_GAP_S = 0.01  # keeps a key's release order, and is shorter than any call: it never holds a key up
_MOST_DOUBLINGS = 60  # 2^60 s is beyond every cap, and still a finite float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """One stream's bounds on retries. `expires_after_s` 0 is never; `tiers_s` ascend."""

    in_place_max_s: float
    base_s: float
    cap_s: float
    tiers_s: tuple[float, ...]
    horizon_s: float
    max_attempts: int
    deadline_s: float
    expires_after_s: float

    @classmethod
    def from_settings(cls, retry: RetrySettings, stream: StreamSettings) -> RetryPolicy:
        """Join what all streams share with what this one sets."""
        return cls(
            in_place_max_s=retry.in_place_max_s,
            base_s=retry.base_s,
            cap_s=retry.cap_s,
            tiers_s=retry.tiers_s,
            horizon_s=retry.horizon_s,
            max_attempts=stream.max_attempts,
            deadline_s=stream.deadline_s,
            expires_after_s=stream.expires_after_s,
        )


def backoff_ceiling_s(attempt: int, policy: RetryPolicy) -> float:
    """Return min(cap, base x 2^(attempt - 1)) for the 1-based attempt that just failed."""
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    return min(policy.cap_s, policy.base_s * 2.0**doublings)


def in_place_delay_s(attempt: int, policy: RetryPolicy, random: Uniform) -> float:
    """Draw a wait from [0, ceiling): full jitter, for a retry that keeps its slot."""
    return backoff_ceiling_s(attempt, policy) * random()


def tier_delay_s(attempt: int, policy: RetryPolicy, random: Uniform) -> float:
    """Draw a wait from [ceiling/2, ceiling): a parked event is never back at once."""
    ceiling_s = backoff_ceiling_s(attempt, policy)
    return ceiling_s / 2 + ceiling_s / 2 * random()


def spread_delay_s(wait_s: float, policy: RetryPolicy, random: Uniform) -> float:
    """Draw from [wait, wait + spread), spread = 10 % of the wait and at least 1 s, all below the horizon.

    A wait too near the horizon moves down by up to the spread, so that the draw still fits.
    """
    wait_s = min(max(wait_s, 0.0), policy.horizon_s)
    spread_s = min(max(wait_s * _SPREAD_SHARE, _LEAST_SPREAD_S), policy.horizon_s)
    return min(wait_s, policy.horizon_s - spread_s) + spread_s * random()


def behind_delay_s(predecessor_wait_s: float, deferrals: int, policy: RetryPolicy, random: Uniform) -> float:
    """Draw the wait of an event behind another of its key, both counted from now.

    At least min(30 s, 1 s x 2^deferrals), with a spread above, and never before the predecessor. That one's
    wait gets no spread: it mostly waits behind another itself, and shares of shares grow exponentially along
    a key's line. A gap instead lets the line of a thousand end ten seconds after its head.
    """
    floor_s = min(_BEHIND_CAP_S, _BEHIND_BASE_S * 2.0 ** min(max(deferrals, 0), _MOST_DOUBLINGS))
    after_s = max(predecessor_wait_s, min(predecessor_wait_s + _BEHIND_GAP_S, policy.horizon_s))
    return max(spread_delay_s(floor_s, policy, random), after_s)


def tier_for(delay_s: float, tiers_s: tuple[float, ...]) -> int:
    """Return the 1-based tier whose bucket [minimum, maximum) holds the delay; beyond all, the last."""
    return min(bisect_right(tiers_s, delay_s), len(tiers_s) - 1) + 1


def tier_bounds_s(tier: int, tiers_s: tuple[float, ...]) -> tuple[float, float]:
    """Return the shortest and the longest wait that a 1-based tier is made for."""
    return (tiers_s[tier - 2] if tier > 1 else 0.0, tiers_s[tier - 1])


def due_at_ms(now_ms: int, delay_s: float) -> int:
    """Return the moment, rounded up: never early."""
    return now_ms + math.ceil(delay_s * 1000)


def has_expired(event_time_ms: int | None, policy: RetryPolicy, now_ms: int) -> bool:
    """Whether an answer is of no use any more: `expires_after_s` after the event's own time (`ce_time`)."""
    left_s = expires_in_s(event_time_ms, policy, now_ms)
    return left_s is not None and left_s <= 0


def expires_in_s(event_time_ms: int | None, policy: RetryPolicy, now_ms: int) -> float | None:
    """Return how long an answer is still of use; None when it always is."""
    if event_time_ms is None or policy.expires_after_s <= 0:
        return None
    return (event_time_ms - now_ms) / 1000 + policy.expires_after_s
