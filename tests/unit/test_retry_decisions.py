"""From an outcome to what happens next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.limiter.api import Blocked, Dimension
from sluicegate.llm.outcomes import Failed, Halted, Reason, Rejected, Throttled
from sluicegate.records import Origin
from sluicegate.retry.decisions import (
    DeadLetter,
    EndReason,
    Park,
    Progress,
    RetryInPlace,
    Unanswered,
    decide,
    decide_behind,
    decide_blocked,
    judged,
)
from sluicegate.retry.headers import RetryHeaders, RetrySource
from sluicegate.retry.policy import backoff_ceiling_s, tier_for
from sluicegate.state.api import Copy
from tests.unit.test_retry_policy import POLICY, always

NOW_MS = 1_800_000_000_000
THROTTLED = Throttled(reason=Reason.RATE_LIMITED, http_status=429)
OVERLOADED = Throttled(reason=Reason.OVERLOADED, http_status=529)
BROKEN = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500)
UNREACHED = Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False)
HALTED = Halted(reason=Reason.CREDENTIALS, http_status=401)
REJECTED = Rejected(reason=Reason.BAD_REQUEST, http_status=400)

draws = st.floats(0, 1, exclude_max=True)
retry_after = st.none() | st.floats(0, 10**6)
outcomes: st.SearchStrategy[Unanswered] = st.one_of(
    st.builds(
        Throttled,
        reason=st.just(Reason.RATE_LIMITED),
        http_status=st.sampled_from([429, 503, 529]),
        retry_after_s=retry_after,
    ),
    st.builds(
        Failed,
        reason=st.just(Reason.SERVER_ERROR),
        counts=st.booleans(),
        on_the_wire=st.booleans(),
        http_status=st.none() | st.just(500),
        retry_after_s=retry_after,
    ),
    st.just(HALTED),
    st.just(REJECTED),
)


def first(outcome: Unanswered) -> Progress:
    """The progress of an event whose very first call just ended so."""
    return Progress().after(outcome, POLICY, NOW_MS)


def later(outcome: Unanswered, *, attempt: int, counted: int = 0, since_s: float = 0) -> Progress:
    """The progress of a delivery whose budget in place is used up by its attempt-th call."""
    return Progress(
        attempt=attempt,
        counted_failures=counted,
        first_failed_at_ms=NOW_MS - int(since_s * 1000),
        in_place_until_ms=NOW_MS,
        last_reason=outcome.reason,
        last_http_status=outcome.http_status,
    )


# --- Progress ---------------------------------------------------------------------------------------


def test_progress_goes_on_where_the_copy_left_off() -> None:
    """A copy's headers name the call it will make; what was counted before stays counted."""
    retry = RetryHeaders(
        origin=Origin(topic="t", partition=0, offset=0),
        origin_timestamp_ms=0,
        copy=Copy(id="1-a", replaces="input"),
        due_at_ms=NOW_MS,
        attempt=4,
        counted_failures=2,
        first_failed_at_ms=5,
    )
    progress = Progress.of_delivery(retry, 7)
    assert progress == Progress(attempt=3, counted_failures=2, first_failed_at_ms=5, event_time_ms=7)
    assert Progress.of_delivery(None, 7) == Progress(event_time_ms=7)


def test_the_budget_in_place_runs_from_the_deliverys_first_failure() -> None:
    """Later failures do not prolong it, and earlier deliveries do not shorten it."""
    progress = Progress(attempt=3, first_failed_at_ms=NOW_MS - 60_000)
    once = progress.after(THROTTLED, POLICY, NOW_MS)
    twice = once.after(BROKEN, POLICY, NOW_MS + 1000)
    assert (once.in_place_until_ms, twice.in_place_until_ms) == (NOW_MS + 5000, NOW_MS + 5000)
    assert twice.first_failed_at_ms == NOW_MS - 60_000
    assert (twice.attempt, twice.counted_failures, twice.last_http_status) == (5, 1, 500)


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [(THROTTLED, 0), (OVERLOADED, 0), (UNREACHED, 0), (HALTED, 0), (BROKEN, 1)],
)
def test_only_faults_count_but_all_raise_the_exponent(outcome: Unanswered, counted: int) -> None:
    """Refusals and connection errors make waits longer and never use up attempts."""
    progress = first(outcome)
    assert (progress.attempt, progress.counted_failures) == (1, counted)


