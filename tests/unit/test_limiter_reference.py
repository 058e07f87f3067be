"""The booking algorithm itself: never over the limit, exact, all dimensions or none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sluicegate.limiter.api import Cost, Dimension
from sluicegate.limiter.booking import (
    WINDOW_US,
    Answer,
    Batch,
    BookingRef,
    GiveBack,
    Observation,
    Quota,
    Reply,
    Request,
    Settlement,
    Verdict,
    minute_units,
)
from sluicegate.limiter.reference import GUARD_US, MAX_STEP_BACK_US, RAISE_US
from sluicegate.limiter.reference import book as book_stored
from sluicegate.limiter.stored import ScopeState, Stored

RUN = "a" * 40
OTHER_RUN = "b" * 40
T0 = 10_000_000_000
SECOND_US = 1_000_000
ONE = Cost()


def book(
    state: ScopeState | None, batch: Batch, quota: Quota, *, clock_us: int, run_id: str
) -> tuple[ScopeState, Reply]:
    """Apply a batch to a scope without leases and days."""
    stored, reply = book_stored(Stored(scope=state), batch, quota, clock_us=clock_us, run_id=run_id)
    assert stored.scope is not None
    return stored.scope, reply


def _times_us(quota: Quota, cost: Cost) -> list[int]:
    """Return how long each dimension needs to refill the cost, counted apart from the limiter."""
    return [
        -(-units * WINDOW_US // int(limit)) if limit else 0
        for units, limit in zip(minute_units(cost), quota.per_minute, strict=True)
    ]


def _fresh(quota: Quota, *, now_us: int = T0) -> ScopeState:
    """Return a scope whose guard is long over and whose buckets are full."""
    state, _ = book(None, Batch(), quota, clock_us=now_us - 3600 * SECOND_US, run_id=RUN)
    return state


def _ask(
    state: ScopeState | None, quota: Quota, *costs: Cost, now_us: int = T0
) -> tuple[ScopeState, list[Answer]]:
    batch = Batch(requests=tuple(Request(cost=cost) for cost in costs))
    state, reply = book(state, batch, quota, clock_us=now_us, run_id=RUN)
    return state, list(reply.answers)


# --- never over the limit ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Booked:
    cost: Cost
    generation: int
    number: int
    start_us: int
    stretch: float

    def ref(self) -> BookingRef:
        return BookingRef(
            generation=self.generation, number=self.number, stretch=self.stretch, start_us=self.start_us
        )


@dataclass(slots=True)
class _World:
    """Processes that book, cancel, confirm and call as the contract says, in simulated time."""

    quota: Quota
    now_us: int = T0
    run_id: str = RUN
    state: ScopeState | None = None
    waiting: list[_Booked] = field(default_factory=list)
    asked: list[Cost] = field(default_factory=list)
    called: list[tuple[int, Cost]] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def send(self, batch: Batch) -> Reply:
        self.state, reply = book(self.state, batch, self.quota, clock_us=self.now_us, run_id=self.run_id)
        assert reply.now_us == self.now_us
        return reply

    def ask(self, cost: Cost, earlier: _Booked | None = None) -> None:
        self.asked.append(cost)
        request = Request(cost=cost)
        if earlier is not None:
            request = replace(request, booking=earlier.ref())
        reply = self.send(Batch(requests=(request,)))
        (answer,) = reply.answers
        if answer.verdict is Verdict.CONFIRMED or (answer.verdict is Verdict.BOOKED and answer.wait_us == 0):
            self.called.append((self.now_us, cost))
        elif answer.verdict is Verdict.BOOKED:
            self.waiting.append(
                _Booked(cost, reply.generation, answer.number, self.now_us + answer.wait_us, answer.stretch)
            )

    def cancel(self, index: int) -> None:
        if self.waiting:
            gone = self.waiting.pop(index % len(self.waiting))
            self.send(Batch(give_backs=(GiveBack(booking=gone.ref(), cost=gone.cost),)))

    def block(self, seconds: int) -> None:
        self.send(Batch(block_us=seconds * SECOND_US))
        self.blocks.append((self.now_us, self.now_us + seconds * SECOND_US))

    def settle_more(self, tokens: int) -> None:
        assert self.state is not None
        extra = Cost(requests=0, tokens=tokens)
        self.send(
            Batch(
                settlements=(Settlement(booking=BookingRef(generation=self.state.generation), extra=extra),)
            )
        )

    def restart(self) -> None:
        self.run_id = OTHER_RUN if self.run_id == RUN else RUN

    def advance(self, us: int) -> None:
        until_us = self.now_us + us
        while due := [booked for booked in self.waiting if booked.start_us <= until_us]:
            first = min(due, key=lambda booked: booked.start_us)
            self.waiting.remove(first)
            self.now_us = max(self.now_us, first.start_us)
            self.ask(first.cost, first)
        self.now_us = until_us


_costs = st.builds(Cost, requests=st.just(1), tokens=st.integers(0, 900))
_steps = st.one_of(
    st.tuples(st.just("ask"), _costs),
    st.tuples(st.just("ask"), _costs),
    st.tuples(st.just("advance"), st.integers(0, 1_500_000)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("block"), st.integers(1, 5)),
    st.tuples(st.just("settle_more"), st.integers(1, 300)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(_steps, max_size=80), burst_s=st.sampled_from([0.0, 0.05, 0.5, 3.0]))
def test_no_window_holds_more_than_limit_and_burst(steps: list[tuple[str, object]], burst_s: float) -> None:
    """Whatever is asked, cancelled, blocked or restarted: calls in a window <= window + burst or largest."""
    world = _World(Quota(requests_per_minute=120, tokens_per_minute=12_000, burst_s=burst_s))
    world.send(Batch())
    world.advance(5 * SECOND_US)
    for step, argument in steps:
        match step, argument:
            case "ask", Cost() as cost:
                world.ask(cost)
            case "restart", _:
                world.restart()
            case (("advance" | "cancel" | "block" | "settle_more"), int(number)):
                getattr(world, step)(number)
            case _:
                raise AssertionError(step)
    world.advance(120 * SECOND_US)
    event(f"calls: {len(world.called) // 10 * 10}+")
    for dimension in (0, 1):
        calls = [(at_us, _times_us(world.quota, cost)[dimension]) for at_us, cost in world.called]
        asked_us = [_times_us(world.quota, cost)[dimension] for cost in world.asked]
        allowed_us = max([world.quota.burst_us, *asked_us])
        for first, (from_us, _) in enumerate(calls):
            taken_us = 0
            for at_us, time_us in calls[first:]:
                taken_us += time_us
                assert taken_us <= at_us - from_us + allowed_us
    for from_us, until_us in world.blocks:
        assert not [at_us for at_us, _ in world.called if from_us < at_us < until_us]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    burst_s=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_a_backlog_uses_the_whole_limit(sizes: list[int], burst_s: float) -> None:
    """Each call of a backlog starts exactly when those before it have refilled, less its share of burst."""
    quota = Quota(tokens_per_minute=60_000, burst_s=burst_s)
    _, answers = _ask(_fresh(quota), quota, *(Cost(tokens=size) for size in sizes))
    for i, answer in enumerate(answers):
        before_us, own_us = sum(sizes[:i]) * 1_000, sizes[i] * 1_000
        assert answer.wait_us == max(0, before_us + min(own_us, quota.burst_us) - quota.burst_us)


# --- single rules -------------------------------------------------------------------------------------


def test_waits_are_exact_and_name_what_binds() -> None:
    """The third call waits exactly until the bucket has refilled, and says which bucket."""
    quota = Quota(requests_per_minute=600, tokens_per_minute=60_000, burst_s=0.1)
    state, answers = _ask(_fresh(quota), quota, ONE, ONE, Cost(tokens=500))
    assert [(a.wait_us, a.dimension) for a in answers] == [
        (0, Dimension.NONE),
        (100_000, Dimension.REQUESTS),
        (200_000, Dimension.REQUESTS),
    ]
    _, (answer,) = _ask(state, quota, ONE)
    assert (answer.wait_us, answer.dimension) == (300_000, Dimension.REQUESTS)
    # Half a second's tokens are usual by now: so many may be out at once, and the next ten are beyond.
    _, (answer,) = _ask(replace(state, tats_us=(0, *state.tats_us[1:])), quota, Cost(tokens=10))
    assert (answer.wait_us, answer.dimension) == (210_000, Dimension.TOKENS)


def test_two_limits_that_bind_in_turn_are_both_used() -> None:
    """Calls that are large on one limit and small on the other leave neither unused for long."""
    quota = Quota(requests_per_minute=420, tokens_per_minute=400_000)
    sizes = [512, 1_090] * 400
    used_us = max(len(sizes) * 60e6 / 420, sum(sizes) * 60e6 / 400_000)
    state, last_us = _fresh(quota), T0
    for size in sizes:
        state, (answer,) = _ask(state, quota, Cost(tokens=size), now_us=last_us)
        last_us += answer.wait_us
    assert used_us / (last_us - T0) >= 0.98


def test_a_call_larger_than_the_burst_starts_full_and_leaves_a_debt() -> None:
    """Half a minute's tokens go at once when the bucket is full, and the next call pays for it."""
    quota = Quota(tokens_per_minute=60_000)
    _, answers = _ask(_fresh(quota), quota, Cost(tokens=30_000), Cost(tokens=1))
    assert answers[0].wait_us == 0
    assert answers[1].wait_us == 30 * SECOND_US + 1_000 - quota.burst_us


