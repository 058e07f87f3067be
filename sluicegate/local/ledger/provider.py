"""What the provider's own records say about the calls: over the limit, paid twice, how well used."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

WINDOWS_S = (1.0, 10.0, 60.0)
CUT_GRACE_S = 5.0
_THROTTLED = 429
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as the provider saw it, at `at_s` since the epoch.

    `request_id` is `<identity>/<step>/<attempt>`; `is_completed` means that the whole answer went out;
    `tokens` is what it was charged.
    """

    at_s: float
    request_id: str
    status: int
    is_admitted: bool
    is_completed: bool
    tokens: int

    @property
    def step(self) -> str:
        """The identity and the step without the attempt: what must be paid for once."""
        return self.request_id.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A time without any quota, in seconds since the epoch."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The provider's limits, outside its cuts. None is unlimited.

    `burst_requests` is what callers may send ahead of an even pace; `bucket_*` what the provider itself
    admits at once after a rest.
    """

    requests_per_minute: float | None
    tokens_per_minute: float | None
    burst_requests: float = 1.0
    bucket_requests: float = 0.0
    bucket_tokens: float = 0.0
    cuts: tuple[Cut, ...] = ()

    def open_s(self, start_s: float, end_s: float) -> float:
        """Return how much of this time was not cut."""
        cut_s = sum(max(0.0, min(end_s, cut.end_s) - max(start_s, cut.start_s)) for cut in self.cuts)
        return max(0.0, end_s - start_s - cut_s)

    def after_open_s(self, used_s: float, start_s: float) -> float:
        """Return when, from `start_s` on, this much time without cuts will have passed."""
        at_s = start_s + used_s
        for cut in sorted(self.cuts, key=lambda cut: cut.start_s):
            if cut.end_s > start_s and cut.start_s < at_s:
                at_s += cut.end_s - max(cut.start_s, start_s)
        return at_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderHistory:
    """Every call that reached the provider, and the limits that it enforced."""

    calls: tuple[Call, ...]
    quota: Quota

    @property
    def throttled(self) -> int:
        """How many calls were answered 429."""
        return sum(call.status == _THROTTLED for call in self.calls)

    @property
    def admitted(self) -> tuple[Call, ...]:
        """The calls that used quota."""
        return tuple(call for call in self.calls if call.is_admitted)


def count_paid_twice(calls: Iterable[Call]) -> int:
    """Count completed calls beyond the first for one event and step."""
    each = Counter(call.step for call in calls if call.is_completed)
    return sum(count - 1 for count in each.values())


def count_over_limit(calls: Iterable[Call], quota: Quota) -> int:
    """Return by how many calls the worst window of 1, 10 or 60 s was over limit x window + burst, less 1.

    The 1 is the fence post of a closed window: an exact pace puts one more call into it. No quota counts
    in a cut, but a window that overlaps a cut's first 5 s uses the limit before it: a cut is unannounced.
    """
    if quota.requests_per_minute is None:
        return 0
    times_s = sorted(call.at_s for call in calls)
    rate = quota.requests_per_minute / 60
    worst = 0.0
    for window_s in WINDOWS_S:
        for start_s in _window_starts(times_s, window_s, quota):
            end_s = start_s + window_s
            sent = bisect_right(times_s, end_s) - bisect_left(times_s, start_s)
            allowed = rate * _allowed_s(quota, start_s, end_s) + quota.burst_requests
            worst = max(worst, sent - allowed - 1)
    return math.ceil(worst - _TOLERANCE)


def _window_starts(times_s: Sequence[float], window_s: float, quota: Quota) -> Iterator[float]:
    """Yield the windows that can be the worst: they begin or end at a call, or at an edge of a cut."""
    for at_s in times_s:
        yield at_s
        yield at_s - window_s
    for cut in quota.cuts:
        for edge_s in (cut.start_s, cut.start_s + CUT_GRACE_S, cut.end_s):
            # Just beyond the edge: a window that only touches the grace does not overlap it.
            yield edge_s + _TOLERANCE
            yield edge_s - window_s - _TOLERANCE


def _allowed_s(quota: Quota, start_s: float, end_s: float) -> float:
    for cut in quota.cuts:
        if start_s < cut.start_s + CUT_GRACE_S and end_s > cut.start_s:
            return end_s - start_s
    return quota.open_s(start_s, end_s)


def ideal_s(history: ProviderHistory, *, start_s: float) -> float:
    """Return how long the provider's limits alone need from `start_s` for the calls that it admitted."""
    calls, quota = history.admitted, history.quota
    needed_s = 0.0
    if quota.requests_per_minute is not None:
        needed_s = (len(calls) - quota.bucket_requests) / (quota.requests_per_minute / 60)
    if quota.tokens_per_minute is not None:
        tokens = sum(call.tokens for call in calls) - quota.bucket_tokens
        needed_s = max(needed_s, tokens / (quota.tokens_per_minute / 60))
    return quota.after_open_s(max(needed_s, 0.0), start_s) - start_s


def efficiency(history: ProviderHistory, spans: Iterable[tuple[float, float]]) -> float | None:
    """Return what was admitted over what was admissible in these times, in the dimension that binds.

    None when nothing is limited or no time was open.
    """
    spans = tuple(spans)
    quota = history.quota
    open_s = sum(quota.open_s(*span) for span in spans)
    if open_s <= 0:
        return None
    used = [call for call in history.admitted if any(start <= call.at_s <= end for start, end in spans)]
    shares = []
    if quota.requests_per_minute is not None:
        shares.append(len(used) / (open_s * quota.requests_per_minute / 60))
    if quota.tokens_per_minute is not None:
        shares.append(sum(call.tokens for call in used) / (open_s * quota.tokens_per_minute / 60))
    return max(shares, default=None)
