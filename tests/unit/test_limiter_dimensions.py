"""Each limit of a scope by itself, over many processes in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from sluicegate.limiter.api import Cost, Dimension, Lane
from sluicegate.limiter.booking import (
    MINUTE_DIMENSIONS,
    Batch,
    CircuitReason,
    News,
    Quota,
    Reply,
    Request,
    SignalCode,
    Verdict,
    day_units,
    minute_units,
)
from sluicegate.limiter.stored import Stored
from sluicegate.local.provider.meters import FixedWindows, Meter, SlidingLog
from tests.unit.limiter_crowd import HOUR_US, Crowd
from tests.unit.limiter_process import SECOND_US, Outcome

_MINUTE = {
    Dimension.REQUESTS: Quota(requests_per_minute=1_200),
    Dimension.TOKENS: Quota(tokens_per_minute=900_000),
    Dimension.INPUT_TOKENS: Quota(input_tokens_per_minute=600_000),
    Dimension.OUTPUT_TOKENS: Quota(output_tokens_per_minute=90_000),
}
_DAY = {
    Dimension.DAILY_REQUESTS: Quota(requests_per_day=1_500),
    Dimension.DAILY_TOKENS: Quota(tokens_per_day=2_000_000),
    Dimension.DAILY_DOLLARS: Quota(dollars_per_day=12.5),
}


def _sizes(crowd: Crowd, largest: int = 6_000) -> Callable[[], Cost]:
    """Return a source of calls of log-normal size."""

    def cost() -> Cost:
        size = min(largest, max(1, int(crowd.random.lognormvariate(6.8, 0.7))))
        output = max(1, size // 10)
        return Cost(tokens=size, input_tokens=size - output, output_tokens=output, micro_dollars=size * 10)

    return cost


def _hungry(quota: Quota, *, seconds: float, seed: int = 1, largest: int = 6_000) -> Crowd:
    crowd = Crowd(quota, processes=4, seed=seed)
    for process in crowd.processes:
        process.hungry[Lane.BULK if process.index % 2 else Lane.INTERACTIVE] = _sizes(crowd, largest)
    crowd.run(seconds)
    return crowd


def _most_over_pace(calls: list[tuple[int, float]], per_us: float) -> float:
    """Return the most that any window took beyond its length at that pace."""
    taken, least, most = 0.0, float("inf"), 0.0
    for at_us, units in calls:
        least = min(least, taken - at_us * per_us)
        taken += units
        most = max(most, taken - at_us * per_us - least)
    return most


# --- the minute -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dimension", MINUTE_DIMENSIONS)
def test_no_window_takes_more_than_its_share_and_one_large_call(dimension: Dimension, seed: int) -> None:
    """Four hungry processes: any window <= pace x window + max(burst, largest call), and nothing idles."""
    quota, index = _MINUTE[dimension], MINUTE_DIMENSIONS.index(dimension)
    crowd = _hungry(quota, seconds=300, seed=seed)
    per_us = quota.per_minute[index] / 60e6
    calls = [(call.start_us, float(minute_units(call.cost)[index])) for call in crowd.calls]
    allowed = max(quota.burst_us * per_us, *(units for _, units in calls))
    assert _most_over_pace(calls, per_us) <= allowed * 1.001 + 1
    assert sum(units for _, units in calls) >= 0.99 * per_us * 300e6


@pytest.mark.parametrize(("reserved", "least"), [(130, 0.97), (300, 0.85)])
def test_what_was_reserved_too_much_comes_back(reserved: int, least: float) -> None:
    """Calls that reserve too much use nearly all of the limit; three times too much costs a tenth."""
    crowd = Crowd(Quota(output_tokens_per_minute=60_000), processes=3)
    crowd.provider = lambda call: Outcome(actual=Cost(output_tokens=100))
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = lambda: Cost(output_tokens=reserved)
    crowd.run(120)
    assert least * 120_000 <= len(crowd.calls) * 100 <= 120_000 + 3 * reserved


@pytest.mark.parametrize("judge", ["sliding log", "fixed window"])
def test_a_strict_window_is_never_refused(judge: str) -> None:
    """Judged by calls and by tokens in exact minutes, 5 minutes of hungry work see no refusal at all."""
    quota = Quota(
        requests_per_minute=3_000,
        tokens_per_minute=1_200_000,
        strict_window_s=60,
        largest_call_tokens=6_000,
    )
    crowd = _hungry(quota, seconds=300)
    refused = 0
    for index in (0, 1):
        limit = quota.per_minute[index]
        start_s = crowd.calls[0].start_us / 1e6
        meter: Meter = SlidingLog(60, limit) if judge == "sliding log" else FixedWindows(60, limit, start_s)
        for call in crowd.calls:
            units, at_s = float(minute_units(call.cost)[index]), call.start_us / 1e6
            refused += meter.wait_s(units, at_s) > 0
            meter.charge(units, at_s)
    assert refused == 0
    assert sum(call.cost.tokens for call in crowd.calls) >= 0.99 * 5 * 1_200_000


# --- calls at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 7])
def test_never_more_calls_on_the_wire_than_allowed(slots: int) -> None:
    """Calls of half a second to 25 seconds by four processes: never more at once, and never far fewer."""
    crowd = Crowd(Quota(concurrency=slots), processes=4, width=slots, seed=4)
    crowd.provider = lambda call: Outcome(latency_us=int(crowd.random.choice([0.5, 1, 25]) * SECOND_US))
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = Cost
    crowd.run(600)
    assert crowd.most_on_wire == slots
    assert _busy_s(crowd) >= 0.95 * slots * 600


def _busy_s(crowd: Crowd) -> float:
    """Return the seconds on the wire of all calls, the mean of their latencies for each."""
    return len(crowd.calls) * (0.5 + 1 + 25) / 3


# --- the day ----------------------------------------------------------------------------------------


def _work_by_the_hour(quota: Quota, *, days: int, seed: int) -> Crowd:
    """Let calls arrive hour by hour, some hours none and some more than a day's limit."""
    crowd = Crowd(quota, processes=2, look_us=HOUR_US, seed=seed)
    crowd.provider = lambda call: Outcome(actual=_half(call.cost))
    cost = _sizes(crowd)
    for _ in range(days * 24):
        for _ in range(crowd.random.choice([0, 0, 50, 300, 700])):
            crowd.random.choice(crowd.processes).arrive(Lane.BULK, cost())
        crowd.run(3_600)
    return crowd


