"""What a quota admits in a span of time, and how long it needs for a set of calls. Pure.

It reads the `timeline` of `GET /stats`, so that a ledger in another process judges by the limits that held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_never

from sluicegate.local.provider.greedy import Flow, Greedy, given_at, given_before
from sluicegate.local.provider.quota import Enforcement

_S_PER_MINUTE = 60.0


class _Dimension(NamedTuple):
    """One dimension of a period: its mean rate, and what may come at once."""

    rate_per_s: float
    burst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A span of time in which one set of limits held. `end_at` is None for the one that still runs."""

    start_at: float
    end_at: float | None
    enforcement: Enforcement
    window_s: float
    requests_per_minute: float
    tokens_per_minute: float
    burst_requests: float
    burst_tokens: float
    cut: bool = False
    retry_after_s: float | None = None

    @property
    def requests_per_s(self) -> float:
        """Requests admitted a second; none during a cut."""
        return 0.0 if self.cut else self.requests.rate_per_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens admitted a second; none during a cut."""
        return 0.0 if self.cut else self.tokens.rate_per_s

    @property
    def requests(self) -> _Dimension:
        """What outside cuts holds for requests."""
        return self._dimension(self.requests_per_minute, self.burst_requests)

    @property
    def tokens(self) -> _Dimension:
        """What outside cuts holds for tokens."""
        return self._dimension(self.tokens_per_minute, self.burst_tokens)

    def _dimension(self, per_minute: float, burst: float) -> _Dimension:
        # A window's limit is whole units: its rate may be a little less than the one that was asked for.
        rate_per_s = burst / self.window_s if self.enforcement.has_window else per_minute / _S_PER_MINUTE
        return _Dimension(rate_per_s=rate_per_s, burst=burst)

    def overlap_s(self, start_at: float, end_at: float) -> float:
        """Seconds that this period and [start_at, end_at) have in common."""
        own_end = math.inf if self.end_at is None else self.end_at
        return max(0.0, min(own_end, end_at) - max(self.start_at, start_at))


def read_timeline(stats: Mapping[str, Any]) -> tuple[Period, ...]:
    """Return the periods of an answer of `GET /stats`, oldest first."""
    return tuple(
        Period(
            start_at=period["from"],
            end_at=period["to"],
            enforcement=Enforcement(period["enforcement"]),
            window_s=period["window_s"],
            requests_per_minute=period["requests_per_minute"],
            tokens_per_minute=period["tokens_per_minute"],
            burst_requests=period["burst_requests"],
            burst_tokens=period["burst_tokens"],
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
        "requests_per_minute": period.requests_per_minute,
        "tokens_per_minute": period.tokens_per_minute,
        "burst_requests": period.burst_requests,
        "burst_tokens": period.burst_tokens,
        "cut": period.cut,
        "retry_after_s": period.retry_after_s,
    }


def admissible(timeline: Sequence[Period], start_at: float, end_at: float) -> tuple[float, float]:
    """Return the requests and the tokens that the limits admit in [start_at, end_at), bursts left out.

    That is the mean rate of every model; a window's is its limit over its length. Efficiency over a span is
    the larger of requests admitted / admissible and tokens admitted / admissible: the dimension that binds.
    """
    spans = [(period, period.overlap_s(start_at, end_at)) for period in timeline]
    return (
        sum(period.requests_per_s * span_s for period, span_s in spans),
        sum(period.tokens_per_s * span_s for period, span_s in spans),
    )


def most_admissible(timeline: Sequence[Period], start_at: float, end_at: float) -> tuple[float, float]:
    """Return the most requests and tokens that may be admitted in [start_at, end_at), bursts included.

    A bucket's burst and its rate; the whole limit of each fixed window that the span touches; of a log a
    window's limit at once, and as much again whenever a window has passed.
    """
    return (
        given_before(end_at, _flows(timeline, [p.requests for p in timeline], start_at)),
        given_before(end_at, _flows(timeline, [p.tokens for p in timeline], start_at)),
    )


def ideal_s(
    timeline: Sequence[Period], *, started_at: float, requests: float, tokens: float, latency_s: float
) -> float:
    """Return the seconds from `started_at` until the quota has admitted all of it and the last answer came.

    Nothing is used at the start, and a bucket fills during a cut. Fixed windows give their limit from the
    first call's window on, a log its whole window at the start. Infinite while a cut runs that it must
    outlast.
    """
    if requests <= 0:
        return 0.0
    done_at = max(
        given_at(requests, started_at, _flows(timeline, [p.requests for p in timeline], started_at)),
        given_at(tokens, started_at, _flows(timeline, [p.tokens for p in timeline], started_at)),
    )
    return done_at - started_at + latency_s


def _flows(timeline: Sequence[Period], dimensions: Sequence[_Dimension], started_at: float) -> Iterator[Flow]:
    """Give what a greedy caller is given from `started_at`, oldest first; without end if a period is."""
    state = Greedy()
    for period, dimension in zip(timeline, dimensions, strict=True):
        end_at = math.inf if period.end_at is None else period.end_at
        if end_at <= started_at:
            continue
        start_at = max(period.start_at, started_at)
        match period.enforcement:
            case Enforcement.BUCKET | Enforcement.SLICE:
                yield from state.fill(*dimension, start_at, end_at, is_cut=period.cut)
            case Enforcement.FIXED if not period.cut:
                yield from state.windows(dimension.burst, period.window_s, start_at, end_at)
            case Enforcement.LOG if not period.cut:
                yield from state.log(dimension.burst, period.window_s, start_at, end_at)
            case Enforcement.FIXED | Enforcement.LOG:
                pass  # a cut admits nothing, and what was taken ages all the same
            case _:
                assert_never(period.enforcement)