def test_a_call_larger_than_the_limit_never_fits() -> None:
    """A minute's quota fits, one token more never does, and it takes nothing from anybody."""
    quota = Quota(tokens_per_minute=1_000)
    state = _fresh(quota)
    after, answers = _ask(state, quota, Cost(tokens=1_001))
    assert (answers[0].verdict, answers[0].dimension) == (Verdict.NEVER, Dimension.TOKENS)
    assert after.tats_us == state.tats_us
    assert _ask(state, quota, Cost(tokens=1_000))[1][0].verdict is Verdict.BOOKED


def test_beyond_the_horizon_nothing_is_booked_on_any_dimension() -> None:
    """RETRY tells when to ask again, and changes no bucket, not even those with room."""
    quota = Quota(requests_per_minute=600, tokens_per_minute=1_000)
    state, _ = _ask(_fresh(quota), quota, Cost(tokens=1_000))
    after, reply = book(
        state,
        Batch(requests=(Request(cost=Cost(tokens=1_000)),), horizon_us=30 * SECOND_US),
        quota,
        clock_us=T0,
        run_id=RUN,
    )
    answer = reply.answers[0]
    assert (answer.verdict, answer.wait_us) == (Verdict.RETRY, 30 * SECOND_US)
    assert (after.tats_us, after.newest) == (state.tats_us, state.newest)


