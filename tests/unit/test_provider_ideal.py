"""What a quota admits in a span, and how long it needs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.local.provider.ideal import Period, admissible, ideal_s, read_timeline, write_period
from sluicegate.local.provider.quota import Enforcement, Limits, Quota
from sluicegate.local.provider.timeline import Cut, Timeline


def _limits(requests: float = 3000, tokens: float = 1e9) -> Limits:
    return Limits(
        enforcement=Enforcement.BUCKET, requests_per_minute=requests, tokens_per_minute=tokens, burst_s=0.2
    )


def _cut(start_at: float, end_at: float, *, retry_after_s: float = 9.0, fixed: bool = False) -> Cut:
    return Cut(start_at=start_at, end_at=end_at, retry_after_s=retry_after_s, fixed=fixed)


def _ideal(timeline: tuple[Period, ...], requests: float, tokens: float = 0, latency_s: float = 0.1) -> float:
    return ideal_s(timeline, started_at=100, requests=requests, tokens=tokens, latency_s=latency_s)


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
        if timeline.cut_at(at) or quota.take(1, at) > 0:
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
