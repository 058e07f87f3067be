"""What a quota admits in a span, and how long it needs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.local.provider.ideal import (
    Period,
    admissible,
    ideal_s,
    most_admissible,
    read_timeline,
    write_period,
)
from sluicegate.local.provider.quota import Dimension, Enforcement, Limits, Quota
from sluicegate.local.provider.timeline import Cut, Timeline

_CALL = {Dimension.REQUESTS: 1, Dimension.TOKENS: 1}


def _limits(
    requests: float = 3000,
    tokens: float = 1e9,
    enforcement: Enforcement = Enforcement.BUCKET,
    window_s: float = 60,
) -> Limits:
    return Limits(
        enforcement=enforcement,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        burst_s=0.2,
        window_s=window_s,
    )


def _cut(start_at: float, end_at: float, *, retry_after_s: float = 9.0, fixed: bool = False) -> Cut:
    return Cut(start_at=start_at, end_at=end_at, retry_after_s=retry_after_s, fixed=fixed)


def _ideal(timeline: tuple[Period, ...], requests: float, tokens: float = 0, latency_s: float = 0.1) -> float:
    used = {Dimension.REQUESTS: requests, Dimension.TOKENS: tokens}
    return ideal_s(timeline, started_at=100, used=used, latency_s=latency_s)


def test_fifteen_hundred_calls_at_fifty_a_second_need_twenty_nine_point_nine_seconds() -> None:
    """A burst of 10, then 50 a second, then the last answer's 100 ms."""
    assert _ideal(Timeline(_limits(), 100).periods(101), 1500) == pytest.approx(29.9)


def test_tokens_bind_when_they_need_longer() -> None:
    """The slower dimension is the ideal."""
    timeline = Timeline(_limits(tokens=60_000), 100).periods(101)
    assert _ideal(timeline, 10, tokens=14_096) == pytest.approx(10.1)


def test_a_cut_is_part_of_the_ideal_and_ends_with_a_full_bucket() -> None:
    """Ten seconds without admissions cost ten seconds, less the burst that gathered."""
    timeline = Timeline(_limits(), 100)
    timeline.begin_cut(_cut(105, 115))
    assert _ideal(timeline.periods(200), 1500) == pytest.approx(29.9 + 10 - 0.2)


def test_the_ideal_is_unknown_while_a_cut_runs_that_it_must_outlast() -> None:
    """Nobody knows when it ends."""
    timeline = Timeline(_limits(), 100)
    timeline.begin_cut(_cut(105, 115))
    assert _ideal(timeline.periods(110), 1500) == math.inf
    assert _ideal(timeline.periods(110), 10) == pytest.approx(0.1)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 150), rate=st.floats(600, 6000), cut_s=st.floats(0, 2))
def test_no_caller_is_faster_than_the_ideal_and_a_greedy_one_reaches_it(
    count: int, rate: float, cut_s: float
) -> None:
    """A caller that asks every millisecond, against the formula."""
    timeline = Timeline(_limits(rate), 100)
    timeline.begin_cut(_cut(100.5, 100.5 + cut_s))
    quota = Quota(_limits(rate), 100)
    at, left = 100.0, count
    while left:
        if timeline.cut_at(at) or quota.take(_CALL, at) > 0:
            at += 0.001
        else:
            left -= 1
    reached = at - 100
    ideal = _ideal(timeline.periods(1000), count, latency_s=0)
    assert ideal <= reached + 1e-6
    # Calls are whole: what the bucket holds of a part of one when the cut begins may be lost to its rim.
    assert reached <= _ideal(timeline.periods(1000), count + 1, latency_s=0) + 0.01


def test_what_is_admissible_leaves_out_the_cut() -> None:
    """Seconds in which nothing was admitted do not count against anybody."""
    timeline = Timeline(_limits(600, 6000), 100)
    timeline.begin_cut(_cut(102, 104))
    timeline.change(_limits(1200, 6000), 106)
    requests, tokens = admissible(timeline.periods(110), 101, 108)
    assert requests == pytest.approx(1 * 10 + 2 * 10 + 2 * 20)
    assert tokens == pytest.approx(5 * 100)


def test_periods_touch_and_the_last_one_runs() -> None:
    """A reader may walk from one to the next without gaps."""
    timeline = Timeline(_limits(), 100)
    timeline.begin_cut(_cut(105, 115))
    timeline.change(_limits(600), 110)
    periods = timeline.periods(120)
    assert [(p.start_at, p.end_at, p.cut) for p in periods] == [
        (100, 105, False),
        (105, 110, True),
        (110, 115, True),
        (115, None, False),
    ]
    assert all(a.end_at == b.start_at for a, b in pairwise(periods))


def test_a_cut_counts_down_to_its_end_unless_it_is_fixed() -> None:
    """What a refused call is told never reaches beyond the cut by default."""
    assert [_cut(100, 110).wait_s(at) for at in (100, 101, 105)] == [9, 9, 5]
    assert _cut(100, 110, retry_after_s=30, fixed=True).wait_s(105) == 30


