"""What every limiter promises its callers: the fake that other rooms test with, and the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis.asyncio

from sluicegate.limiter.api import (
    Ask,
    Blocked,
    Cost,
    Dimension,
    Lane,
    Limiter,
    NeverFits,
    Permit,
    WaitersReleasedError,
)
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.telemetry.metrics import Metrics
from tests.contract.limiter_scope import open_scope
from tests.waiting import wait_until

LARGEST_TOKENS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A limiter, and how its time passes: real time by itself, fake time when told."""

    limiter: Limiter
    blocked_for_s: Callable[[], float]
    pass_time: Callable[[float], None]


@pytest.fixture(params=["fake", "redis", "redis-unlimited"])
async def case(request: pytest.FixtureRequest, redis_client: redis.asyncio.Redis) -> AsyncIterator[Case]:
    """Return each limiter, open and with a full bucket."""
    if request.param == "fake":
        fake = FakeLimiter(largest_tokens=LARGEST_TOKENS)
        yield Case(limiter=fake, blocked_for_s=fake.blocked_for_s, pass_time=fake.advance)
        return
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=60_000, tokens_per_minute=LARGEST_TOKENS)
    real = RedisLimiter(
        redis_client,
        scope="main",
        quota=quota if request.param == "redis" else Quota(),
        metrics=Metrics(),
        process_id="only",
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(real.run())
        yield Case(limiter=real, blocked_for_s=real.blocked_for_s, pass_time=lambda _: None)
        running.cancel()


def _ask(*, patience_s: float | None = None, tokens: int = 1) -> Ask:
    return Ask(lane=Lane.INTERACTIVE, cost=Cost(tokens=tokens), origin_timestamp_ms=0, patience_s=patience_s)


async def _granted(limiter: Limiter, ask: Ask) -> Permit:
    async with asyncio.timeout(3):
        permit = await limiter.acquire(ask)
    assert isinstance(permit, Permit)
    return permit


async def test_permits_are_distinct_and_carry_the_cost(case: Case) -> None:
    """Each permit has an id of its own, the scope and what was asked for."""
    permits = [await _granted(case.limiter, _ask(tokens=n)) for n in (1, 2, 3)]
    assert len({permit.id for permit in permits}) == 3
    assert {permit.scope for permit in permits} == {"main"}
    assert [permit.cost.tokens for permit in permits] == [1, 2, 3]
    for permit in permits:
        case.limiter.settle(permit, None)


async def test_a_block_longer_than_the_patience_is_answered(case: Case) -> None:
    """Blocked comes at once and tells how long."""
    await case.limiter.block(30, "rate-limited")
    async with asyncio.timeout(1):
        answer = await case.limiter.acquire(_ask(patience_s=5))
    assert isinstance(answer, Blocked)
    assert 28 < answer.wait_s <= 30
    assert 28 < case.blocked_for_s() <= 30


async def test_a_short_block_is_waited_for(case: Case) -> None:
    """A block within the patience delays the call and is no answer."""
    await case.limiter.block(0.2, "rate-limited")
    asked = asyncio.ensure_future(_granted(case.limiter, _ask(patience_s=5)))
    await asyncio.sleep(0)
    assert not asked.done()
    case.pass_time(0.2)
    permit = await asked
    assert permit.waited_s >= 0.18
    assert case.blocked_for_s() == 0


async def test_those_who_wait_already_are_answered_too(case: Case) -> None:
    """A short block that grows beyond their patience lets the impatient go and keeps the others."""
    await case.limiter.block(2, "rate-limited")
    impatient = asyncio.ensure_future(case.limiter.acquire(_ask(patience_s=5)))
    patient = asyncio.ensure_future(case.limiter.acquire(_ask()))
    await asyncio.sleep(0)
    await case.limiter.block(30, "rate-limited")
    await wait_until(impatient.done)
    assert isinstance(impatient.result(), Blocked)
    assert not patient.done()
    patient.cancel()


async def test_a_block_is_never_shortened(case: Case) -> None:
    """The longest of several blocks counts."""
    await case.limiter.block(30, "rate-limited")
    await case.limiter.block(1, "rate-limited")
    assert case.blocked_for_s() > 28


async def test_draining_lets_everybody_go(case: Case) -> None:
    """Whoever waits is released, and whoever comes later is refused."""
    await case.limiter.block(30, "rate-limited")
    waiting = asyncio.ensure_future(case.limiter.acquire(_ask()))
    await asyncio.sleep(0)
    case.limiter.release_waiters()
    with pytest.raises(WaitersReleasedError):
        await waiting
    with pytest.raises(WaitersReleasedError):
        await case.limiter.acquire(_ask())


async def test_a_cancelled_waiter_leaves_no_trace(case: Case) -> None:
    """After a cancelled wait the next one is served as ever."""
    await case.limiter.block(0.1, "rate-limited")
    gone = asyncio.ensure_future(case.limiter.acquire(_ask()))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    asked = asyncio.ensure_future(_granted(case.limiter, _ask()))
    await asyncio.sleep(0)
    case.pass_time(0.1)
    await asked


async def test_a_call_larger_than_the_limit_never_fits(case: Case, request: pytest.FixtureRequest) -> None:
    """Also while the scope is blocked: no wait can help."""
    if "unlimited" in request.node.name:
        return
    await case.limiter.block(30, "rate-limited")
    answer = await case.limiter.acquire(_ask(tokens=LARGEST_TOKENS + 1))
    assert answer == NeverFits(dimension=Dimension.TOKENS)
