"""What a quota admits in a span of time, and how long it needs for a set of calls. Pure.

It reads the `timeline` of `GET /stats`, so that a ledger in another process judges by the limits that held.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_S_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A span of time in which one set of limits held. `end_at` is None for the one that still runs."""

    start_at: float
    end_at: float | None
    requests_per_minute: float
    tokens_per_minute: float
    burst_requests: float
    burst_tokens: float
    cut: bool = False
    retry_after_s: float | None = None

    @property
    def requests_per_s(self) -> float:
        """Requests admitted a second; none during a cut."""
        return 0.0 if self.cut else self.requests_per_minute / _S_PER_MINUTE

    @property
    def tokens_per_s(self) -> float:
        """Tokens admitted a second; none during a cut."""
        return 0.0 if self.cut else self.tokens_per_minute / _S_PER_MINUTE

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
        "requests_per_minute": period.requests_per_minute,
        "tokens_per_minute": period.tokens_per_minute,
        "burst_requests": period.burst_requests,
        "burst_tokens": period.burst_tokens,
        "cut": period.cut,
        "retry_after_s": period.retry_after_s,
    }


def admissible(timeline: Sequence[Period], start_at: float, end_at: float) -> tuple[float, float]:
    """Return the requests and the tokens that the limits admit in [start_at, end_at), bursts left out.

    Efficiency over a span is the larger of requests admitted / admissible and tokens admitted / admissible:
    the dimension that binds.
    """
    spans = [(period, period.overlap_s(start_at, end_at)) for period in timeline]
    return (
        sum(period.requests_per_s * span_s for period, span_s in spans),
        sum(period.tokens_per_s * span_s for period, span_s in spans),
    )


def ideal_s(
    timeline: Sequence[Period], *, started_at: float, requests: float, tokens: float, latency_s: float
) -> float:
    """Return the seconds from `started_at` until the quota has admitted all of it and the last answer came.

    The bucket is full at the start and fills during a cut. Infinite while a cut runs that it must
    outlast.
    """
    if requests <= 0:
        return 0.0
    for_requests = [(p, p.requests_per_minute / _S_PER_MINUTE, p.burst_requests) for p in timeline]
    for_tokens = [(p, p.tokens_per_minute / _S_PER_MINUTE, p.burst_tokens) for p in timeline]
    done_at = max(
        _admitted_at(for_requests, started_at, requests), _admitted_at(for_tokens, started_at, tokens)
    )
    return done_at - started_at + latency_s


def _admitted_at(timeline: Sequence[tuple[Period, float, float]], started_at: float, amount: float) -> float:
    """When all of the amount is admitted to a caller that takes whatever there is at once."""
    left, at = amount, started_at
    spared: float | None = None  # None: nothing asked yet, the bucket is full
    for period, rate_per_s, burst in timeline:
        span_s = (math.inf if period.end_at is None else period.end_at) - at
        if span_s <= 0:
            continue
        if period.cut:
            spared = burst if spared is None else min(burst, spared + span_s * rate_per_s)
        else:
            left -= burst if spared is None else spared
            spared = 0.0
            if left <= span_s * rate_per_s:
                return at + max(0.0, left) / rate_per_s
            left -= span_s * rate_per_s
        at += span_s
    return math.inf
