"""How the simulator counts: never more than the limit, never less than it when asked for all of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.local.provider.quota import Dimension, Enforcement, Limits, Quota

_START_S = 1_800_000_000.0


def _limits(
    enforcement: Enforcement = Enforcement.BUCKET,
    requests: float = 3000,
    tokens: float = 600_000,
    burst_s: float = 0.2,
    window_s: float = 60,
) -> Limits:
    return Limits(
        enforcement=enforcement,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        burst_s=burst_s,
        window_s=window_s,
    )


def _take(quota: Quota, tokens: int, now_s: float) -> float:
    return quota.take({Dimension.REQUESTS: 1, Dimension.TOKENS: tokens}, now_s)


def _charge_late(quota: Quota, tokens: int, now_s: float) -> None:
    quota.charge({Dimension.TOKENS: tokens}, now_s)


def _admitted(quota: Quota, calls: list[tuple[float, int]]) -> list[tuple[float, int]]:
    return [(at, tokens) for at, tokens in calls if _take(quota, tokens, at) == 0]


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
    limits = _limits(enforcement, requests, window_s=6)
    admitted = _admitted(Quota(limits, _START_S), calls)
    for window_s in (0.5, 1.0, 3.0):
        bound = requests / 60 * window_s + limits.burst(Dimension.REQUESTS)
        assert _most_in_any_window(admitted, window_s) <= math.floor(bound + 1e-6) + (
            1 if enforcement is Enforcement.SLICE else 0
        ) + (
            # One fixed window's end and the next one's beginning may lie in it.
            limits.burst(Dimension.REQUESTS) if enforcement is Enforcement.FIXED else 0
        )


@settings(max_examples=60, deadline=None)
@given(calls=_CALLS, enforcement=st.sampled_from(Enforcement))
def test_a_refused_call_goes_after_the_wait_that_it_was_told(
    calls: list[tuple[float, int]], enforcement: Enforcement
) -> None:
    """The wait is exact enough to be obeyed, if nobody else comes, and no shorter one would do."""
    quota = Quota(_limits(enforcement, requests=600, tokens=60_000), _START_S)
    for at, tokens in calls:
        wait_s = _take(quota, tokens, at)
        if wait_s > 0:
            if wait_s == math.inf:
                continue
            if wait_s > 0.02:
                assert _take(quota, tokens, at + wait_s - 0.01) > 0
            assert _take(quota, tokens, at + wait_s + 1e-6) == 0
            return


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_a_caller_that_always_asks_gets_all_of_the_rate(enforcement: Enforcement) -> None:
    """Over a minute the limit is admitted in full, not a rounding less (100 a minute are no whole number)."""
    quota = Quota(_limits(enforcement, requests=100), _START_S)
    admitted = sum(_take(quota, 1, _START_S + tick / 100) == 0 for tick in range(6000))
    assert 100 <= admitted <= 102


def test_a_call_larger_than_the_burst_goes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    """Else it would never go; what it took too much is waited for afterwards."""
    quota = Quota(_limits(tokens=60_000, burst_s=1.0), _START_S)
    assert _take(quota, 10_000, _START_S) == 0
    assert _take(quota, 1, _START_S) == pytest.approx((10_000 - 4096 + 1) / 1000)


def test_a_call_larger_than_a_minute_of_tokens_never_goes() -> None:
    """No wait helps it, and it costs nothing to be told."""
    quota = Quota(_limits(tokens=1000), _START_S)
    assert _take(quota, 1001, _START_S) == math.inf
    assert _take(quota, 1000, _START_S) == 0


def test_a_refused_call_charges_nothing() -> None:
    """Not even the dimension that had room."""
    quota = Quota(_limits(requests=60, burst_s=1.0), _START_S)
    assert _take(quota, 100, _START_S) == 0
    used = quota.meters[Dimension.TOKENS].used(_START_S)
    assert _take(quota, 100, _START_S) > 0
    assert quota.meters[Dimension.TOKENS].used(_START_S) == used


def test_a_slice_begins_with_the_calendar_second() -> None:
    """What one second did not take is gone, and the next one is whole."""
    quota = Quota(_limits(Enforcement.SLICE, requests=120), _START_S)
    times = [_START_S + at for at in (0.9, 0.91, 0.92, 1.0, 1.01, 1.02)]
    assert [_take(quota, 1, at) == 0 for at in times] == [True, True, False, True, True, False]


def test_a_call_larger_than_a_slice_is_paid_back_by_the_next_ones() -> None:
    """Three and a half seconds of tokens at once: the fourth second has half of its share left."""
    quota = Quota(_limits(Enforcement.SLICE, tokens=60_000), _START_S)
    assert _take(quota, 3500, _START_S) == 0
    assert _take(quota, 500, _START_S + 0.5) == pytest.approx(2.5)
    assert _take(quota, 500, _START_S + 2.9) > 0
    assert _take(quota, 501, _START_S + 3.0) > 0
    assert _take(quota, 500, _START_S + 3.0) == 0


def test_output_charged_late_may_leave_a_debt() -> None:
    """What was given out is charged, room or not."""
    quota = Quota(_limits(tokens=60_000), _START_S)
    _charge_late(quota, 5096, _START_S)
    assert _take(quota, 1, _START_S) == pytest.approx(1.001)


def test_other_limits_keep_what_was_used() -> None:
    """Raising a limit does not hand out a fresh burst."""
    quota = Quota(_limits(requests=600, burst_s=1.0), _START_S)
    for _ in range(10):
        _take(quota, 1, _START_S)
    quota.change(_limits(requests=1200, burst_s=0.5), _START_S)
    assert _take(quota, 1, _START_S) == pytest.approx(1 / 20)
    assert quota.meters[Dimension.REQUESTS].full_in_s(_START_S) == pytest.approx(0.5)


class _Counted:
    """Every charge is kept for ever, and all of them are counted again at each question."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._charges: list[tuple[float, int, int]] = []

    def used(self, now_s: float) -> tuple[int, int]:
        inside = [charge for charge in self._charges if self._counts(charge[0], now_s)]
        return sum(requests for _, requests, _ in inside), sum(tokens for _, _, tokens in inside)

    def take(self, tokens: int, now_s: float) -> bool:
        requests_used, tokens_used = self.used(now_s)
        fits = requests_used + 1 <= self.limits.burst(
            Dimension.REQUESTS
        ) and tokens_used + tokens <= self.limits.burst(Dimension.TOKENS)
        if fits:
            self._charges.append((now_s, 1, tokens))
        return fits

    def charge_late(self, tokens: int, now_s: float) -> None:
        self._charges.append((now_s, 0, tokens))

    def _counts(self, at_s: float, now_s: float) -> bool:
        window_s = self.limits.window_s
        if self.limits.enforcement is Enforcement.FIXED:
            return at_s // window_s == now_s // window_s
        return now_s - at_s < window_s