def test_after_a_block_calls_start_at_the_rate() -> None:
    """What refilled during a block is no more than the burst."""
    quota = Quota(requests_per_minute=600, burst_s=0.2)
    state, _ = book(_fresh(quota), Batch(block_us=30 * SECOND_US), quota, clock_us=T0, run_id=RUN)
    _, answers = _ask(state, quota, ONE, ONE, ONE, ONE)
    assert [a.wait_us - 30 * SECOND_US for a in answers] == [0, 0, 100_000, 200_000]
    assert answers[0].dimension is Dimension.BLOCKED


def test_a_block_is_never_shortened() -> None:
    """A burst of refusals leaves the longest of its blocks, not their sum."""
    quota = Quota(requests_per_minute=600)
    state = _fresh(quota)
    for seconds in (5, 30, 10):
        state, reply = book(state, Batch(block_us=seconds * SECOND_US), quota, clock_us=T0, run_id=RUN)
    assert reply.blocked_until_us == T0 + 30 * SECOND_US


def test_unused_bookings_are_taken_out_newest_first() -> None:
    """Two cancelled in reverse order leave the buckets as they were; a hole in the middle is forfeited."""
    quota = Quota(requests_per_minute=60)
    state, (first,) = _ask(_fresh(quota), quota, ONE)
    booked, (second, third) = _ask(state, quota, ONE, ONE)

    def returned(*numbers: int) -> ScopeState:
        unused = tuple(
            GiveBack(booking=BookingRef(generation=booked.generation, number=n), cost=ONE) for n in numbers
        )
        return book(booked, Batch(give_backs=unused), quota, clock_us=T0, run_id=RUN)[0]

    assert returned(third.number, second.number).tats_us == state.tats_us
    assert returned(second.number).tats_us == booked.tats_us
    assert returned(first.number).tats_us == booked.tats_us


