"""What a scope is at, told from what Redis keeps, the quota and the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.limiter.api import Cost, Dimension
from sluicegate.limiter.booking import (
    Batch,
    CircuitReason,
    News,
    ProcessReport,
    Quota,
    Request,
    SignalCode,
    Verdict,
)
from sluicegate.limiter.levels import (
    REPORT_AGE_US,
    TYPICAL_CALL,
    BlockCause,
    Level,
    ScopeLevels,
    scope_levels,
)
from sluicegate.limiter.reference import GUARD_US, book
from sluicegate.limiter.reference.days import HOUR_US
from sluicegate.limiter.stored import ScopeState, Stored
from sluicegate.limiter.wire import process_hash

RUN = "a" * 40
SECOND_US = 1_000_000
NOW_US = 20_000 * HOUR_US
FRESH = ScopeState(run_id=RUN, generation=1)


def levels_of(
    state: ScopeState | None = FRESH,
    quota: Quota | None = None,
    *,
    at_us: int = NOW_US,
    run_id: str = RUN,
    processes: dict[str, tuple[int, ProcessReport]] | None = None,
) -> ScopeLevels:
    """Return the levels of a scope without leases and days."""
    stored = Stored(scope=state, processes=processes or {})
    return scope_levels(stored, quota or Quota(requests_per_minute=600), clock_us=at_us, run_id=run_id)


def heard(code: SignalCode, *, seconds: float = 0, state: ScopeState = FRESH) -> ScopeState:
    """Return the state after a signal that asked to wait so long."""
    news = News(
        code=code,
        started_us=NOW_US,
        retry_after_us=int(seconds * SECOND_US),
        reason=CircuitReason.MONEY,
    )
    quota = Quota(requests_per_minute=600)
    stored, _ = book(Stored(scope=state), Batch(news=(news,)), quota, clock_us=NOW_US, run_id=RUN)
    assert stored.scope is not None
    return stored.scope


def level(levels: ScopeLevels, dimension: Dimension) -> Level:
    """Return one dimension's level."""
    (found,) = (each for each in levels.levels if each.dimension is dimension)
    return found


@given(
    debt_us=st.integers(min_value=-10 * SECOND_US, max_value=120 * SECOND_US),
    limit=st.floats(min_value=1, max_value=1e9),
    learnt=st.one_of(st.just(0.0), st.floats(min_value=1, max_value=1e9)),
)
def test_a_minutes_level_is_its_debt_at_the_limit_in_force(debt_us: int, limit: float, learnt: float) -> None:
    """The debt is never negative, and in units it is what refills in that time."""
    state = replace(FRESH, tats_us=(NOW_US + debt_us, 0, 0, 0), learnt=(learnt, 0.0, 0.0, 0.0))

    found = level(levels_of(state, Quota(requests_per_minute=limit)), Dimension.REQUESTS)

    assert found.debt_us == max(0, debt_us)
    assert (found.configured, found.learnt, found.limit) == (limit, learnt or None, learnt or limit)
    assert found.used == pytest.approx(found.limit * max(0, debt_us) / 60e6)
    assert found.share == pytest.approx(max(0, debt_us) / 60e6)
    assert found.burst_share == pytest.approx(max(0, debt_us) / 50_000)


