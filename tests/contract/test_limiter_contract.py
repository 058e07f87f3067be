"""What every limiter promises its callers: the fake that other rooms test with, and the real one.

What needs more than some six seconds of real time is in the tests of the fake and of the script.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import redis.asyncio

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Cost,
    Dimension,
    Lane,
    Limiter,
    NeverFits,
    Permit,
    ScopeView,
    Signal,
    SignalKind,
    WaitersReleasedError,
)
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.telemetry.metrics import Metrics
from tests.contract.limiter_scope import open_scope
from tests.waiting import wait_until

LARGEST_TOKENS = 100_000
FIRST_PROBE_S = 5.0
OUTAGE_S = 5.1  # a little more than the least
OUTAGE_CALLS = 20
OUTAGE_EVENTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A limiter, what it shows, and how its time passes: fake time at once, real time by itself."""

    limiter: Limiter
    view: ScopeView
    pass_time: Callable[[float], Awaitable[None]]
    is_limited: bool = True


@pytest.fixture(params=["fake", "redis", "redis-unlimited"])
async def case(request: pytest.FixtureRequest, redis_client: redis.asyncio.Redis) -> AsyncIterator[Case]:
    """Return each limiter, open and with a full bucket."""
    if request.param == "fake":
        fake = FakeLimiter(largest_tokens=LARGEST_TOKENS)

        async def advance(seconds: float) -> None:
            fake.advance(seconds)

        yield Case(limiter=fake, view=fake, pass_time=advance)
        return
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=60_000, tokens_per_minute=LARGEST_TOKENS)
    is_limited = request.param == "redis"
    real = RedisLimiter(
        redis_client,
        scope="main",
        quota=quota if is_limited else Quota(),
        metrics=Metrics(),
        process_id="only",
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(real.run())
        yield Case(limiter=real, view=real, pass_time=_sit_out, is_limited=is_limited)
        running.cancel()


async def _sit_out(seconds: float) -> None:
    until = time.monotonic() + seconds
    await wait_until(lambda: time.monotonic() >= until, timeout_s=seconds + 1)


def _ask(*, patience_s: float | None = None, tokens: int = 1) -> Ask:
    return Ask(lane=Lane.INTERACTIVE, cost=Cost(tokens=tokens), origin_timestamp_ms=0, patience_s=patience_s)


async def _granted(case: Case, ask: Ask | None = None) -> Permit:
    async with asyncio.timeout(3):
        permit = await case.limiter.acquire(ask or _ask())
    assert isinstance(permit, Permit)
    return permit


async def _called(case: Case) -> Permit:
    """Return the permit of a call that was made and settled."""
    permit = await _granted(case)
    case.limiter.settle(permit, None)
    return permit


async def _report(
    case: Case,
    permit: Permit,
    kind: SignalKind,
    *,
    retry_after_s: float | None = None,
    event: str = "e",
) -> None:
    reason = "money" if kind is SignalKind.HALTED else kind.value
    signal = Signal(kind=kind, reason=reason, retry_after_s=retry_after_s, event=event)
    await case.limiter.report(permit, signal)


async def _refused(case: Case, retry_after_s: float) -> None:
    """Make a call that the provider refuses for so long."""
    await _report(case, await _called(case), SignalKind.RATE_LIMITED, retry_after_s=retry_after_s)


async def _halted(case: Case) -> None:
    """Make a call that opens the circuit."""
    await _report(case, await _called(case), SignalKind.HALTED)


async def _waiting(
    case: Case, patience_s: float | None = None
) -> asyncio.Future[Permit | Blocked | NeverFits]:
    """Begin to wait for a permit."""
    asked = asyncio.ensure_future(case.limiter.acquire(_ask(patience_s=patience_s)))
    await asyncio.sleep(0)
    return asked


async def _failed(case: Case, calls: int, *, events: int) -> None:
    """Let so many calls of so many events end in a 5xx."""
    for number in range(calls):
        await _report(case, await _called(case), SignalKind.DOWN, event=f"e-{number % events}")


# --- Permits ----------------------------------------------------------------------------------------


async def test_permits_are_distinct_and_carry_the_cost(case: Case) -> None:
    """Each permit has an id of its own, the scope and what was asked for, and is no probe."""
    permits = [await _granted(case, _ask(tokens=n)) for n in (1, 2, 3)]
    assert len({permit.id for permit in permits}) == 3
    assert {(permit.scope, permit.is_probe) for permit in permits} == {("main", False)}
    assert [permit.cost.tokens for permit in permits] == [1, 2, 3]
    for permit in permits:
        case.limiter.settle(permit, None)


async def test_draining_lets_everybody_go(case: Case) -> None:
    """Whoever waits is released, and whoever comes later is refused."""
    await _refused(case, 30)
    waiting = await _waiting(case)
    case.limiter.release_waiters()
    with pytest.raises(WaitersReleasedError):
        await waiting
    with pytest.raises(WaitersReleasedError):
        await case.limiter.acquire(_ask())


async def test_draining_lets_those_go_who_wait_for_a_circuit(case: Case) -> None:
    """An outage does not keep a process from its end."""
    await _halted(case)
    waiting = await _waiting(case)
    case.limiter.release_waiters()
    with pytest.raises(WaitersReleasedError):
        await waiting


async def test_a_cancelled_waiter_leaves_no_trace(case: Case) -> None:
    """After a cancelled wait the next one is served as ever."""
    await _refused(case, 0.1)
    gone = await _waiting(case)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    asked = await _waiting(case)
    await case.pass_time(0.1)
    async with asyncio.timeout(3):
        assert isinstance(await asked, Permit)


async def test_a_call_larger_than_the_limit_never_fits(case: Case) -> None:
    """Also while the scope is blocked: no wait can help."""
    if not case.is_limited:
        return
    await _refused(case, 30)
    answer = await case.limiter.acquire(_ask(tokens=LARGEST_TOKENS + 1))
    assert answer == NeverFits(dimension=Dimension.TOKENS)


# --- Blocks -----------------------------------------------------------------------------------------


async def test_a_block_longer_than_the_patience_is_answered(case: Case) -> None:
    """Blocked comes at once and tells how long and why."""
    await _refused(case, 30)
    async with asyncio.timeout(1):
        answer = await case.limiter.acquire(_ask(patience_s=5))
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.BLOCKED
    assert 28 < answer.wait_s <= 30
    assert 28 < case.view.blocked_for_s() <= 30
    assert case.view.circuit() is None


async def test_a_short_block_is_waited_for(case: Case) -> None:
    """A block within the patience delays the call and is no answer."""
    await _refused(case, 0.2)
    asked = await _waiting(case, patience_s=5)
    assert not asked.done()
    await case.pass_time(0.2)
    async with asyncio.timeout(3):
        permit = await asked
    assert isinstance(permit, Permit)
    assert permit.waited_s >= 0.18
    assert case.view.blocked_for_s() == 0


async def test_those_who_wait_already_are_answered_too(case: Case) -> None:
    """A short block that grows beyond their patience lets the impatient go and keeps the others."""
    late = await _called(case)
    await _refused(case, 2)
    impatient, patient = await _waiting(case, patience_s=5), await _waiting(case)
    await _report(case, late, SignalKind.RATE_LIMITED, retry_after_s=30)
    await wait_until(impatient.done)
    assert isinstance(impatient.result(), Blocked)
    assert not patient.done()
    patient.cancel()


async def test_a_block_is_never_shortened(case: Case) -> None:
    """The longest of several refusals counts, and a success of a call of before it changes nothing."""
    shorter, unnamed, succeeded = [await _called(case) for _ in range(3)]
    await _refused(case, 30)
    await _report(case, shorter, SignalKind.RATE_LIMITED, retry_after_s=1)
    await _report(case, unnamed, SignalKind.RATE_LIMITED)
    await _report(case, succeeded, SignalKind.ALIVE)
    assert case.view.blocked_for_s() > 28


@pytest.mark.parametrize("kind", [SignalKind.RATE_LIMITED, SignalKind.RAMP_LIMITED])
async def test_a_rate_limit_that_names_no_time_blocks_for_a_second(case: Case, kind: SignalKind) -> None:
    """The provider said 'not now' for everybody."""
    await _report(case, await _called(case), kind)
    assert 0.5 < case.view.blocked_for_s() <= 1


async def test_an_overload_blocks_only_when_it_names_a_time(case: Case) -> None:
    """Without one, the call's own backoff has to do."""
    unnamed, named = await _called(case), await _called(case)
    await _report(case, unnamed, SignalKind.OVERLOADED)
    assert case.view.blocked_for_s() == 0
    await _report(case, named, SignalKind.OVERLOADED, retry_after_s=30)
    assert 28 < case.view.blocked_for_s() <= 30


async def test_a_call_may_be_reported_before_it_is_settled(case: Case) -> None:
    """Either order will do."""
    permit = await _granted(case)
    await _report(case, permit, SignalKind.RATE_LIMITED, retry_after_s=30)
    case.limiter.settle(permit, None)
    assert case.view.blocked_for_s() > 28


@pytest.mark.parametrize("kind", [SignalKind.ALIVE, SignalKind.DOWN])
async def test_one_answer_or_one_failure_stops_nobody(case: Case, kind: SignalKind) -> None:
    """It neither blocks nor opens the circuit."""
    await _report(case, await _called(case), kind)
    assert case.view.blocked_for_s() == 0
    assert case.view.circuit() is None
    await _called(case)


# --- Circuits ---------------------------------------------------------------------------------------


async def test_a_halt_opens_the_circuit(case: Case) -> None:
    """It says why and when it is probed, is no block, and is everybody's at once."""
    await _halted(case)
    circuit = case.view.circuit()
    assert circuit is not None
    assert circuit.reason == "money"
    assert circuit.open_for_s < 1
    assert FIRST_PROBE_S - 1 < circuit.next_probe_s <= FIRST_PROBE_S
    assert case.view.blocked_for_s() == 0


async def test_an_open_circuit_is_waited_for_or_answered_by_patience(case: Case) -> None:
    """The impatient learn the time to the next probe; the patient wait."""
    await _halted(case)
    patient = await _waiting(case)
    async with asyncio.timeout(1):
        answer = await case.limiter.acquire(_ask(patience_s=1))
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.CIRCUIT
    assert FIRST_PROBE_S - 1 < answer.wait_s <= FIRST_PROBE_S
    assert not patient.done()
    patient.cancel()


async def test_a_circuit_that_opens_answers_those_who_wait_already(case: Case) -> None:
    """The impatient among them go at once."""
    late = await _called(case)
    await _refused(case, 1)
    impatient, patient = await _waiting(case, patience_s=2), await _waiting(case)
    await _report(case, late, SignalKind.HALTED)
    await wait_until(impatient.done)
    answer = impatient.result()
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.CIRCUIT
    assert not patient.done()
    patient.cancel()


async def test_a_success_of_a_call_of_before_the_opening_does_not_close_the_circuit(case: Case) -> None:
    """It left when there still was credit."""
    before = await _called(case)
    await _halted(case)
    await _report(case, before, SignalKind.ALIVE)
    await case.pass_time(0.3)
    assert case.view.circuit() is not None


async def test_exactly_one_waiter_probes_and_its_success_lets_the_others_go(case: Case) -> None:
    """While the probe is on the wire the rest wait; then the circuit is closed for all."""
    await _halted(case)
    waiting = [await _waiting(case) for _ in range(3)]
    await case.pass_time(FIRST_PROBE_S)
    await wait_until(lambda: any(asked.done() for asked in waiting))
    await case.pass_time(0.2)
    (probe,) = [asked.result() for asked in waiting if asked.done()]
    assert isinstance(probe, Permit)
    assert probe.is_probe

    case.limiter.settle(probe, None)
    await _report(case, probe, SignalKind.ALIVE)

    await wait_until(lambda: all(asked.done() for asked in waiting))
    permits = [asked.result() for asked in waiting]
    assert sorted(isinstance(permit, Permit) and permit.is_probe for permit in permits) == [
        False,
        False,
        True,
    ]
    assert case.view.circuit() is None


@pytest.mark.parametrize("kind", [SignalKind.HALTED, SignalKind.DOWN, SignalKind.RATE_LIMITED])
async def test_a_probe_that_fails_doubles_the_wait_for_the_next_one(case: Case, kind: SignalKind) -> None:
    """For want of credit, nothing but an answer is a success."""
    await _halted(case)
    asked = await _waiting(case)
    await case.pass_time(FIRST_PROBE_S)
    await wait_until(asked.done)
    probe = asked.result()
    assert isinstance(probe, Permit)

    case.limiter.settle(probe, None)
    await _report(case, probe, kind)

    circuit = case.view.circuit()
    assert circuit is not None
    assert 2 * FIRST_PROBE_S - 1 < circuit.next_probe_s <= 2 * FIRST_PROBE_S


async def test_with_nobody_waiting_a_due_probe_is_wanted_and_the_next_ask_makes_it(case: Case) -> None:
    """Not before it is due, not while it is on the wire, and again when it was never made.

    An ask with any patience at all is not the one: it is told of the circuit.
    """
    await _halted(case)
    assert not case.view.wants_probe()
    await case.pass_time(FIRST_PROBE_S)
    await wait_until(case.view.wants_probe)
    impatient = await case.limiter.acquire(_ask(patience_s=60))
    assert isinstance(impatient, Blocked)
    assert impatient.cause is Dimension.CIRCUIT

    probe = await _granted(case)
    assert probe.is_probe
    assert not case.view.wants_probe()

    case.limiter.settle(probe, NOTHING)
    await wait_until(case.view.wants_probe)
    assert (await _granted(case)).is_probe


async def test_a_closed_circuit_wants_no_probe(case: Case) -> None:
    """Nor does a block."""
    assert not case.view.wants_probe()
    await _refused(case, 30)
    assert not case.view.wants_probe()


async def test_an_outage_opens_the_circuit(case: Case) -> None:
    """Twenty calls in a row, of five events, over five seconds: not one fewer."""
    await _failed(case, OUTAGE_CALLS - 2, events=OUTAGE_EVENTS)
    await case.pass_time(OUTAGE_S)
    await _failed(case, 1, events=1)
    assert case.view.circuit() is None

    await _failed(case, 1, events=1)

    circuit = case.view.circuit()
    assert circuit is not None
    assert circuit.reason == "outage"


async def test_failures_that_are_no_outage_leave_the_circuit_closed(case: Case) -> None:
    """Many calls at once, or many of a few bad events; any answer begins the count anew."""
    await _failed(case, OUTAGE_CALLS + 5, events=OUTAGE_EVENTS)
    assert case.view.circuit() is None, "within less than five seconds"

    await _report(case, await _called(case), SignalKind.ALIVE)
    await _failed(case, OUTAGE_CALLS, events=OUTAGE_EVENTS - 1)
    await case.pass_time(OUTAGE_S)
    await _failed(case, OUTAGE_CALLS, events=OUTAGE_EVENTS - 1)
    assert case.view.circuit() is None, "of four events"

    refused = await _called(case)
    await _report(case, refused, SignalKind.OVERLOADED)
    await _failed(case, OUTAGE_CALLS - 1, events=OUTAGE_EVENTS)
    assert case.view.circuit() is None, "a refusal is an answer, too"
