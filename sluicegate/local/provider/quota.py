"""How a provider counts: a continuous bucket, or slices of one second. Pure; times are seconds.

A bucket fills at limit / 60 a second up to its burst. A call larger than the burst goes when the bucket is
full and leaves it in debt. A slice admits limit / 60 in each calendar second; a debt is carried into the next
ones. Refused calls charge nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

_S_PER_MINUTE = 60.0
# Below this a wait is the rounding of floats, not a wait.
_ROUNDING_S = 1e-6
# A vendor's token bucket always holds a few ordinary calls, however small its burst in seconds.
_LEAST_BURST_TOKENS = 4096.0


class Enforcement(StrEnum):
    """How the limits are enforced."""

    BUCKET = "bucket"
    SLICE = "slice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be used. `burst_s` is how many seconds of the rate may come at once, at least one request."""

    enforcement: Enforcement
    requests_per_minute: float
    tokens_per_minute: float
    burst_s: float

    @property
    def burst_requests(self) -> float:
        """Requests that may come at once; a slice's whole second for slices."""
        return max(1.0, self._seconds * self.requests_per_minute / _S_PER_MINUTE)

    @property
    def burst_tokens(self) -> float:
        """Tokens that may come at once, without the debt that one larger call may leave."""
        burst = self._seconds * self.tokens_per_minute / _S_PER_MINUTE
        if self.enforcement is Enforcement.SLICE:
            return max(1.0, burst)
        return max(burst, min(_LEAST_BURST_TOKENS, self.tokens_per_minute))

    @property
    def _seconds(self) -> float:
        return 1.0 if self.enforcement is Enforcement.SLICE else self.burst_s


class Meter(Protocol):
    """One dimension's count."""

    rate_per_s: float

    def used(self, now_s: float) -> float:
        """Return what is taken and not yet given back; above the burst while in debt."""

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return 0 when the cost may go now, else when it could."""

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever the level is."""

    def full_in_s(self, now_s: float) -> float:
        """Return the time until nothing is used, if nothing more comes."""


class Bucket:
    """A continuous bucket; full when it is made."""

    def __init__(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._capacity = capacity
        self._level = capacity
        self._at_s = now_s

    def used(self, now_s: float) -> float:
        """Return what is taken and not yet filled again."""
        return self._capacity - self._filled(now_s)

    def _filled(self, now_s: float) -> float:
        if now_s > self._at_s:
            self._level = min(self._capacity, self._level + (now_s - self._at_s) * self.rate_per_s)
            self._at_s = now_s
        return self._level

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return when the cost is there, or the bucket full for one that is larger."""
        wait_s = (min(cost, self._capacity) - self._filled(now_s)) / self.rate_per_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever the level is."""
        self._level = self._filled(now_s) - cost

    def full_in_s(self, now_s: float) -> float:
        """Return the time until the bucket is full."""
        return (self._capacity - self._filled(now_s)) / self.rate_per_s


class Slices:
    """Calendar seconds that each admit their share, in whole units so that none is lost to rounding."""

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._slice = math.floor(now_s)
        self._level = self._share(self._slice, self._slice)

    def used(self, now_s: float) -> float:
        """Return what is taken of this second, and of the next ones while in debt."""
        left = self._left(now_s)
        return self._share(self._slice, self._slice) - left

    def _left(self, now_s: float) -> float:
        current = math.floor(now_s)
        if current > self._slice:
            debt = min(0.0, self._level)
            own = self._share(current, current)
            self._level = min(own, debt + self._share(self._slice + 1, current))
            self._slice = current
        return self._level

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return the time to the second in which the cost is there."""
        level = self._left(now_s)
        own = self._share(self._slice, self._slice)
        if level >= cost or (cost > own > 0 and level >= own):
            return 0.0
        # A cost above a second's share goes at the start of the first second without debt.
        missing = min(cost, max(1.0, math.floor(self.rate_per_s))) - min(0.0, level)
        return self._slice + max(1, math.ceil(missing / self.rate_per_s)) - now_s

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever is left."""
        self._level = self._left(now_s) - cost

    def full_in_s(self, now_s: float) -> float:
        """Return the time until the second in which nothing is used; 0 when this is one."""
        level = self._left(now_s)
        if level >= self._share(self._slice, self._slice):
            return 0.0
        return self._slice + 1 + math.ceil(max(0.0, -level) / self.rate_per_s) - now_s

    def _share(self, first: int, last: int) -> float:
        """Whole units of the seconds from first to last: 100 a minute are 1, 2, 2, 1, 2, 2 a second."""
        return float(math.floor((last + 1) * self.rate_per_s) - math.floor(first * self.rate_per_s))


class Quota:
    """Requests and tokens together: a call takes both or nothing."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self.requests = self._meter(limits.requests_per_minute, limits.burst_requests, now_s)
        self.tokens = self._meter(limits.tokens_per_minute, limits.burst_tokens, now_s)

    def take(self, tokens: int, now_s: float) -> float:
        """Charge one call and return 0, or nothing and return the wait: infinite when it never fits."""
        if tokens > self.limits.tokens_per_minute:
            return math.inf
        wait_s = max(self.requests.wait_s(1, now_s), self.tokens.wait_s(tokens, now_s))
        if wait_s == 0.0:
            self.requests.charge(1, now_s)
            self.tokens.charge(tokens, now_s)
        return wait_s

    def charge_late(self, tokens: int, now_s: float) -> None:
        """Charge what is known only when the answer is there; it may leave a debt."""
        self.tokens.charge(tokens, now_s)

    def change(self, limits: Limits, now_s: float) -> None:
        """Go on with other limits: what was used stays used."""
        used_requests = self.requests.used(now_s)
        used_tokens = self.tokens.used(now_s)
        self.limits = limits
        self.requests = self._meter(limits.requests_per_minute, limits.burst_requests, now_s)
        self.tokens = self._meter(limits.tokens_per_minute, limits.burst_tokens, now_s)
        self.requests.charge(used_requests, now_s)
        self.tokens.charge(used_tokens, now_s)

    def _meter(self, per_minute: float, burst: float, now_s: float) -> Meter:
        rate_per_s = per_minute / _S_PER_MINUTE
        match self.limits.enforcement:
            case Enforcement.BUCKET:
                return Bucket(rate_per_s, burst, now_s)
            case Enforcement.SLICE:
                return Slices(rate_per_s, now_s)
