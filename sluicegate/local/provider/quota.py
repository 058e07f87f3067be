"""What a provider admits: its limits, the model that enforces them, and both dimensions together. Pure.

The models are in `meters.py`. Times are seconds. Refused calls charge nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from sluicegate.local.provider.meters import Bucket, FixedWindows, Meter, Slices, SlidingLog

_S_PER_MINUTE = 60.0
# A vendor's token bucket always holds a few ordinary calls, however small its burst in seconds.
_LEAST_BURST_TOKENS = 4096.0
# Products such as 0.1 s x 3000 a minute are whole numbers but for the rounding of floats.
_ROUNDING = 1e-9


class Enforcement(StrEnum):
    """How the limits are enforced."""

    BUCKET = "bucket"
    SLICE = "slice"
    FIXED = "fixed"
    LOG = "log"

    @property
    def has_window(self) -> bool:
        """Whether a whole window's limit may come at once, and nothing may exceed it."""
        return self in (Enforcement.FIXED, Enforcement.LOG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be used.

    `burst_s` is how many seconds of the rate a bucket admits at once, at least one request. `window_s` is the
    length of fixed windows and of the log: each admits its share of a minute's limit, in whole units.
    Raises ValueError when that is nothing at all.
    """

    enforcement: Enforcement
    requests_per_minute: float
    tokens_per_minute: float
    burst_s: float
    window_s: float = _S_PER_MINUTE

    def __post_init__(self) -> None:
        """Refuse windows in which no call could ever go."""
        if self.enforcement.has_window and min(self.burst_requests, self.burst_tokens) < 1:
            raise ValueError(f"a window of {self.window_s:g} s must admit at least one request and one token")

    @property
    def burst_requests(self) -> float:
        """Requests that may come at once; all of a slice or a window."""
        share = self._seconds * self.requests_per_minute / _S_PER_MINUTE
        if self.enforcement.has_window:
            return float(math.floor(share + _ROUNDING))
        return max(1.0, share)

    @property
    def burst_tokens(self) -> float:
        """Tokens that may come at once, without the debt that one larger call may leave."""
        share = self._seconds * self.tokens_per_minute / _S_PER_MINUTE
        match self.enforcement:
            case Enforcement.FIXED | Enforcement.LOG:
                return float(math.floor(share + _ROUNDING))
            case Enforcement.SLICE:
                return max(1.0, share)
            case Enforcement.BUCKET:
                return max(share, min(_LEAST_BURST_TOKENS, self.tokens_per_minute))
            case _:
                assert_never(self.enforcement)

    @property
    def largest_call(self) -> float:
        """Tokens above which a call is refused for good."""
        return self.burst_tokens if self.enforcement.has_window else self.tokens_per_minute

    @property
    def _seconds(self) -> float:
        match self.enforcement:
            case Enforcement.BUCKET:
                return self.burst_s
            case Enforcement.SLICE:
                return 1.0
            case Enforcement.FIXED | Enforcement.LOG:
                return self.window_s
            case _:
                assert_never(self.enforcement)


class Quota:
    """Requests and tokens together: a call takes both or nothing."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self.requests = self._meter(limits.requests_per_minute, limits.burst_requests, now_s)
        self.tokens = self._meter(limits.tokens_per_minute, limits.burst_tokens, now_s)

    def take(self, tokens: int, now_s: float) -> float:
        """Charge one call and return 0, or nothing and return the wait: infinite when it never fits."""
        if tokens > self.limits.largest_call:
            return math.inf
        wait_s = max(self.requests.wait_s(1, now_s), self.tokens.wait_s(tokens, now_s))
        if wait_s == 0.0:
            self.requests.charge(1, now_s)
            self.tokens.charge(tokens, now_s)
        return wait_s

    def charge_late(self, tokens: int, now_s: float) -> None:
        """Charge what is known only when the answer is there, room or not."""
        self.tokens.charge(tokens, now_s)

    def change(self, limits: Limits, now_s: float) -> None:
        """Go on with other limits of the same model and window: what was used stays used."""
        self.limits = limits
        self.requests.resize(limits.requests_per_minute / _S_PER_MINUTE, limits.burst_requests, now_s)
        self.tokens.resize(limits.tokens_per_minute / _S_PER_MINUTE, limits.burst_tokens, now_s)

    def left_of_limit(self, now_s: float) -> tuple[float, float]:
        """Return the requests and tokens that are left: of the window, or of a minute without windows."""
        limits, requests, tokens = self.limits, self.requests.used(now_s), self.tokens.used(now_s)
        if limits.enforcement.has_window:
            return limits.burst_requests - requests, limits.burst_tokens - tokens
        return limits.requests_per_minute - requests, limits.tokens_per_minute - tokens

    def _meter(self, per_minute: float, burst: float, now_s: float) -> Meter:
        rate_per_s = per_minute / _S_PER_MINUTE
        match self.limits.enforcement:
            case Enforcement.BUCKET:
                return Bucket(rate_per_s, burst, now_s)
            case Enforcement.SLICE:
                return Slices(rate_per_s, now_s)
            case Enforcement.FIXED:
                return FixedWindows(self.limits.window_s, burst, now_s)
            case Enforcement.LOG:
                return SlidingLog(self.limits.window_s, burst)
            case _:
                assert_never(self.limits.enforcement)