def test_usage_is_settled_in_both_directions() -> None:
    """Unused tokens come back at once, further ones are owed."""
    quota = Quota(tokens_per_minute=60_000, burst_s=0)
    state, _ = _ask(_fresh(quota), quota, Cost(tokens=1_000))
    for extra, wait_us in ((-400, 600_000), (0, 1_000_000), (500, 1_500_000)):
        settlement = Settlement(
            booking=BookingRef(generation=state.generation), extra=Cost(requests=0, tokens=extra)
        )
        settled, _ = book(state, Batch(settlements=(settlement,)), quota, clock_us=T0, run_id=RUN)
        assert _ask(settled, quota, Cost(tokens=1_000))[1][0].wait_us == wait_us


def test_another_run_blocks_empties_the_burst_and_keeps_debts() -> None:
    """After a restart: 2 s of pause, no burst, a large call's debt is still owed, old bookings are void."""
    quota = Quota(tokens_per_minute=60_000, burst_s=1)
    state, (large,) = _ask(_fresh(quota), quota, Cost(tokens=30_000))
    restarted, reply = book(state, Batch(), quota, clock_us=T0 + SECOND_US, run_id=OTHER_RUN)
    assert reply.blocked_until_us == reply.now_us + GUARD_US
    assert restarted.tats_us[1] == state.tats_us[1]
    assert restarted.tats_us[0] == reply.now_us + GUARD_US + quota.burst_us
    assert restarted.generation != state.generation

    request = Request(
        cost=Cost(tokens=30_000), booking=BookingRef(generation=state.generation, number=large.number)
    )
    now_us = reply.now_us + 60 * SECOND_US
    _, reply = book(restarted, Batch(requests=(request,)), quota, clock_us=now_us, run_id=OTHER_RUN)
    assert reply.answers[0].verdict is Verdict.BOOKED


def test_two_restarts_in_one_microsecond_are_two_generations() -> None:
    """A booking made between two restarts that Redis's clock cannot tell apart is void all the same."""
    quota = Quota(requests_per_minute=600)
    first, _ = book(_fresh(quota), Batch(), quota, clock_us=T0, run_id=OTHER_RUN)
    second, _ = book(first, Batch(), quota, clock_us=T0, run_id=RUN)
    assert second.generation != first.generation


def test_a_refund_from_before_a_restart_is_ignored_and_a_debt_is_not() -> None:
    """A state that may have forgotten the reservation must not be credited for it."""
    quota = Quota(tokens_per_minute=60_000, burst_s=0)
    state, _ = _ask(_fresh(quota), quota, Cost(tokens=1_000))
    old = state.generation - 1
    for extra, moved_us in ((-400, 0), (400, 400_000)):
        settlement = Settlement(booking=BookingRef(generation=old), extra=Cost(requests=0, tokens=extra))
        settled, _ = book(state, Batch(settlements=(settlement,)), quota, clock_us=T0, run_id=RUN)
        assert settled.tats_us[1] - state.tats_us[1] == moved_us


@pytest.mark.parametrize("back_us", [1, MAX_STEP_BACK_US])
def test_a_clock_that_steps_back_a_little_stands_still(back_us: int) -> None:
    """Nothing refills twice while the clock catches up."""
    quota = Quota(requests_per_minute=600)
    state, _ = _ask(_fresh(quota), quota, ONE)
    _, reply = book(state, Batch(), quota, clock_us=T0 - back_us, run_id=RUN)
    assert (reply.now_us, reply.generation) == (T0, state.generation)


