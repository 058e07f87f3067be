"""The ledger's keys about calls: each is non-zero in a history made for it."""

from __future__ import annotations

import pytest

from sluicegate.local.ledger import Cut, Quota
from tests.unit.ledger_histories import START_MS, Story, call, provider

START_S = START_MS / 1000
PER_SECOND = Quota(requests_per_minute=60.0, tokens_per_minute=None)


def cut(start_s: float, end_s: float) -> Cut:
    """Make a cut, in seconds since the start."""
    return Cut(start_s=START_S + start_s, end_s=START_S + end_s)


def test_without_records_of_the_provider_its_keys_are_null() -> None:
    """Null is not zero: nothing is known."""
    ledger = Story().ledger(None)

    assert [
        getattr(ledger, name)
        for name in (
            "provider_calls",
            "provider_429s",
            "limit_exceeded",
            "paid_twice",
            "ideal_s",
            "efficiency",
        )
    ] == [None] * 6


def test_calls_and_refusals_are_counted() -> None:
    """A refused call is a call too."""
    ledger = Story().ledger(provider(call(0), call(5, status=429), call(10)))

    assert (ledger.provider_calls, ledger.provider_429s) == (3, 1)


def test_a_completed_step_that_completes_again_is_paid_twice() -> None:
    """Attempts of one step are the same step; a call that broke is not paid."""
    calls = (
        call(0, request_id="e1/reply/1", completed=False),
        call(10, request_id="e1/reply/2"),
        call(20, request_id="e1/reply/3"),
        call(30, request_id="e1/chunk-0/1"),
        call(40, request_id="e2/reply/1"),
    )

    assert Story().ledger(provider(*calls)).paid_twice == 1


def test_an_even_pace_is_within_the_limit() -> None:
    """A closed window holds one call more than its length times the rate."""
    calls = [call(second) for second in range(120)]

    assert Story().ledger(provider(*calls)).limit_exceeded == 0


@pytest.mark.parametrize(("extra", "exceeded"), [(1, 0), (2, 1), (5, 4)])
def test_calls_beyond_limit_and_burst_are_counted(extra: int, exceeded: int) -> None:
    """60 a minute: an even pace, and more at once in its middle than the burst of one allows."""
    calls = [call(second) for second in range(120)] + [call(60.5)] * extra

    assert Story().ledger(provider(*calls)).limit_exceeded == exceeded


def test_a_slow_excess_shows_in_the_longer_windows() -> None:
    """20 % too fast never shows within a second, but within a minute it does."""
    calls = [call(index / 1.2) for index in range(144)]

    # 73 calls in a closed minute, 60 and the burst of one allowed, one for the fence post.
    assert Story().ledger(provider(*calls)).limit_exceeded == 11


def test_refused_calls_count_against_the_limit() -> None:
    """What was sent counts, not what was taken."""
    calls = [call(second) for second in range(10)] + [call(5.5, status=429)] * 4

    assert Story().ledger(provider(*calls)).limit_exceeded == 3


def test_nothing_may_be_sent_late_in_a_cut() -> None:
    """5 s after its start everybody must know of it; burst and fence post stay allowed."""
    quota = Quota(requests_per_minute=60.0, tokens_per_minute=None, cuts=(cut(30, 50),))
    calls = [call(40 + index / 2, status=429) for index in range(8)]

    # Four seconds at two calls a second, none of them allowed: 8 - burst - fence post.
    assert Story().ledger(provider(*calls, quota=quota)).limit_exceeded == 6


def test_a_cut_is_not_known_in_its_first_seconds() -> None:
    """Windows that overlap them use the limit before the cut."""
    quota = Quota(requests_per_minute=60.0, tokens_per_minute=None, cuts=(cut(30, 40),))
    calls = [call(second) for second in range(35)]

    assert Story().ledger(provider(*calls, quota=quota)).limit_exceeded == 0


