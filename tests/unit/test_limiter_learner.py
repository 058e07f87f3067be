"""What is believed of rate-limit headers, and what is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.limiter.api import Learn
from sluicegate.limiter.booking import Observation, PerMinute, Quota
from sluicegate.limiter.learner import Learner, own_times_us
from sluicegate.llm.outcomes import QuotaKind, QuotaReport

QUOTA = Quota(requests_per_minute=600, tokens_per_minute=60_000)
NOTHING_OWN: PerMinute = (0.0, 0.0, 0.0, 0.0)
SECOND_US = 1_000_000

_absurd_limits = st.sampled_from([-1.0, 0.0, 0.5, 1e11, 1e300, math.inf, math.nan])
_absurd_resets = st.sampled_from([-1.0, 7 * 86_400.0 + 1, 1e300, math.inf, math.nan])
_numbers = st.one_of(st.none(), st.floats(0, 1e12), st.sampled_from([-1.0, 0.0, 1.0, 600.0, math.nan]))
_kinds = st.sampled_from(QuotaKind)
_absurd = st.one_of(
    st.builds(QuotaReport, kind=_kinds, limit=_absurd_limits, remaining=_numbers, reset_s=_numbers),
    st.builds(QuotaReport, kind=_kinds, limit=_numbers, remaining=_numbers, reset_s=_absurd_resets),
    st.builds(QuotaReport, kind=_kinds, limit=_numbers, remaining=st.just(-1.0), reset_s=_numbers),
    st.builds(QuotaReport, kind=_kinds, limit=st.floats(1, 1e9), remaining=st.just(2e9), reset_s=_numbers),
)


def _used(seconds: float, *, limit: float = 600.0, resolution_s: float = 0.0) -> QuotaReport:
    """Return what a bucket says of which so many seconds of refill are used."""
    return QuotaReport(
        kind=QuotaKind.REQUESTS,
        limit=limit,
        remaining=math.floor(limit - seconds * limit / 60),
        reset_s=seconds,
        resolution_s=resolution_s,
    )


def _limit(limit: float, *, reset_s: float | None = None) -> QuotaReport:
    return QuotaReport(kind=QuotaKind.REQUESTS, limit=limit, reset_s=reset_s)


def _observe(
    learner: Learner,
    report: QuotaReport,
    now_s: float = 0.0,
    *,
    own_us: PerMinute = NOTHING_OWN,
    limits: PerMinute = QUOTA.per_minute,
    raised_before_us: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Observation | None:
    return learner.observe(
        report, now_s=now_s, own_us=own_us, raised_before_us=raised_before_us, limits=limits
    )


def _told_limits(learner: Learner, reports: Iterable[QuotaReport]) -> list[float]:
    """Return the limit that each report made known, 0 for none."""
    seen = [_observe(learner, report) for report in reports]
    return [0.0 if each is None else each.limit for each in seen]


def _extra_us(learner: Learner, report: QuotaReport, now_s: float, own_us: PerMinute = NOTHING_OWN) -> int:
    seen = _observe(learner, report, now_s, own_us=own_us)
    return 0 if seen is None else seen.extra_us


def _believing() -> Learner:
    """Return a learner that has seen a bucket for long enough."""
    learner = Learner(QUOTA)
    for second in range(6):
        assert _observe(learner, _used(0.1), float(second)) is None
    return learner


@given(st.lists(_absurd, min_size=1, max_size=8))
def test_absurd_reports_change_nothing(reports: list[QuotaReport]) -> None:
    """Neither at once nor by what is believed afterwards: the debt of a bucket is found as before."""
    learner, limits = _believing(), (600.0, 60_000.0, 9_000.0, 900.0)
    for number, report in enumerate(reports):
        assert _observe(learner, report, 6.0 + number, limits=limits) is None

    assert _extra_us(learner, _used(2), 20.0) == pytest.approx(1.9 * SECOND_US)


@given(
    st.builds(
        QuotaReport,
        kind=_kinds,
        limit=_numbers,
        remaining=_numbers,
        reset_s=_numbers,
        resolution_s=st.sampled_from([0.0, 0.001, 1.0]),
    )
)
def test_one_report_alone_never_changes_anything(report: QuotaReport) -> None:
    """Whatever it says: a limit must be told three times, a bucket must be known as one."""
    assert _observe(Learner(QUOTA), report) is None


@pytest.mark.parametrize("told", [300.0, 1_200.0])
def test_a_limit_told_three_times_in_a_row_is_followed(told: float) -> None:
    """A lower one and a higher one alike."""
    assert _told_limits(Learner(QUOTA), [_limit(told)] * 3) == [0, 0, told]


def test_a_limit_that_is_told_now_and_then_is_not_followed() -> None:
    """Two servers that disagree settle nothing."""
    assert not any(_told_limits(Learner(QUOTA), [_limit(300), _limit(300), _limit(400)] * 3))


def test_a_limit_in_force_is_not_told_again() -> None:
    """Every answer repeats it, and the others know."""
    assert not any(_told_limits(Learner(QUOTA), [_limit(600)] * 5))


def test_the_configured_limit_is_told_when_another_one_is_in_force() -> None:
    """A provider that goes back to it is followed back."""
    learner, in_force = Learner(QUOTA), (300.0, 60_000.0, 0.0, 0.0)
    seen = [_observe(learner, _limit(600), limits=in_force) for _ in range(3)]
    assert seen[-1] is not None
    assert seen[-1].limit == 600


def test_a_limit_where_none_is_configured_is_followed() -> None:
    """What no setting names, the provider's own number bounds."""
    learner = Learner(Quota())
    seen = [_observe(learner, _limit(300), limits=(0.0, 0.0, 0.0, 0.0)) for _ in range(3)]
    assert seen[-1] is not None
    assert seen[-1].limit == 300