def test_a_clock_that_jumps_far_back_starts_the_scope_afresh() -> None:
    """Standing still for an hour would be an outage: debts move with the clock, after the guard."""
    quota = Quota(tokens_per_minute=60_000)
    state, _ = _ask(_fresh(quota), quota, Cost(tokens=30_000))
    now_us = T0 - 3600 * SECOND_US
    after, reply = book(state, Batch(), quota, clock_us=now_us, run_id=RUN)
    assert (reply.now_us, reply.blocked_until_us) == (now_us, now_us + GUARD_US)
    assert after.tats_us[1] == now_us + 30 * SECOND_US


def test_a_booking_is_confirmed_only_while_the_scope_is_open() -> None:
    """The same booking: confirmed, booked anew under a block, and its old place is not lost."""
    quota = Quota(requests_per_minute=60)
    state, (_, booked) = _ask(_fresh(quota), quota, ONE, ONE)
    start_us = T0 + booked.wait_us
    ref = BookingRef(generation=state.generation, number=booked.number, start_us=start_us)
    again = Request(cost=ONE, booking=ref)
    _, reply = book(state, Batch(requests=(again,)), quota, clock_us=T0 + SECOND_US, run_id=RUN)
    assert reply.answers[0].verdict is Verdict.CONFIRMED

    after, reply = book(
        state, Batch(requests=(again,), block_us=5 * SECOND_US), quota, clock_us=T0 + SECOND_US, run_id=RUN
    )
    assert (reply.answers[0].verdict, reply.answers[0].wait_us) == (Verdict.BOOKED, 5 * SECOND_US)
    assert after.tats_us[0] == T0 + 7 * SECOND_US
    assert after.newest == state.newest


def test_what_was_booked_to_start_within_a_block_is_void_when_it_is_over() -> None:
    """Its call would come on top of those booked behind the block; they hold, before its end and after."""
    quota = Quota(requests_per_minute=60)
    state, (_, within) = _ask(_fresh(quota), quota, ONE, ONE)
    asked = Batch(requests=(Request(cost=ONE),), block_us=5 * SECOND_US)
    state, reply = book(state, asked, quota, clock_us=T0, run_id=RUN)
    behind = reply.answers[0]
    assert behind.wait_us == 5 * SECOND_US
    for clock_us in (T0 + 4 * SECOND_US, T0 + 5 * SECOND_US + 10_000):
        verdicts = [
            book(state, Batch(requests=(_held(state, answer),)), quota, clock_us=clock_us, run_id=RUN)[1]
            .answers[0]
            .verdict
            for answer in (within, behind)
        ]
        assert verdicts == [Verdict.BOOKED, Verdict.CONFIRMED]


def _held(state: ScopeState, answer: Answer) -> Request:
    """Ask for a booking that was made at T0."""
    ref = BookingRef(
        generation=state.generation,
        number=answer.number,
        stretch=answer.stretch,
        start_us=T0 + answer.wait_us,
    )
    return Request(cost=ONE, booking=ref)


def test_without_limits_only_a_block_makes_wait() -> None:
    """An unlimited dimension takes no part, however much a call costs."""
    quota = Quota()
    _, answers = _ask(_fresh(quota), quota, Cost(tokens=10**9), Cost(tokens=10**9))
    assert [answer.wait_us for answer in answers] == [0, 0]
    assert not quota.is_limited


def test_a_debt_is_raised_by_no_more_than_a_second_from_now() -> None:
    """However much one answer tells: the next ones say whether it is still there."""
    quota = Quota(requests_per_minute=60)
    seen = Observation(dimension=0, extra_us=30 * SECOND_US)

    state, reply = book(_fresh(quota), Batch(observations=(seen,)), quota, clock_us=T0, run_id=RUN)

    assert state.tats_us[0] == T0 + RAISE_US
    assert reply.raised_us[0] == RAISE_US