def test_an_unlimited_provider_is_never_exceeded() -> None:
    """No limit, no excess."""
    quota = Quota(requests_per_minute=None, tokens_per_minute=None)

    assert Story().ledger(provider(*[call(0)] * 50, quota=quota)).limit_exceeded == 0


def test_ideal_is_what_the_limits_need_for_the_admitted_calls() -> None:
    """30 calls at 60 a minute; refused ones need nothing."""
    story = Story()
    story.publish()
    calls = [call(second) for second in range(30)] + [call(3.5, status=429)]

    assert story.ledger(provider(*calls)).ideal_s == 30.0


def test_ideal_takes_the_dimension_that_binds_and_the_bucket() -> None:
    """100 tokens a second and 500 in the bucket: 3,000 tokens need 25 s."""
    story = Story()
    story.publish()
    quota = Quota(requests_per_minute=600.0, tokens_per_minute=6000.0, bucket_tokens=500.0)

    assert story.ledger(provider(*[call(1, tokens=1000)] * 3, quota=quota)).ideal_s == 25.0


def test_a_cut_lengthens_the_ideal_where_it_falls_into_it() -> None:
    """30 s of calls, with a cut of 10 s at 20 s; a cut after the end changes nothing."""
    story = Story()
    story.publish()
    calls = [call(second) for second in range(30)]

    def ideal(*cuts: Cut) -> float | None:
        quota = Quota(requests_per_minute=60.0, tokens_per_minute=None, cuts=cuts)
        return story.ledger(provider(*calls, quota=quota)).ideal_s

    assert ideal(cut(20, 30)) == 40.0
    assert ideal(cut(31, 41)) == 30.0


def test_efficiency_is_admitted_over_admissible() -> None:
    """An event was at it for 20 s, and half of the 20 calls that might have gone went."""
    story = Story()
    story.end(story.publish(), at_ms=20_000)

    assert story.ledger(provider(*[call(second * 2) for second in range(10)])).efficiency == 0.5


def test_time_in_which_every_event_is_parked_or_done_wastes_nothing() -> None:
    """Only the first and the last 5 s of this event count."""
    story = Story()
    offset = story.publish()
    story.park(offset, at_ms=5_000, due_ms=15_000)
    story.release(offset, at_ms=15_000, due_ms=15_000)
    story.end(offset, at_ms=20_000)

    assert story.ledger(provider(*[call(second) for second in range(5)])).efficiency == 0.5


def test_one_event_at_it_makes_the_time_count() -> None:
    """A second event that waits through the first one's parking could have used the quota."""
    story = Story()
    parked, waiting = story.publish(), story.publish()
    story.park(parked, at_ms=5_000, due_ms=15_000)
    story.end(waiting, at_ms=20_000)

    assert story.ledger(provider(*[call(second) for second in range(5)])).efficiency == 0.25


def test_a_cut_admits_nothing_and_so_wastes_nothing() -> None:
    """10 of 20 s were cut."""
    story = Story()
    story.end(story.publish(), at_ms=20_000)
    quota = Quota(requests_per_minute=60.0, tokens_per_minute=None, cuts=(cut(5, 15),))

    assert story.ledger(provider(*[call(second) for second in range(5)], quota=quota)).efficiency == 0.5


def test_efficiency_takes_the_dimension_that_binds() -> None:
    """Few large calls can use a quota up."""
    story = Story()
    story.end(story.publish(), at_ms=10_000)
    quota = Quota(requests_per_minute=600.0, tokens_per_minute=6000.0)

    assert story.ledger(provider(call(1, tokens=900), quota=quota)).efficiency == 0.9


def test_a_silent_events_waiting_wastes_no_quota() -> None:
    """It makes no call, so it could not have used any."""
    story = Story()
    story.publish(silent=True)
    story.end(story.publish(), at_ms=10_000)

    assert story.ledger(provider(*[call(second) for second in range(10)])).efficiency == 1.0