def test_lower_follows_down_only() -> None:
    """A higher limit than the configured one is taken for the configured one."""
    learner = Learner(Quota(requests_per_minute=600, learn=Learn.LOWER))
    assert _told_limits(learner, [_limit(300)] * 3) == [0, 0, 300]
    assert not any(_told_limits(learner, [_limit(1_200)] * 5))


def test_lower_goes_back_up_to_the_configured_limit() -> None:
    """After a lower one was in force, a higher one restores what the settings say."""
    learner, in_force = Learner(Quota(requests_per_minute=600, learn=Learn.LOWER)), (300.0, 0.0, 0.0, 0.0)
    seen = [_observe(learner, _limit(1_200), limits=in_force) for _ in range(3)]
    assert seen[-1] is not None
    assert seen[-1].limit == 600


def test_off_learns_nothing() -> None:
    """Neither limits nor debts."""
    learner = Learner(Quota(requests_per_minute=600, learn=Learn.OFF))
    assert [_observe(learner, _used(5, limit=300), float(now)) for now in range(10)] == [None] * 10


@pytest.mark.parametrize(
    "report",
    [
        QuotaReport(kind=QuotaKind.REQUESTS, limit=14_400, remaining=14_370, reset_s=180),
        QuotaReport(kind=QuotaKind.REQUESTS, limit=14_400, remaining=14_399, reset_s=6),
        QuotaReport(kind=QuotaKind.REQUESTS, limit=14_400, remaining=14_391, reset_s=53.5),
        QuotaReport(kind=QuotaKind.REQUESTS, limit=14_400, reset_s=3_600),
    ],
)
def test_a_days_limit_is_not_taken_for_a_minutes(report: QuotaReport) -> None:
    """However little of the day is used; and its reset is no debt of the minute, nor a reason to doubt it."""
    learner = _believing()
    assert [_observe(learner, report, 6.0 + number) for number in range(5)] == [None] * 5
    assert _extra_us(learner, _used(2), 20.0) == pytest.approx(1.9 * SECOND_US)


def test_a_longest_reset_of_a_minutes_limit_is_followed() -> None:
    """A log's reset is a minute, up to its unit and the network."""
    assert _told_limits(Learner(QUOTA), [_limit(300, reset_s=60.9)] * 3) == [0, 0, 300]


def test_a_fixed_window_never_raises_a_debt() -> None:
    """Its reset is the window's end: it fits what is used for a moment, and gives itself away."""
    learner = Learner(QUOTA)
    for start_s in (58.0, 120.0, 180.0):
        for tenth in range(600 if start_s > 60 else 20):
            at_s = start_s + tenth / 10
            used, left_s = tenth, 60 - at_s % 60
            report = QuotaReport(
                kind=QuotaKind.REQUESTS, limit=600, remaining=600 - used, reset_s=left_s or 60.0
            )
            assert _observe(learner, report, at_s) is None


def test_a_log_never_raises_a_debt() -> None:
    """Its reset is a minute from the newest call, also when it is nearly full and so would fit a bucket."""
    learner = Learner(QUOTA)
    for tenth in range(1_200):
        report = QuotaReport(kind=QuotaKind.REQUESTS, limit=600, remaining=max(0, 600 - tenth), reset_s=60.0)
        assert _observe(learner, report, tenth / 10) is None