_WINDOWED = [Enforcement.FIXED, Enforcement.LOG]
# Times in eighths of a second are exact in floats, so that the rims of windows are hit and told apart.
_STEPS = st.lists(
    st.tuples(
        st.integers(0, 6).map(lambda eighths: eighths / 8),
        st.sampled_from(["call", "call", "call", "late", "limits"]),
        st.integers(0, 120),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(steps=_STEPS, enforcement=st.sampled_from(_WINDOWED), window_s=st.sampled_from([1.0, 2.5, 6.0]))
def test_windows_admit_what_a_count_of_all_charges_admits(
    steps: list[tuple[float, str, int]], enforcement: Enforcement, window_s: float
) -> None:
    """Call by call, through output charged late and limits that change, at the very rims of windows too."""
    limits = _limits(enforcement, requests=240, tokens=6000, window_s=window_s)
    quota, counted, now_s = Quota(limits, _START_S), _Counted(limits), _START_S
    for step_s, kind, amount in steps:
        now_s += step_s
        match kind:
            case "late":
                _charge_late(quota, amount, now_s)
                counted.charge_late(amount, now_s)
            case "limits":
                limits = _limits(enforcement, requests=120 + amount, tokens=6000 - amount, window_s=window_s)
                quota.change(limits, now_s)
                counted.limits = limits
            case _:
                assert (_take(quota, amount, now_s) == 0) == counted.take(amount, now_s)
        assert (
            quota.meters[Dimension.REQUESTS].used(now_s),
            quota.meters[Dimension.TOKENS].used(now_s),
        ) == counted.used(now_s)


@settings(max_examples=100, deadline=None)
@given(steps=_STEPS, enforcement=st.sampled_from(_WINDOWED), tokens=st.integers(0, 100))
def test_windows_name_the_first_moment_at_which_a_call_fits(
    steps: list[tuple[float, str, int]], enforcement: Enforcement, tokens: int
) -> None:
    """Retry-After and reset are the earliest of all moments, found by trying them one after the other."""
    limits = _limits(enforcement, requests=240, tokens=6000, window_s=2.5)
    quota, counted, now_s = Quota(limits, _START_S), _Counted(limits), _START_S
    for step_s, kind, amount in steps:
        now_s += step_s
        if kind == "late":
            _charge_late(quota, amount, now_s)
            counted.charge_late(amount, now_s)
        elif _take(quota, amount, now_s) == 0:
            assert counted.take(amount, now_s)
    moments = [eighths / 8 for eighths in range(8 * 3)]
    unused = next(at for at in moments if counted.used(now_s + at) == (0, 0))
    assert (
        max(
            quota.meters[Dimension.REQUESTS].full_in_s(now_s), quota.meters[Dimension.TOKENS].full_in_s(now_s)
        )
        == unused
    )
    fits = next(at for at in moments if counted.take(tokens, now_s + at))
    assert _take(quota, tokens, now_s) == fits


@pytest.mark.parametrize("enforcement", _WINDOWED)
def test_a_call_larger_than_a_window_never_goes(enforcement: Enforcement) -> None:
    """A short window's share is the bound, not a minute's."""
    quota = Quota(_limits(enforcement, tokens=6000, window_s=6), _START_S)
    assert _take(quota, 601, _START_S) == math.inf
    assert _take(quota, 600, _START_S) == 0


def test_a_fixed_window_begins_at_a_multiple_of_its_length() -> None:
    """The server's clock decides, not the first call: twice the limit may come around the rim."""
    quota = Quota(_limits(Enforcement.FIXED, requests=2), _START_S + 59)
    times = [_START_S + at for at in (59, 59, 59.5, 60, 60, 60.5)]
    assert [_take(quota, 1, at) for at in times] == [0, 0, 0.5, 0, 0, 59.5]


def test_a_log_admits_one_call_as_another_one_leaves() -> None:
    """Exactly one window after it was admitted, not before."""
    quota = Quota(_limits(Enforcement.LOG, requests=2), _START_S)
    times = [_START_S + at for at in (0, 10, 59.5, 60, 60, 70)]
    assert [_take(quota, 1, at) for at in times] == [0, 0, 0.5, 0, 10, 0]


def test_a_call_without_tokens_keeps_no_log_from_being_unused() -> None:
    """The reset of tokens is told by the newest charge, and nothing is none."""
    quota = Quota(_limits(Enforcement.LOG), _START_S)
    for at, tokens in ((0, 5), (10, 0)):
        _take(quota, tokens, _START_S + at)
    assert quota.meters[Dimension.TOKENS].full_in_s(_START_S + 10) == 50
    assert quota.meters[Dimension.REQUESTS].full_in_s(_START_S + 10) == 60


def test_parts_of_a_unit_that_do_not_add_up_exactly_leave_a_log_its_wait() -> None:
    """0.7, 0.7 and 0.3 after another 0.7 has left: rounding asks for a little more than all there is."""
    limits = _limits(Enforcement.LOG, tokens=600, window_s=6)
    quota = Quota(limits, _START_S)
    for second, tokens in enumerate((0.7, 0.7, 0.7, 0.3)):
        quota.charge({Dimension.TOKENS: tokens}, _START_S + second)
    assert quota.take({Dimension.TOKENS: 60}, _START_S + 6) == pytest.approx(3)


@pytest.mark.parametrize("enforcement", _WINDOWED)
def test_a_windows_limit_is_whole_units(enforcement: Enforcement) -> None:
    """Rounding of floats takes none away (8.2 s of 900 are 123), and a part of one is none."""
    assert _limits(enforcement, requests=900, window_s=8.2).burst(Dimension.REQUESTS) == 123
    assert _limits(enforcement, requests=100, window_s=1).burst(Dimension.REQUESTS) == 1
    assert _limits(enforcement, requests=60, tokens=90, window_s=1).burst(Dimension.TOKENS) == 1


@pytest.mark.parametrize("enforcement", _WINDOWED)
def test_a_window_without_room_for_one_call_is_no_limit(enforcement: Enforcement) -> None:
    """Else no call would ever go, and each would be told to wait."""
    with pytest.raises(ValueError, match="at least one request"):
        _limits(enforcement, requests=6, window_s=1)
    with pytest.raises(ValueError, match="one token"):
        _limits(enforcement, tokens=6, window_s=1)