def test_a_failure_while_the_circuit_is_open_is_not_counted() -> None:
    """An outage is the provider's fault: the exponent rises, max_attempts comes no nearer."""
    outcome = judged(BROKEN, circuit_is_open=True)
    progress = later(outcome, attempt=7, counted=7).after(outcome, POLICY, NOW_MS)
    assert (progress.attempt, progress.counted_failures) == (8, 7)
    assert isinstance(decide(outcome, progress, POLICY, NOW_MS, always(0.5)), Park)
    assert judged(BROKEN, circuit_is_open=False) == BROKEN
    assert [judged(other, circuit_is_open=True) for other in (THROTTLED, HALTED)] == [THROTTLED, HALTED]


def test_attempts_used_up_before_an_outage_do_not_end_the_event_in_it() -> None:
    """A count at the limit (it was lowered meanwhile) is looked at only after a failure that counts."""
    outcome = judged(BROKEN, circuit_is_open=True)
    assert isinstance(
        decide(outcome, later(outcome, attempt=9, counted=8), POLICY, NOW_MS, always(0.5)), Park
    )


# --- Another route ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [replace(THROTTLED, retry_after_s=600.0), THROTTLED, OVERLOADED, HALTED, BROKEN, UNREACHED]
)
def test_what_another_route_can_take_is_neither_parked_nor_delayed(outcome: Unanswered) -> None:
    """A closed route's trouble is its own: the next try goes elsewhere at once, however long it asked for."""
    progress = later(outcome, attempt=12)
    decision = decide(outcome, progress, POLICY, NOW_MS, always(0.5), another_route=True)
    assert decision == RetryInPlace(delay_s=0.0)


def test_another_route_does_not_outlive_the_deadline() -> None:
    """What is over by its attempts, its deadline or its expiry ends as ever."""
    last = later(BROKEN, attempt=8, counted=8)
    assert isinstance(decide(BROKEN, last, POLICY, NOW_MS, always(0.5), another_route=True), DeadLetter)
    late = decide(
        THROTTLED,
        later(THROTTLED, attempt=3, since_s=86_400),
        POLICY,
        NOW_MS,
        always(0.5),
        another_route=True,
    )
    assert isinstance(late, DeadLetter)
    assert late.reason is EndReason.DEADLINE_PASSED
    expiring = replace(POLICY, expires_after_s=60.0)
    stale = replace(first(HALTED), event_time_ms=NOW_MS - 61_000)
    dead = decide(HALTED, stale, expiring, NOW_MS, always(0.5), another_route=True)
    assert isinstance(dead, DeadLetter)
    assert dead.reason is EndReason.EXPIRED


# --- Ends -------------------------------------------------------------------------------------------


def test_a_rejected_call_ends_the_event() -> None:
    """What the provider will never take is not tried again."""
    decision = decide(REJECTED, first(REJECTED), POLICY, NOW_MS, always(0.5))
    assert decision == DeadLetter(reason=Reason.BAD_REQUEST, cause=Reason.BAD_REQUEST, http_status=400)


def test_the_last_counted_failure_ends_the_event() -> None:
    """max_attempts counted failures are the end, one fewer is not."""
    at_last = decide(BROKEN, later(BROKEN, attempt=30, counted=8), POLICY, NOW_MS, always(0.5))
    before = decide(BROKEN, later(BROKEN, attempt=30, counted=7), POLICY, NOW_MS, always(0.5))
    assert at_last == DeadLetter(
        reason=EndReason.ATTEMPTS_EXHAUSTED, cause=Reason.SERVER_ERROR, http_status=500
    )
    assert isinstance(before, Park)


@pytest.mark.parametrize("outcome", [THROTTLED, OVERLOADED, UNREACHED, HALTED])
def test_refusals_never_end_an_event_by_count(outcome: Unanswered) -> None:
    """A thousand 429s after seven counted failures are still no reason to give up."""
    decision = decide(outcome, later(outcome, attempt=1000, counted=8), POLICY, NOW_MS, always(0.5))
    assert isinstance(decision, Park)


