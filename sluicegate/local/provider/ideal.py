"""What a quota admits in a span of time, and how long it needs for a set of calls. Pure.

It reads the `timeline` of `GET /stats`, so that a ledger in another process judges by the limits that held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_never

from sluicegate.local.provider.greedy import Flow, Greedy, given_at, given_before
from sluicegate.local.provider.quota import Dimension, Enforcement, Limits

_S_PER_MINUTE = 60.0


class Limited(NamedTuple):
    """What holds for one dimension: its rate, and what may come at once."""

    per_minute: float
    burst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A span of time in which one set of limits held. `end_at` is None for the one that still runs."""

    start_at: float
    end_at: float | None
    enforcement: Enforcement
    window_s: float
    limited: Mapping[Dimension, Limited]
    cut: bool = False
    retry_after_s: float | None = None

    def rate_per_s(self, dimension: Dimension) -> float:
        """Return the mean of what is admitted a second outside cuts; infinite when it is not limited."""
        if dimension not in self.limited:
            return math.inf
        per_minute, burst = self.limited[dimension]
        # A window's limit is whole units: its rate may be a little less than the one that was asked for.
        return burst / self.window_s if self.enforcement.has_window else per_minute / _S_PER_MINUTE

    def overlap_s(self, start_at: float, end_at: float) -> float:
        """Seconds that this period and [start_at, end_at) have in common."""
        own_end = math.inf if self.end_at is None else self.end_at
        return max(0.0, min(own_end, end_at) - max(self.start_at, start_at))


def held_limits(limits: Limits) -> Mapping[Dimension, Limited]:
    """Return what limits hold for each dimension that they limit."""
    return {
        dimension: Limited(per_minute=per_minute, burst=limits.burst(dimension))
        for dimension, per_minute in limits.per_minute.items()
    }


def read_timeline(stats: Mapping[str, Any]) -> tuple[Period, ...]:
    """Return the periods of an answer of `GET /stats`, oldest first."""
    return tuple(
        Period(
            start_at=period["from"],
            end_at=period["to"],
            enforcement=Enforcement(period["enforcement"]),
            window_s=period["window_s"],
            limited={
                dimension: Limited(
                    per_minute=period[f"{dimension}_per_minute"], burst=period[f"burst_{dimension}"]
                )
                for dimension in Dimension
                if period[f"{dimension}_per_minute"] is not None
            },
            cut=period["cut"],
            retry_after_s=period["retry_after_s"],
        )
        for period in stats["timeline"]
    )


def write_period(period: Period) -> dict[str, Any]:
    """Return a period as `GET /stats` shows it."""
    return {
        "from": period.start_at,
        "to": period.end_at,
        "enforcement": period.enforcement.value,
        "window_s": period.window_s,
        **write_limits(period.limited),
        "cut": period.cut,
        "retry_after_s": period.retry_after_s,
    }


def write_limits(limited: Mapping[Dimension, Limited]) -> dict[str, float | None]:
    """Return rates and bursts as `GET /stats` shows them; null where nothing is limited."""
    shown: dict[str, float | None] = {}
    for dimension in Dimension:
        held = limited.get(dimension)
        shown[f"{dimension}_per_minute"] = None if held is None else held.per_minute
        shown[f"burst_{dimension}"] = None if held is None else held.burst
    return shown


def admissible(timeline: Sequence[Period], start_at: float, end_at: float) -> tuple[float, float]:
    """Return the requests and the tokens that the limits admit in [start_at, end_at), bursts left out.

    That is the mean rate of every model; a window's is its limit over its length. Efficiency over a span is
    the larger of requests admitted / admissible and tokens admitted / admissible: the dimension that binds.
    """
    spans = [
        (period, span_s)
        for period in timeline
        if not period.cut and (span_s := period.overlap_s(start_at, end_at)) > 0
    ]
    return (
        sum(period.rate_per_s(Dimension.REQUESTS) * span_s for period, span_s in spans),
        sum(period.rate_per_s(Dimension.TOKENS) * span_s for period, span_s in spans),
    )


def most_admissible(timeline: Sequence[Period], start_at: float, end_at: float) -> tuple[float, float]:
    """Return the most requests and tokens that may be admitted in [start_at, end_at), bursts included.

    A bucket's burst and its rate; the whole limit of each fixed window that the span touches; of a log a
    window's limit at once, and as much again whenever a window has passed.
    """
    return (
        given_before(end_at, _flows(timeline, Dimension.REQUESTS, start_at)),
        given_before(end_at, _flows(timeline, Dimension.TOKENS, start_at)),
    )


def ideal_s(
    timeline: Sequence[Period], *, started_at: float, used: Mapping[Dimension, float], latency_s: float
) -> float:
    """Return the seconds from `started_at` until the quota has admitted all of it and the last answer came.

    Nothing is used at the start, and a bucket fills during a cut. Fixed windows give their limit from the
    first call's window on, a log its whole window at the start. Infinite while a cut runs that it must
    outlast. Strangers are left out: it is what the whole quota needs.
    """
    if used.get(Dimension.REQUESTS, 0) <= 0:
        return 0.0
    done_at = max(
        given_at(amount, started_at, _flows(timeline, dimension, started_at))
        for dimension, amount in used.items()
    )
    return done_at - started_at + latency_s


def _flows(timeline: Sequence[Period], dimension: Dimension, started_at: float) -> Iterator[Flow]:
    """Give what a greedy caller is given from `started_at`, oldest first; without end if a period is."""
    state = Greedy()
    for period in timeline:
        end_at = math.inf if period.end_at is None else period.end_at
        if end_at <= started_at:
            continue
        start_at = max(period.start_at, started_at)
        limited = period.limited.get(dimension)
        if limited is None:
            if not period.cut:
                yield Flow(start_at, math.inf)
            continue
        match period.enforcement:
            case Enforcement.BUCKET | Enforcement.SLICE:
                yield from state.fill(
                    period.rate_per_s(dimension), limited.burst, start_at, end_at, is_cut=period.cut
                )
            case Enforcement.FIXED if not period.cut:
                yield from state.windows(limited.burst, period.window_s, start_at, end_at)
            case Enforcement.LOG if not period.cut:
                yield from state.log(limited.burst, period.window_s, start_at, end_at)
            case Enforcement.FIXED | Enforcement.LOG:
                pass  # a cut admits nothing, and what was taken ages all the same
            case _:
                assert_never(period.enforcement)
