"""How the simulator counts: never more than the limit, never less than it when asked for all of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.local.provider.quota import Enforcement, Limits, Quota

_START_S = 1_800_000_000.0


def _limits(
    enforcement: Enforcement = Enforcement.BUCKET,
    requests: float = 3000,
    tokens: float = 600_000,
    burst_s: float = 0.2,
) -> Limits:
    return Limits(
        enforcement=enforcement,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        burst_s=burst_s,
    )


def _admitted(quota: Quota, calls: list[tuple[float, int]]) -> list[tuple[float, int]]:
    return [(at, tokens) for at, tokens in calls if quota.take(tokens, at) == 0]


def _most_in_any_window(admitted: list[tuple[float, int]], window_s: float) -> int:
    return max(
        (sum(1 for at, _ in admitted if start <= at < start + window_s) for start, _ in admitted), default=0
    )


_CALLS = st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 3000)), min_size=1, max_size=200).map(
    lambda steps: [
        (_START_S + sum(step for step, _ in steps[: index + 1]), tokens)
        for index, (_, tokens) in enumerate(steps)
    ]
)


@settings(max_examples=60, deadline=None)
@given(calls=_CALLS, enforcement=st.sampled_from(Enforcement), requests=st.floats(20, 6000))
def test_no_window_admits_more_than_the_limit_and_the_burst(
    calls: list[tuple[float, int]], enforcement: Enforcement, requests: float
) -> None:
    """For every window: limit x window + burst, by a count over all windows."""
    limits = _limits(enforcement, requests)
    admitted = _admitted(Quota(limits, _START_S), calls)
    for window_s in (0.5, 1.0, 3.0):
        bound = requests / 60 * window_s + limits.burst_requests
        assert _most_in_any_window(admitted, window_s) <= math.floor(bound + 1e-6) + (
            1 if enforcement is Enforcement.SLICE else 0
        )


@settings(max_examples=60, deadline=None)
@given(calls=_CALLS, enforcement=st.sampled_from(Enforcement))
def test_a_refused_call_goes_after_the_wait_that_it_was_told(
    calls: list[tuple[float, int]], enforcement: Enforcement
) -> None:
    """The wait is exact enough to be obeyed, if nobody else comes, and no shorter one would do."""
    quota = Quota(_limits(enforcement, requests=600, tokens=60_000), _START_S)
    for at, tokens in calls:
        wait_s = quota.take(tokens, at)
        if wait_s > 0:
            if wait_s > 0.02:
                assert quota.take(tokens, at + wait_s - 0.01) > 0
            assert quota.take(tokens, at + wait_s + 1e-6) == 0
            return


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_a_caller_that_always_asks_gets_all_of_the_rate(enforcement: Enforcement) -> None:
    """Over a minute the limit is admitted in full, not a rounding less (100 a minute are no whole number)."""
    quota = Quota(_limits(enforcement, requests=100), _START_S)
    admitted = sum(quota.take(1, _START_S + tick / 100) == 0 for tick in range(6000))
    assert 100 <= admitted <= 102


def test_a_call_larger_than_the_burst_goes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    """Else it would never go; what it took too much is waited for afterwards."""
    quota = Quota(_limits(tokens=60_000, burst_s=1.0), _START_S)
    assert quota.take(10_000, _START_S) == 0
    assert quota.take(1, _START_S) == pytest.approx((10_000 - 4096 + 1) / 1000)


def test_a_call_larger_than_a_minute_of_tokens_never_goes() -> None:
    """No wait helps it, and it costs nothing to be told."""
    quota = Quota(_limits(tokens=1000), _START_S)
    assert quota.take(1001, _START_S) == math.inf
    assert quota.take(1000, _START_S) == 0


def test_a_refused_call_charges_nothing() -> None:
    """Not even the dimension that had room."""
    quota = Quota(_limits(requests=60, burst_s=1.0), _START_S)
    assert quota.take(100, _START_S) == 0
    used = quota.tokens.used(_START_S)
    assert quota.take(100, _START_S) > 0
    assert quota.tokens.used(_START_S) == used


def test_a_slice_begins_with_the_calendar_second() -> None:
    """What one second did not take is gone, and the next one is whole."""
    quota = Quota(_limits(Enforcement.SLICE, requests=120), _START_S)
    times = [_START_S + at for at in (0.9, 0.91, 0.92, 1.0, 1.01, 1.02)]
    assert [quota.take(1, at) == 0 for at in times] == [True, True, False, True, True, False]


def test_a_call_larger_than_a_slice_is_paid_back_by_the_next_ones() -> None:
    """Three and a half seconds of tokens at once: the fourth second has half of its share left."""
    quota = Quota(_limits(Enforcement.SLICE, tokens=60_000), _START_S)
    assert quota.take(3500, _START_S) == 0
    assert quota.take(500, _START_S + 0.5) == pytest.approx(2.5)
    assert quota.take(500, _START_S + 2.9) > 0
    assert quota.take(501, _START_S + 3.0) > 0
    assert quota.take(500, _START_S + 3.0) == 0


def test_output_charged_late_may_leave_a_debt() -> None:
    """What was given out is charged, room or not."""
    quota = Quota(_limits(tokens=60_000), _START_S)
    quota.charge_late(5096, _START_S)
    assert quota.take(1, _START_S) == pytest.approx(1.001)


def test_other_limits_keep_what_was_used() -> None:
    """Raising a limit does not hand out a fresh burst."""
    quota = Quota(_limits(requests=600, burst_s=1.0), _START_S)
    for _ in range(10):
        quota.take(1, _START_S)
    quota.change(_limits(requests=1200, burst_s=0.5), _START_S)
    assert quota.take(1, _START_S) == pytest.approx(1 / 20)
    assert quota.requests.full_in_s(_START_S) == pytest.approx(0.5)