@given(
    state=st.builds(
        ScopeState,
        run_id=st.just(RUN),
        generation=st.just(1),
        blocked_until_us=st.integers(NOW_US - SECOND_US, NOW_US + 30 * SECOND_US),
        tats_us=st.tuples(*[st.integers(NOW_US - SECOND_US, NOW_US + 30 * SECOND_US)] * 4),
        ramp_from_us=st.integers(NOW_US - 10 * SECOND_US, NOW_US + SECOND_US),
        ramp_us=st.integers(0, 10 * SECOND_US),
        safe=st.floats(0.5, 1.0),
        safe_at_us=st.integers(NOW_US - 60 * SECOND_US, NOW_US),
    )
)
def test_the_next_calls_wait_is_what_the_limiter_would_answer(state: ScopeState) -> None:
    """Block, debts, slow start and burst are those of a booking made at this moment."""
    quota = Quota(requests_per_minute=600, tokens_per_minute=60_000)
    asked = Batch(requests=(Request(cost=TYPICAL_CALL),), horizon_us=10**12)

    found = levels_of(state, quota)

    stored, reply = book(Stored(scope=state), asked, quota, clock_us=NOW_US, run_id=RUN)
    assert found.next_call == reply.answers[0]
    assert found.safe == reply.safe
    assert stored.scope is not None
    assert found.slow_start is None or 0.499 < found.slow_start.factor < 1


def test_a_usual_call_is_taken_smaller_where_a_limit_is_small() -> None:
    """A limit below a thousand tokens does not read as one that nothing fits in."""
    quota = Quota(tokens_per_minute=500, output_tokens_per_minute=50, tokens_per_day=400)

    assert levels_of(FRESH, quota).next_call.verdict is Verdict.BOOKED


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (SignalCode.RATE_LIMITED, BlockCause.RATE_LIMITED),
        (SignalCode.RAMP_LIMITED, BlockCause.RAMP_LIMITED),
        (SignalCode.OVERLOADED, BlockCause.OVERLOADED),
    ],
)
def test_a_refusals_block_names_the_refusal(code: SignalCode, cause: BlockCause) -> None:
    """Operators see which kind of answer stopped everybody, and until when."""
    found = levels_of(heard(code, seconds=8))

    assert found.block is not None
    assert (found.block.cause, found.block.until_us) == (cause, NOW_US + 8 * SECOND_US)
    assert found.next_call.dimension is Dimension.BLOCKED
    assert levels_of(heard(code, seconds=8), at_us=NOW_US + 8 * SECOND_US).block is None


def test_a_process_that_remembers_a_block_is_its_cause() -> None:
    """Redis forgot the block and was told again."""
    told, _ = book(Stored(scope=FRESH), Batch(block_us=SECOND_US), Quota(), clock_us=NOW_US, run_id=RUN)

    block = levels_of(told.scope).block

    assert block is not None
    assert block.cause is BlockCause.TOLD


def test_a_restart_that_no_process_noticed_yet_shows_its_guard() -> None:
    """With another run id the scope is as the next batch will make it."""
    block = levels_of(FRESH, run_id="b" * 40).block

    assert block is not None
    assert (block.cause, block.until_us) == (BlockCause.GUARD, NOW_US + GUARD_US)


def test_a_used_up_day_is_a_block_with_its_dimension() -> None:
    """More than 99 % of a day used stops calls until an hour of it is a day old."""
    quota = Quota(dollars_per_day=2)
    spent = Request(cost=Cost(micro_dollars=2_000_000))
    stored, _ = book(Stored(scope=FRESH), Batch(requests=(spent,)), quota, clock_us=NOW_US, run_id=RUN)

    found = scope_levels(stored, quota, clock_us=NOW_US, run_id=RUN)

    assert found.block is not None
    assert found.block.cause is BlockCause.DAILY_DOLLARS
    day = level(found, Dimension.DAILY_DOLLARS)
    assert (day.used, day.limit, day.share) == (2.0, 2.0, 1.0)


def test_the_safety_factor_comes_back_with_time() -> None:
    """A hundredth each ten seconds, as calls are charged."""
    state = replace(FRESH, safe=0.9, safe_at_us=NOW_US)

    assert levels_of(state).safe == 0.9
    assert levels_of(state, at_us=NOW_US + 25 * SECOND_US).safe == pytest.approx(0.92)
    assert levels_of(state, at_us=NOW_US + 3600 * SECOND_US).safe == 1.0