@pytest.mark.parametrize("outcome", [THROTTLED, BROKEN, UNREACHED])
def test_the_deadline_ends_an_event_right_after_a_call(outcome: Unanswered) -> None:
    """It runs from the first refused or failed call, to the millisecond."""
    over = decide(outcome, later(outcome, attempt=9, since_s=86_400), POLICY, NOW_MS, always(0.5))
    not_yet = decide(outcome, later(outcome, attempt=9, since_s=86_399.999), POLICY, NOW_MS, always(0.5))
    assert isinstance(over, DeadLetter)
    assert over.reason is EndReason.DEADLINE_PASSED
    assert over.cause is outcome.reason
    assert isinstance(not_yet, Park)


def test_a_halted_scope_never_drains_a_topic() -> None:
    """Bad credentials concern every event: they wait, past any deadline, and are never tried in place."""
    progress = replace(first(HALTED), first_failed_at_ms=0)
    decision = decide(HALTED, progress, POLICY, NOW_MS, always(0))
    assert decision == Park(
        due_at_ms=NOW_MS + 500,
        tier=1,
        source=RetrySource.BACKOFF,
        reason=Reason.CREDENTIALS,
        http_status=401,
    )


@pytest.mark.parametrize("outcome", [THROTTLED, BROKEN, HALTED])
def test_an_event_is_not_parked_beyond_its_expiry(outcome: Unanswered) -> None:
    """An answer that would come too late is not waited for."""
    policy = replace(POLICY, expires_after_s=100)
    young = replace(later(outcome, attempt=1), event_time_ms=NOW_MS - 90_000)
    old = replace(young, event_time_ms=NOW_MS - 99_500)
    assert isinstance(decide(outcome, young, policy, NOW_MS, always(0.9)), Park)
    ended = decide(outcome, old, policy, NOW_MS, always(0.9))
    assert isinstance(ended, DeadLetter)
    assert ended.reason is EndReason.EXPIRED


# --- In place or parked -----------------------------------------------------------------------------


def test_a_first_failure_is_tried_again_in_place() -> None:
    """The first backoff is shorter than the budget, so the event keeps its slot."""
    assert decide(THROTTLED, first(THROTTLED), POLICY, NOW_MS, always(0.5)) == RetryInPlace(delay_s=0.5)


def test_a_used_up_budget_parks() -> None:
    """The next try must lie within the budget, however short its wait is."""
    progress = replace(first(THROTTLED), in_place_until_ms=NOW_MS + 400)
    decision = decide(THROTTLED, progress, POLICY, NOW_MS, always(0.5))
    assert decision == Park(
        due_at_ms=NOW_MS + 750,
        tier=1,
        source=RetrySource.BACKOFF,
        reason=Reason.RATE_LIMITED,
        http_status=429,
    )


def test_a_429s_retry_after_replaces_the_backoff() -> None:
    """Ten minutes asked for are ten minutes and a tenth of jitter, not an hour of backoff."""
    outcome = replace(THROTTLED, retry_after_s=600.0)
    decision = decide(outcome, later(outcome, attempt=50), POLICY, NOW_MS, always(0.5))
    assert decision == Park(
        due_at_ms=NOW_MS + 630_000,
        tier=5,
        source=RetrySource.RETRY_AFTER,
        reason=Reason.RATE_LIMITED,
        http_status=429,
    )


def test_a_short_retry_after_is_waited_for_in_place() -> None:
    """Two seconds fit the budget, with their spread of at least a second."""
    outcome = replace(THROTTLED, retry_after_s=2.0)
    assert decide(outcome, first(outcome), POLICY, NOW_MS, always(0.5)) == RetryInPlace(delay_s=2.5)


@pytest.mark.parametrize("header_s", [0.0, -5.0])
def test_a_retry_after_of_nothing_is_no_hot_loop(header_s: float) -> None:
    """A 429 that says 'at once' a hundred times over waits as long as one that says nothing."""
    outcome = replace(THROTTLED, retry_after_s=header_s)
    progress = later(outcome, attempt=12)
    assert decide(outcome, progress, POLICY, NOW_MS, always(0.5)) == decide(
        THROTTLED, progress, POLICY, NOW_MS, always(0.5)
    )