def test_ending_a_cut_early_ends_its_period() -> None:
    """The history tells what was, not what was planned."""
    timeline = Timeline(_limits(), 100)
    timeline.begin_cut(_cut(105, 115))
    timeline.end_cut(107)
    assert timeline.cut_at(108) is None
    assert [(p.start_at, p.end_at, p.cut) for p in timeline.periods(120)][1] == (105, 107, True)


def test_a_timeline_is_read_back_as_it_was_written() -> None:
    """The ledger of another process judges by the same periods."""
    timeline = Timeline(_limits(), 100)
    timeline.begin_cut(_cut(105, 115))
    periods = timeline.periods(120)
    assert read_timeline({"timeline": [write_period(period) for period in periods]}) == periods


def test_fixed_windows_need_a_window_for_each_limit_from_the_first_calls_on() -> None:
    """From 100 on: what is left of the minute until 120 gives 60 calls, then 60 more at 120 and 180."""
    timeline = Timeline(_limits(60, enforcement=Enforcement.FIXED), 0).periods(1000)
    assert [_ideal(timeline, n) for n in (1, 60, 61, 120, 121)] == pytest.approx([0.1, 0.1, 20.1, 20.1, 80.1])


def test_a_log_needs_a_window_after_each_limit() -> None:
    """A whole window at the start, and the next when the first has left."""
    timeline = Timeline(_limits(60, enforcement=Enforcement.LOG), 0).periods(1000)
    assert [_ideal(timeline, n) for n in (1, 60, 61, 121)] == pytest.approx([0.1, 0.1, 60.1, 120.1])


@pytest.mark.parametrize(
    ("enforcement", "mean", "most"),
    [
        (Enforcement.BUCKET, 50, 51),
        (Enforcement.SLICE, 50, 51),
        (Enforcement.FIXED, 50, 120),  # the minutes to 120 and from there
        (Enforcement.LOG, 50, 60),
    ],
)
def test_what_is_admissible_is_the_mean_rate_and_at_most_a_burst_more(
    enforcement: Enforcement, mean: float, most: float
) -> None:
    """Of 60 a minute, from 100 to 150."""
    timeline = Timeline(_limits(60, enforcement=enforcement), 0).periods(1000)
    assert admissible(timeline, 100, 150)[0] == pytest.approx(mean)
    assert most_admissible(timeline, 100, 150)[0] == pytest.approx(most)


def test_a_windows_mean_rate_is_that_of_its_whole_units() -> None:
    """100 a minute in windows of one second are one a second, and nobody can be given more."""
    timeline = Timeline(_limits(100, enforcement=Enforcement.FIXED, window_s=1), 0).periods(1000)
    assert admissible(timeline, 100, 110)[0] == pytest.approx(10)


_EIGHTHS = st.integers(0, 60).map(lambda eighths: eighths / 8)


@settings(max_examples=80, deadline=None)
@given(
    enforcement=st.sampled_from([Enforcement.FIXED, Enforcement.LOG]),
    count=st.integers(1, 120),
    started_s=_EIGHTHS,
    cut_after_s=_EIGHTHS,
    cut_s=_EIGHTHS,
    change_after_s=_EIGHTHS,
    changed=st.integers(60, 1200),
)
def test_a_greedy_caller_of_windows_reaches_the_ideal_exactly(
    enforcement: Enforcement,
    count: int,
    started_s: float,
    cut_after_s: float,
    cut_s: float,
    change_after_s: float,
    changed: int,
) -> None:
    """A caller that asks at every eighth of a second, through a cut and other limits, against the formula."""
    limits = _limits(600, 600, enforcement, window_s=2.5)
    started_at, change_at = 100 + started_s, 100 + change_after_s
    timeline, quota = Timeline(limits, 100), Quota(limits, 100)
    timeline.begin_cut(_cut(100 + cut_after_s, 100 + cut_after_s + cut_s))
    timeline.change(_limits(changed, 600, enforcement, window_s=2.5), change_at)
    at, given = 100.0, 0
    while True:
        if at == change_at:
            quota.change(_limits(changed, 600, enforcement, window_s=2.5), at)
        if at >= started_at and not timeline.cut_at(at):
            while given < count and quota.take(_CALL, at) == 0:
                given += 1
        if given == count:
            break
        at += 1 / 8
    periods = timeline.periods(1000)
    assert _ideal_from(periods, started_at, count) == at - started_at
    assert min(most_admissible(periods, started_at, at)) < count
    assert min(most_admissible(periods, started_at, at + 1 / 8)) >= count


def _ideal_from(timeline: tuple[Period, ...], started_at: float, count: int) -> float:
    used = {Dimension.REQUESTS: count, Dimension.TOKENS: count}
    return ideal_s(timeline, started_at=started_at, used=used, latency_s=0)
