"""When a backlog will be done if its calls go as fast as a scope's limits let them. Pure.

The limits alone are looked at: not how many workers there are, how long calls take, or what else arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sluicegate.limiter.api import Dimension, Lane
from sluicegate.limiter.booking import MINUTE_DIMENSIONS
from sluicegate.limiter.levels import Level

_DAY_S = 86_400
_MINUTE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a backlog will take of a scope. Zero tokens or dollars: nobody knows, their limits are left out.

    `tokens` are those that the provider charges to its token limit.
    """

    calls: float = 0.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    dollars: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            dollars=self.dollars + other.dollars,
        )

    def of(self, dimension: Dimension) -> float:
        """Return the load in a dimension's units; 0 where it is not counted."""
        return {
            Dimension.REQUESTS: self.calls,
            Dimension.TOKENS: self.tokens,
            Dimension.INPUT_TOKENS: self.input_tokens,
            Dimension.OUTPUT_TOKENS: self.output_tokens,
            Dimension.DAILY_REQUESTS: self.calls,
            Dimension.DAILY_TOKENS: self.tokens,
            Dimension.DAILY_DOLLARS: self.dollars,
        }.get(dimension, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds until a lane's backlog is done, and the limit that takes longest."""

    seconds: float
    bound_by: Dimension


def forecast(
    loads: Mapping[Lane, Load], lane: Lane, levels: Sequence[Level], *, safe: float, bulk_share: float
) -> Forecast | None:
    """Say when the lane's load is done beside the other lane's; None when no limit bounds it.

    `safe` is the part of the limits that is used after 429s. Interactive work has all but `bulk_share` while
    both wait, and who is done first leaves the rest of the time to the other.
    """
    own, other = loads.get(lane, Load()), sum((loads[each] for each in loads if each is not lane), Load())
    share = bulk_share if lane is Lane.BULK else 1 - bulk_share
    found = [
        Forecast(
            seconds=_seconds(level, own.of(level.dimension), other.of(level.dimension), share, safe),
            bound_by=level.dimension,
        )
        for level in levels
        if own.of(level.dimension) > 0
    ]
    return max(found, key=lambda each: each.seconds, default=None)


def _seconds(level: Level, own: float, other: float, share: float, safe: float) -> float:
    """Of two lanes the one that is done last ends with the whole load, the other one at its own share."""
    if level.dimension not in MINUTE_DIMENSIONS:
        # A day's use falls out of the count as evenly as it came in, at best guess.
        left = max(0.0, level.limit - level.used)
        return max(0.0, own + other - left) * _DAY_S / level.limit
    rate_per_s = level.limit * safe / _MINUTE_S
    together_s = (own + other) / rate_per_s
    return min(together_s, own / (rate_per_s * share)) if share > 0 else together_s