def _units(crowd: Crowd, index: int) -> list[tuple[int, float]]:
    return [(call.start_us, float(day_units(_half(call.cost))[index])) for call in crowd.calls]


def _half(cost: Cost) -> Cost:
    return replace(cost, tokens=cost.tokens // 2)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("dimension", list(_DAY))
def test_no_24_hours_take_more_than_the_days_limit(dimension: Dimension, seed: int) -> None:
    """Three days, any 24 hours of them, as the provider counts: within the limit, and close to it."""
    quota, index = _DAY[dimension], list(_DAY).index(dimension)
    calls, limit = _units(_work_by_the_hour(quota, days=3, seed=seed), index), quota.per_day[index]
    most = total = 0.0
    oldest = 0
    for at_us, units in calls:
        total += units
        while calls[oldest][0] <= at_us - 24 * HOUR_US:
            total -= calls[oldest][1]
            oldest += 1
        most = max(most, total)
    assert most <= limit
    assert sum(units for _, units in calls) >= 0.9 * limit * 3 * 24 / 25


@pytest.mark.parametrize("dimension", list(_DAY))
def test_a_used_up_day_blocks_until_its_hour_leaves_and_a_raised_limit_lifts_it(dimension: Dimension) -> None:
    """The block names the day's limit and ends 24 hours after the used hour's end; more limit ends it now."""
    quota = _DAY[dimension]
    crowd = _hungry(quota, seconds=1_500)
    ask = Batch(requests=(Request(cost=Cost(tokens=1_000, micro_dollars=10_000)),))
    reply = crowd.send(0, ask)
    free_at_us = (crowd.calls[0].start_us // HOUR_US + 25) * HOUR_US
    assert (reply.blocked_by, reply.blocked_until_us) == (dimension, free_at_us)
    answer = reply.answers[0]
    assert (answer.verdict, answer.dimension) == (Verdict.RETRY, dimension)
    assert answer.wait_us == free_at_us - crowd.now_us - ask.horizon_us

    crowd.quota = Quota(requests_per_day=3_000, tokens_per_day=4_000_000, dollars_per_day=25)
    reply = crowd.send(0, ask)
    assert reply.blocked_until_us <= crowd.now_us
    assert (reply.answers[0].verdict, reply.answers[0].wait_us) == (Verdict.BOOKED, 0)


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_what_was_booked_before_a_day_was_used_up_is_called(is_confirmed: bool) -> None:
    """Crossing 99 % of the day's limit blocks what comes next, not the very calls that crossed it."""
    quota = Quota(requests_per_day=5, requests_per_minute=20 if is_confirmed else 1_200)
    crowd = Crowd(quota, processes=2)
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = Cost
    crowd.run(60)
    assert len(crowd.calls) == 5
    assert crowd.send(0, Batch()).blocked_by is Dimension.DAILY_REQUESTS


def test_work_goes_on_in_the_moment_a_used_up_day_ends() -> None:
    """Hungry processes obey the wait that they were told, and call right when the hour leaves."""
    crowd = Crowd(Quota(requests_per_day=100, requests_per_minute=600), processes=3, look_us=HOUR_US)
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = Cost
    crowd.run(26 * 3_600)
    starts = [call.start_us for call in crowd.calls]
    gap_us, resumed_us = max((after - before, after) for before, after in pairwise(starts))
    assert resumed_us == (starts[0] // HOUR_US + 25) * HOUR_US
    assert (len(starts), gap_us > 24 * HOUR_US) == (200, True)


# --- all or none ------------------------------------------------------------------------------------

_FULL = Quota(
    requests_per_minute=60,
    tokens_per_minute=6_000,
    input_tokens_per_minute=6_000,
    output_tokens_per_minute=6_000,
    requests_per_day=50,
    tokens_per_day=50_000,
    dollars_per_day=1,
    concurrency=40,
)
_DOLLAR = 1_000_000


def _spend(cost: Cost, times: int = 1) -> Callable[[Crowd], Reply]:
    return lambda crowd: crowd.send(0, Batch(requests=(Request(cost=cost),) * times))


@pytest.mark.parametrize(
    ("dimension", "quota", "use"),
    [
        (Dimension.REQUESTS, replace(_FULL, requests_per_minute=3), _spend(Cost(), 5)),
        (Dimension.TOKENS, _FULL, _spend(Cost(tokens=6_000))),
        (Dimension.INPUT_TOKENS, _FULL, _spend(Cost(input_tokens=6_000))),
        (Dimension.OUTPUT_TOKENS, _FULL, _spend(Cost(output_tokens=6_000))),
        (Dimension.DAILY_REQUESTS, replace(_FULL, requests_per_day=9), _spend(Cost(), 9)),
        (Dimension.DAILY_TOKENS, replace(_FULL, tokens_per_day=6_000), _spend(Cost(tokens=5_900))),
        (Dimension.DAILY_DOLLARS, _FULL, _spend(Cost(micro_dollars=_DOLLAR))),
        (Dimension.CONCURRENCY, replace(_FULL, requests_per_minute=600, concurrency=2), _spend(Cost(), 2)),
        (Dimension.BLOCKED, _FULL, lambda crowd: crowd.send(0, Batch(block_us=90 * SECOND_US))),
        (
            Dimension.CIRCUIT,
            _FULL,
            lambda crowd: crowd.tell(
                News(code=SignalCode.HALTED, started_us=crowd.now_us, reason=CircuitReason.MONEY)
            ),
        ),
        (
            Dimension.LANE,
            _FULL,
            lambda crowd: crowd.send(
                0,
                Batch(
                    is_hungry=True,
                    # Bulk's share takes one call at once and a second one ahead.
                    requests=(Request(cost=Cost()), *(Request(cost=Cost(), lane=Lane.BULK),) * 2),
                ),
            ),
        ),
    ],
)
def test_a_call_that_must_wait_takes_nothing_of_any_limit(
    dimension: Dimension, quota: Quota, use: Callable[[Crowd], Reply]
) -> None:
    """RETRY names what binds and leaves every bucket, day and place on the wire as it was."""
    crowd = Crowd(quota)
    use(crowd)
    before = crowd.stored
    cost = Cost(tokens=200, input_tokens=200, output_tokens=200, micro_dollars=100)
    horizon_us = 60 * SECOND_US if dimension in (Dimension.LANE, Dimension.CIRCUIT) else SECOND_US
    batch = Batch(requests=(Request(cost=cost, lane=Lane.BULK),), horizon_us=horizon_us)
    answer = crowd.send(1, batch).answers[0]
    assert (answer.verdict, answer.dimension) == (Verdict.RETRY, dimension)
    assert answer.wait_us > 0
    assert _taken(crowd.stored) == _taken(before)


def _taken(stored: Stored) -> object:
    state = stored.scope
    assert state is not None
    return state.tats_us, state.shares_us, state.newest, state.usual, stored.leases, stored.days
