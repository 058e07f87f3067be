"""What a bout comes to. Pure; the figures' meanings are in docs/benchmarks.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.duel.bout import Bout
from benchmarks.duel.workload import Workload

LARGE_TOKENS = 5_000
# A large call that still waits at the end was never served if it waited this often an ideal queue's mean.
_NEVER_SERVED_AFTER = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One bout's figures; waits in seconds, shares of 1."""

    calls: int
    utilisation: float
    most_in_a_window: float
    refused_per_1000: float
    redis_messages_per_call: float
    script_us_per_call: float
    redis_cpu_us_per_call: float
    wait_p50_s: float
    wait_p99_s: float
    p99_to_ideal: float
    large_to_small: float
    large_served: int
    never_served: int
    fairness: float
    workers_cpu: float
    harness_cpu: float
    judge_p99_ms: float


def figures(bout: Bout, workload: Workload) -> Figures:
    """Judge the steady state: what was asked of the provider after the warm-up."""
    span_s = workload.measured_s
    sent = [call for call in bout.sent if 0 <= call.at < span_s]
    served = [call for call in bout.served if 0 <= call.sent_at < span_s]
    waits = sorted(call.sent_at - call.asked_at for call in served)
    large = [call.sent_at - call.asked_at for call in served if call.tokens > LARGE_TOKENS]
    small = [call.sent_at - call.asked_at for call in served if call.tokens <= LARGE_TOKENS]
    too_long_s = _NEVER_SERVED_AFTER * workload.processes * workload.callers * workload.mean_refill_s
    calls = max(1, len(served))
    return Figures(
        calls=len(served),
        utilisation=utilisation(bout, workload),
        most_in_a_window=most_in_a_window(bout, workload),
        refused_per_1000=1000 * sum(call.wait_s > 0 for call in sent) / calls,
        redis_messages_per_call=bout.load.redis_messages / calls,
        script_us_per_call=bout.load.script_us / calls,
        redis_cpu_us_per_call=1e6 * bout.load.redis_cpu_s / calls,
        wait_p50_s=quantile(waits, 0.5),
        wait_p99_s=quantile(waits, 0.99),
        p99_to_ideal=quantile(waits, 0.99) / quantile(ideal_waits(bout, workload), 0.99),
        large_to_small=_mean(large) / _mean(small) if large and small and _mean(small) else math.nan,
        large_served=len(large),
        never_served=sum(
            tokens > LARGE_TOKENS and span_s - asked_at > too_long_s for asked_at, tokens in bout.pending
        ),
        fairness=jain([sum(call.process == p for call in served) for p in range(workload.processes)]),
        workers_cpu=bout.load.workers_cpu_s / bout.load.seconds,
        harness_cpu=bout.load.judge_cpu_s / bout.load.seconds,
        judge_p99_ms=1e3 * quantile(sorted(bout.judge_round_trips_s), 0.99),
    )


def utilisation(bout: Bout, workload: Workload) -> float:
    """Return the share of the dimension that binds.

    A call counts over the time in which the limit refills it, so that a large one at an edge of the measured
    time counts only with the part that lies inside.
    """
    span_s = workload.measured_s

    def share(limit: int, costs: Iterable[tuple[float, int]]) -> float:
        per_unit_s = workload.window_s / limit
        inside = (min(span_s, at + cost * per_unit_s) - max(0.0, at) for at, cost in costs)
        return sum(max(0.0, part_s) for part_s in inside) / span_s

    shares = [share(workload.requests_per_window, ((call.sent_at, 1) for call in bout.served))]
    if workload.tokens_per_window:
        tokens = ((call.sent_at, call.tokens) for call in bout.served)
        shares.append(share(workload.tokens_per_window, tokens))
    return max(shares)


def most_in_a_window(bout: Bout, workload: Workload) -> float:
    """Return the most that was sent in any window's length, refused or not, as a share of the limit."""
    sent = [call for call in bout.sent if 0 <= call.at < workload.measured_s]
    most, first, tokens = 0.0, 0, 0
    for last, call in enumerate(sent):
        tokens += call.tokens
        while sent[first].at <= call.at - workload.window_s:
            tokens -= sent[first].tokens
            first += 1
        most = max(most, (last - first + 1) / workload.requests_per_window)
        if workload.tokens_per_window:
            most = max(most, tokens / workload.tokens_per_window)
    return most


def ideal_waits(bout: Bout, workload: Workload) -> list[float]:
    """Return the sorted waits of the measured calls, had they gone in one queue at exactly the limit.

    First come first served with n callers, a call is asked for when its caller's last one was answered, n
    calls earlier: it waits for the refill of those n, less the latency. The sizes are those that were served,
    in their order: so the ratio does not hang on which sizes a bout happened to draw.
    """
    callers = workload.processes * workload.callers
    in_order = sorted(bout.served, key=lambda call: call.sent_at)
    refilled_s = [0.0, *itertools.accumulate(workload.refill_s(call.tokens) for call in in_order)]
    return sorted(
        refilled_s[last] - refilled_s[last - callers] - workload.latency_s
        for last in range(callers, len(in_order))
        if 0 <= in_order[last].sent_at < workload.measured_s
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the ordered ones do not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def jain(amounts: Sequence[int]) -> float:
    """Return Jain's index: 1 when all got the same, 1/n when one got all."""
    squares = len(amounts) * sum(amount**2 for amount in amounts)
    return sum(amounts) ** 2 / squares if squares else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