def test_slow_start_climbs_from_half_and_ends() -> None:
    """Half way through the climb the rate is three quarters."""
    state = replace(FRESH, ramp_from_us=NOW_US, ramp_us=4 * SECOND_US)

    half_way = levels_of(state, at_us=NOW_US + 2 * SECOND_US).slow_start

    assert half_way is not None
    assert half_way.factor == pytest.approx(0.75)
    assert half_way.until_us == NOW_US + 4 * SECOND_US
    assert levels_of(state, at_us=NOW_US + 4 * SECOND_US).slow_start is None


def test_the_overload_ceiling_is_the_concurrency_in_force() -> None:
    """Beside what is configured, which may be nothing; a lease that ran out is nobody's."""
    state = replace(FRESH, ceiling=5.5, ceiling_top=8.0, ceiling_at_us=NOW_US)
    stored = Stored(scope=state, leases={"p:1:1": NOW_US + 1, "p:1:2": NOW_US})

    found = scope_levels(stored, Quota(concurrency=8), clock_us=NOW_US, run_id=RUN)

    places = level(found, Dimension.CONCURRENCY)
    assert (places.limit, places.configured, places.used) == (5, 8, 1)
    assert found.ceiling == 5.5
    assert level(levels_of(state, Quota()), Dimension.CONCURRENCY).configured is None


def test_an_open_circuit_says_who_probes() -> None:
    """Nobody before the probe is due; then the process that holds the right, while it holds it."""
    state = heard(SignalCode.HALTED)
    reports = {"prober": (NOW_US, ProcessReport()), "other": (NOW_US, ProcessReport())}

    waiting = levels_of(state, processes=reports).circuit

    assert waiting is not None
    assert (waiting.reason, waiting.since_us) == ("money", NOW_US)
    assert waiting.probe_at_us == NOW_US + 5 * SECOND_US
    assert (waiting.is_probing, waiting.prober) == (False, None)
    held = replace(state, probe_holder=process_hash("prober"), probe_until_us=NOW_US + SECOND_US)
    probing = levels_of(held, processes=reports).circuit
    assert probing is not None
    assert (probing.is_probing, probing.prober) == (True, "prober")
    unseen = levels_of(held).circuit
    assert unseen is not None
    assert (unseen.is_probing, unseen.prober) == (True, None)
    lapsed = levels_of(held, at_us=NOW_US + SECOND_US, processes=reports).circuit
    assert lapsed is not None
    assert (lapsed.is_probing, lapsed.prober) == (False, None)


def test_interactive_work_waits_until_it_was_last_seen_to() -> None:
    """Then bulk borrows again."""
    state = replace(FRESH, hungry_until_us=NOW_US + 1)

    assert levels_of(state).interactive_waits
    assert not levels_of(state, at_us=NOW_US + 1).interactive_waits


def test_a_process_is_shown_while_its_report_is_young() -> None:
    """One that ended or hangs is not counted with the others."""
    report = ProcessReport(in_flight=3, waiting_interactive=2, waiting_bulk=1, booked=1)
    processes = {"old": (NOW_US - REPORT_AGE_US - 1, report), "new": (NOW_US - REPORT_AGE_US, report)}

    (shown,) = levels_of(processes=processes).processes

    assert (shown.process, shown.report) == ("new", report)


def test_a_scope_that_was_never_used_is_empty_and_open() -> None:
    """The guard of its first batch is no block: nobody waits for it yet."""
    found = levels_of(None)

    assert not found.is_used
    assert found.block is None
    assert level(found, Dimension.REQUESTS).used == 0


def test_a_scope_without_configured_limits_shows_what_headers_told() -> None:
    """What another deployment configured is not known here; what was learnt is."""
    state = replace(FRESH, learnt=(0.0, 50_000.0, 0.0, 0.0))

    (only,) = levels_of(state, Quota()).levels

    assert (only.dimension, only.configured, only.limit) == (Dimension.TOKENS, None, 50_000)