@pytest.mark.parametrize(
    ("attempt", "source", "due_s"), [(1, RetrySource.RETRY_AFTER, 105.0), (12, RetrySource.BACKOFF, 1536.0)]
)
def test_elsewhere_the_longer_of_backoff_and_retry_after_counts(
    attempt: int, source: RetrySource, due_s: float
) -> None:
    """A 503's Retry-After only bounds the backoff from below."""
    outcome = Throttled(reason=Reason.OVERLOADED, http_status=503, retry_after_s=100.0)
    decision = decide(outcome, later(outcome, attempt=attempt), POLICY, NOW_MS, always(0.5))
    assert isinstance(decision, Park)
    assert (decision.source, decision.due_at_ms) == (source, NOW_MS + due_s * 1000)


def test_equal_retry_afters_do_not_come_back_together() -> None:
    """A provider that tells a thousand callers the same second is not hit by a thousand at that second."""
    outcome = replace(BROKEN, retry_after_s=60.0)
    dues = set()
    for step in range(100):
        decision = decide(outcome, later(outcome, attempt=1), POLICY, NOW_MS, always(step / 100))
        assert isinstance(decision, Park)
        dues.add(decision.due_at_ms)
    assert len(dues) == 100


@given(
    outcome=outcomes,
    calls=st.integers(0, 200),
    counted=st.integers(0, 7),
    since_s=st.floats(0, 100_000),
    budget_s=st.none() | st.floats(0, 5),
    draw=draws,
)
def test_every_decision_agrees_with_the_rules(
    outcome: Unanswered, calls: int, counted: int, since_s: float, budget_s: float | None, draw: float
) -> None:
    """The rules said once more, as plain conditions on the decision instead of a way to it."""
    before = Progress(
        attempt=calls,
        counted_failures=counted,
        first_failed_at_ms=NOW_MS - int(since_s * 1000),
        in_place_until_ms=None if budget_s is None else NOW_MS + int(budget_s * 1000),
    )
    progress = before.after(outcome, POLICY, NOW_MS)
    decision = decide(outcome, progress, POLICY, NOW_MS, always(draw))
    ceiling_s = backoff_ceiling_s(progress.attempt, POLICY)
    asked_s = getattr(outcome, "retry_after_s", None) or None  # a header of 0 is none
    kept_s = min(asked_s or 0.0, POLICY.horizon_s * 0.9)
    match decision:
        case RetryInPlace(delay_s=delay_s):
            assert isinstance(outcome, Throttled | Failed)
            assert delay_s <= (5.0 if budget_s is None else budget_s)
            assert delay_s >= (asked_s or 0.0)
            assert asked_s is not None or delay_s <= ceiling_s
        case Park():
            assert not isinstance(outcome, Rejected)
            delay_s = (decision.due_at_ms - NOW_MS) / 1000
            assert kept_s - 1e-6 <= delay_s <= POLICY.horizon_s + 0.001
            assert decision.tier == tier_for(delay_s, POLICY.tiers_s)
            only_header = asked_s is not None and outcome.http_status == 429
            assert only_header or delay_s >= ceiling_s / 2
            assert asked_s is not None or delay_s <= ceiling_s + 0.001
            assert (decision.reason, decision.http_status) == (outcome.reason, outcome.http_status)
            assert (decision.source is RetrySource.BACKOFF) or asked_s is not None
        case DeadLetter(reason=reason):
            exhausted = progress.counted_failures >= 8 and isinstance(outcome, Failed) and outcome.counts
            expected = EndReason.ATTEMPTS_EXHAUSTED if exhausted else EndReason.DEADLINE_PASSED
            assert reason is (outcome.reason if isinstance(outcome, Rejected) else expected)
            assert isinstance(outcome, Rejected) or exhausted or since_s >= 86_399.99


# --- Parking without a call -------------------------------------------------------------------------