def test_a_calendar_second_never_raises_a_debt() -> None:
    """Its reset is the second's end, whatever was used of it."""
    learner = Learner(QUOTA)
    for tenth in range(300):
        used = 1 + tenth % 10
        report = QuotaReport(
            kind=QuotaKind.REQUESTS, limit=600, remaining=600 - used, reset_s=1 - (tenth % 10) / 10
        )
        assert _observe(learner, report, tenth / 10) is None


def test_a_debt_is_believed_once_resets_have_fitted_for_seconds() -> None:
    """Not before: what fits by chance does so for a moment."""
    learner = Learner(QUOTA)
    assert [_extra_us(learner, _used(2), now_s) for now_s in (0.0, 1.0, 4.9)] == [0, 0, 0]
    assert _extra_us(learner, _used(2), 5.0) > 0


_WINDOW = QuotaReport(kind=QuotaKind.REQUESTS, limit=600, remaining=599, reset_s=30)


def test_a_window_is_remembered() -> None:
    """However well its resets fit for minutes, or how seldom anything is seen."""
    learner = _believing()
    _observe(learner, _WINDOW, 6.0)
    assert [_extra_us(learner, _used(2), 7.0 + 5 * number) for number in range(99)] == [0] * 99
    _observe(learner, _WINDOW, 600.0)
    assert _extra_us(learner, _used(2), 1_300.0) == _extra_us(learner, _used(2), 2_000.0) == 0


def test_one_answer_that_does_not_fit_is_forgiven_in_time() -> None:
    """After ten minutes in which a hundred fitted the bucket is believed again."""
    learner = _believing()
    _observe(learner, _WINDOW, 6.0)
    assert [_extra_us(learner, _used(2), 7.0 + 6 * number) for number in range(100)] == [0] * 100
    assert _extra_us(learner, _used(2), 608.0) > 0


def test_a_full_log_is_never_taken_for_a_bucket_again() -> None:
    """Its reset of a minute fits for as long as it is full."""
    learner = _believing()
    _observe(learner, _WINDOW, 6.0)
    full = QuotaReport(kind=QuotaKind.REQUESTS, limit=600, remaining=0, reset_s=60.0)
    assert not any(_extra_us(learner, full, 7.0 + second) for second in range(1_200))


def test_each_dimension_is_judged_by_its_own_resets() -> None:
    """Requests counted in windows say nothing of tokens in a bucket."""
    learner = _believing()
    tokens = QuotaReport(kind=QuotaKind.TOKENS, limit=60_000, remaining=1, reset_s=2)
    for second in range(10):
        _observe(learner, tokens, 6.0 + second)
    assert _extra_us(learner, _used(2), 20.0) > 0


def test_the_debt_of_strangers_is_what_is_left_of_reset() -> None:
    """Without the call's own cost, the noise and the unit in which it is written."""
    report = _used(2.0, resolution_s=0.5)
    own_us = own_times_us((3, 0, 0, 0), QUOTA.per_minute)
    assert own_us == (0.3 * SECOND_US, 0, 0, 0)
    assert _extra_us(_believing(), report, 6.0, own_us) == pytest.approx((2.0 - 0.3 - 0.1 - 0.5) * SECOND_US)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.39])
def test_what_own_calls_and_noise_explain_is_no_debt(seconds: float) -> None:
    """A call's own 0.3 s and 0.1 s of jitter."""
    assert _observe(_believing(), _used(seconds), 6.0, own_us=(0.3 * SECOND_US, 0, 0, 0)) is None


def test_what_had_been_raised_when_the_call_was_booked_is_told_with_a_debt() -> None:
    """By it Redis raises one debt once, however many calls saw it."""
    learner = _believing()
    tokens = QuotaReport(kind=QuotaKind.TOKENS, limit=60_000, remaining=58_000, reset_s=2)
    for second in range(6):
        _observe(learner, tokens, float(second))
    seen = _observe(learner, tokens, 6.0, raised_before_us=(1, 22, 3, 4))
    assert seen is not None
    assert (seen.dimension, seen.raised_before_us) == (1, 22)


def test_without_a_limit_in_force_there_is_no_debt() -> None:
    """A debt is time of refill, and nothing is refilled."""
    report = QuotaReport(kind=QuotaKind.REQUESTS, reset_s=2)
    assert _observe(_believing(), report, 6.0, limits=(0.0, 0.0, 0.0, 0.0)) is None
