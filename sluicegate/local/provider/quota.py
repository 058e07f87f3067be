"""What a provider admits: its limits, the model that enforces them, and all its meters together. Pure.

The models are in `meters.py`. Times are seconds. Refused calls charge nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


class Dimension(StrEnum):
    """What a meter counts. The last two are Anthropic's alone, and only there while they are limited."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"


# What a call takes of each dimension. One with 0 takes nothing, but waits while that dimension is in debt.
Charge = Mapping[Dimension, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be used; None is unlimited.

    `burst_s` is how many seconds of the rate a bucket admits at once, at least one request. `window_s` is the
    length of fixed windows and of the log: each admits its share of a minute's limit, in whole units.
    Raises ValueError when that is nothing at all.
    """

    enforcement: Enforcement
    requests_per_minute: float
    tokens_per_minute: float
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    burst_s: float
    window_s: float = _S_PER_MINUTE

    def __post_init__(self) -> None:
        """Refuse windows in which no call could ever go."""
        if self.enforcement.has_window and min(map(self.burst, self.per_minute)) < 1:
            raise ValueError(f"a window of {self.window_s:g} s must admit at least one request and one token")

    @property
    def per_minute(self) -> Mapping[Dimension, float]:
        """The rate of each dimension that is limited."""
        rates = {
            Dimension.REQUESTS: self.requests_per_minute,
            Dimension.TOKENS: self.tokens_per_minute,
            Dimension.INPUT_TOKENS: self.input_tokens_per_minute,
            Dimension.OUTPUT_TOKENS: self.output_tokens_per_minute,
        }
        return {dimension: rate for dimension, rate in rates.items() if rate is not None}

    def burst(self, dimension: Dimension) -> float:
        """Return what may come at once, without the debt that one larger call may leave.

        All of a slice or a window. Raises KeyError when the dimension is unlimited.
        """
        per_minute = self.per_minute[dimension]
        match self.enforcement:
            case Enforcement.FIXED | Enforcement.LOG:
                return float(math.floor(self.window_s * per_minute / _S_PER_MINUTE + _ROUNDING))
            case Enforcement.SLICE:
                return max(1.0, per_minute / _S_PER_MINUTE)
            case Enforcement.BUCKET:
                least = 1.0 if dimension is Dimension.REQUESTS else min(_LEAST_BURST_TOKENS, per_minute)
                return max(least, self.burst_s * per_minute / _S_PER_MINUTE)
            case _:
                assert_never(self.enforcement)

    def whole(self, dimension: Dimension) -> float:
        """Return what a window admits, or a minute without windows: a call with more tokens never goes."""
        return self.burst(dimension) if self.enforcement.has_window else self.per_minute[dimension]


class Quota:
    """All meters together: a call takes of each or of none. `per_minute` are the rates of its limits."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.meters: dict[Dimension, Meter] = {}
        self.change(limits, now_s)

    def take(self, charge: Charge, now_s: float) -> float:
        """Charge one call and return 0, or nothing and return the wait: infinite when it never fits."""
        wait_s = 0.0
        for dimension, cost in charge.items():
            meter = self.meters.get(dimension)
            if meter is None:
                continue
            if dimension is not Dimension.REQUESTS and cost > self._whole[dimension]:
                return math.inf
            wait_s = max(wait_s, meter.wait_s(cost, now_s))
        if wait_s == 0.0:
            self.charge(charge, now_s)
        return wait_s

    def charge(self, charge: Charge, now_s: float) -> None:
        """Charge without asking: what is known only when the answer is there is charged, room or not."""
        for dimension, cost in charge.items():
            meter = self.meters.get(dimension)
            if meter is not None:
                meter.charge(cost, now_s)

    def take_evenly(self, share: float, from_s: float, until_s: float) -> Charge:
        """Take a share of every rate between two moments, as far as it is there; return what it was."""
        return {
            dimension: self.meters[dimension].take_evenly(share * rate / _S_PER_MINUTE, from_s, until_s)
            for dimension, rate in self.per_minute.items()
        }

    def change(self, limits: Limits, now_s: float) -> None:
        """Go on with other limits of the same model and window: what was used stays used."""
        self.limits = limits
        self.per_minute = limits.per_minute
        self._whole = {dimension: limits.whole(dimension) for dimension in limits.per_minute}
        for dimension, per_minute in self.per_minute.items():
            if dimension in self.meters:
                self.meters[dimension].resize(per_minute / _S_PER_MINUTE, limits.burst(dimension), now_s)
            else:
                self.meters[dimension] = self._meter(dimension, now_s)

    def left(self, dimension: Dimension, now_s: float) -> float:
        """Return what is left: of the window, or of a minute without windows."""
        return self._whole[dimension] - self.meters[dimension].used(now_s)

    def _meter(self, dimension: Dimension, now_s: float) -> Meter:
        rate_per_s = self.limits.per_minute[dimension] / _S_PER_MINUTE
        burst = self.limits.burst(dimension)
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