def test_a_blocked_scope_parks_by_reservation() -> None:
    """The limiter's block sets the time, the last failure the reason; the tier follows the drawn wait."""
    decision = decide_blocked(Blocked(wait_s=29.0), first(THROTTLED), POLICY, NOW_MS, always(0.5))
    assert decision == Park(
        due_at_ms=NOW_MS + 30_450,
        tier=3,
        source=RetrySource.RESERVATION,
        reason=Reason.RATE_LIMITED,
        http_status=429,
    )


@pytest.mark.parametrize(
    ("blocked", "least_s"),
    [
        (Blocked(wait_s=0.0), 1.0),
        (Blocked(wait_s=0.0, cause=Dimension.CIRCUIT), 5.0),
        (Blocked(wait_s=40.0, cause=Dimension.CIRCUIT), 40.0),
        (Blocked(wait_s=7200.0, cause=Dimension.DAILY_TOKENS), 7200.0),
    ],
)
@given(draw=draws)
def test_an_event_parked_for_its_scope_is_never_back_at_once(
    blocked: Blocked, least_s: float, draw: float
) -> None:
    """A circuit's wait is at least its next probe and 5 s, any other at least 1 s, each with its spread."""
    decision = decide_blocked(blocked, first(THROTTLED), POLICY, NOW_MS, always(draw))
    assert isinstance(decision, Park)
    delay_s = (decision.due_at_ms - NOW_MS) / 1000
    assert least_s <= delay_s <= least_s + max(1.0, least_s / 10) + 0.001
    assert decision.source is RetrySource.RESERVATION


@given(
    wait_ms=st.integers(-(10**9), int(POLICY.horizon_s * 1000)),
    deferrals=st.integers(0, 10**6),
    random=draws.map(always),
)
def test_a_follower_is_parked_behind_its_predecessor(
    wait_ms: int, deferrals: int, random: Callable[[], float]
) -> None:
    """Never due before it, at least min(30 s, 2^deferrals s) away, in the tier of its own delay."""
    decision = decide_behind(NOW_MS + wait_ms, deferrals, POLICY, NOW_MS, random)
    delay_s = (decision.due_at_ms - NOW_MS) / 1000
    assert decision.due_at_ms >= NOW_MS + wait_ms
    least_s = max(min(30, 2 ** min(deferrals, 10)), wait_ms / 1000)
    assert least_s - 0.001 <= delay_s <= least_s * 1.1 + 1.001
    assert decision.tier == tier_for(delay_s, POLICY.tiers_s)
    assert (decision.source, decision.reason) == (RetrySource.PREDECESSOR, None)


@given(data=st.data(), hops=st.integers(1, 12))
def test_no_event_goes_round_faster_than_once_a_second_while_it_stands_behind(
    data: st.DataObject, hops: int
) -> None:
    """Whatever its predecessors' due times are from hop to hop, and however promptly it is released."""
    now_ms = NOW_MS
    for deferrals in range(hops):
        predecessor_due_ms = now_ms + data.draw(st.integers(-(10**9), 10**8))
        park = decide_behind(predecessor_due_ms, deferrals, POLICY, now_ms, data.draw(draws.map(always)))
        assert park.due_at_ms - now_ms >= min(30, 2**deferrals) * 1000
        assert park.due_at_ms >= predecessor_due_ms
        now_ms = park.due_at_ms + data.draw(st.integers(0, 100))


@given(head_ms=st.integers(0, 3_600_000), apart_ms=st.integers(0, 20), seed=st.integers(0, 100))
def test_a_long_line_behind_a_parked_event_is_back_soon_after_it(
    head_ms: int, apart_ms: int, seed: int
) -> None:
    """Each waits for the one before it, in order: no share of that wait is added a thousand times over."""
    random = Random(seed).random
    due_ms, followers = NOW_MS + head_ms, 1000
    for number in range(1, followers + 1):
        now_ms = NOW_MS + number * apart_ms
        park = decide_behind(due_ms, 0, POLICY, now_ms, random)
        assert park.due_at_ms > due_ms
        due_ms = park.due_at_ms
    assert due_ms <= max(NOW_MS + head_ms, now_ms + 2_000) + followers * 11
