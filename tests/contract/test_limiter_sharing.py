"""What processes share through a real Redis: lanes, places, days, limits that headers told, circuits."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import NoScriptError
from structlog.testing import capture_logs

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Cost,
    Dimension,
    Lane,
    NeverFits,
    Permit,
    Signal,
    SignalKind,
)
from sluicegate.limiter.booking import Quota, SignalCode
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.limiter.stored import ScopeKeys, ScopeState
from sluicegate.limiter.wire import script_text
from sluicegate.llm.outcomes import QuotaKind, QuotaReport
from sluicegate.telemetry.metrics import Metrics
from tests.contract.limiter_scope import open_scope, read_scope, redis_now_us, redis_run_id, store_scope
from tests.waiting import wait_until

_KEYS = ScopeKeys.of("main")
_ids = itertools.count()


def _limiter(client: redis.asyncio.Redis, quota: Quota, metrics: Metrics | None = None) -> RedisLimiter:
    return RedisLimiter(
        client, scope="main", quota=quota, metrics=metrics or Metrics(), process_id=f"sharing-{next(_ids)}"
    )


@asynccontextmanager
async def running(*limiters: RedisLimiter) -> AsyncIterator[None]:
    """Run the limiters' loops while the block lasts."""
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(limiter.run()) for limiter in limiters]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()


def _ask(
    *,
    tokens: int = 0,
    lane: Lane = Lane.INTERACTIVE,
    patience_s: float | None = None,
    tenant: str | None = None,
) -> Ask:
    return Ask(
        lane=lane, cost=Cost(tokens=tokens), origin_timestamp_ms=0, patience_s=patience_s, tenant=tenant
    )


async def _permit(limiter: RedisLimiter, ask: Ask | None = None, *, timeout_s: float = 5.0) -> Permit:
    async with asyncio.timeout(timeout_s):
        permit = await limiter.acquire(ask or _ask())
    assert isinstance(permit, Permit)
    return permit


async def _answer(limiter: RedisLimiter, ask: Ask) -> Permit | Blocked | NeverFits:
    """Return what comes at once."""
    async with asyncio.timeout(1):
        return await limiter.acquire(ask)


async def _leases(client: redis.asyncio.Redis) -> int:
    return int(await client.zcard(_KEYS.leases))


async def _until_leases(client: redis.asyncio.Redis, count: int) -> None:
    async with asyncio.timeout(3):
        while await _leases(client) != count:
            pass


# --- lanes and tenants --------------------------------------------------------------------------------


@pytest.mark.parametrize("bulk_share", [0.1, 0.0])
async def test_interactive_work_goes_first_over_processes(
    redis_client: redis.asyncio.Redis, bulk_share: float
) -> None:
    """Bulk work of one process gets its share while another one's interactive work waits, and no more."""
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=3_000, bulk_share=bulk_share)
    process = {lane: _limiter(redis_client, quota) for lane in Lane}
    served: Counter[Lane] = Counter()

    async def hungry(lane: Lane) -> None:
        while True:
            process[lane].settle(await _permit(process[lane], _ask(lane=lane), timeout_s=30), None)
            served[lane] += 1

    async with running(*process.values()):
        callers = [asyncio.ensure_future(hungry(lane)) for lane in Lane for _ in range(10)]
        await wait_until(lambda: served.total() >= 20)
        served.clear()
        await wait_until(lambda: served.total() >= 100, timeout_s=10)
        shares = {lane: served[lane] / served.total() for lane in Lane}
        for caller in callers:
            caller.cancel()

    assert shares[Lane.BULK] <= bulk_share + 0.05
    assert shares[Lane.BULK] >= bulk_share - 0.06


async def test_tenants_take_turns_in_every_process(redis_client: redis.asyncio.Redis) -> None:
    """Whoever came with ten calls does not make one wait who came with three after that."""
    await open_scope(redis_client)
    limiters = [_limiter(redis_client, Quota(requests_per_minute=6_000, burst_s=0)) for _ in range(2)]
    served: dict[RedisLimiter, list[str]] = {limiter: [] for limiter in limiters}

    async def call(limiter: RedisLimiter, tenant: str) -> None:
        await _permit(limiter, _ask(tenant=tenant))
        served[limiter].append(tenant)

    async with asyncio.TaskGroup() as tasks:
        for limiter in limiters:
            for tenant in ["many"] * 10 + ["few"] * 3:
                tasks.create_task(call(limiter, tenant))
        await asyncio.sleep(0)
        async with running(*limiters):
            await wait_until(lambda: all(len(each) == 13 for each in served.values()))

    for each in served.values():
        assert each[:6].count("few") == 3, each


async def test_a_tenants_turns_are_as_many_as_its_calls_are_small(redis_client: redis.asyncio.Redis) -> None:
    """Turns are by cost: five small calls go for one that is five times as large."""
    await open_scope(redis_client)
    limiter = _limiter(redis_client, Quota(tokens_per_minute=600_000, burst_s=0))
    served: list[str] = []

    async def call(tenant: str, tokens: int) -> None:
        await _permit(limiter, _ask(tenant=tenant, tokens=tokens))
        served.append(tenant)

    async with asyncio.TaskGroup() as tasks:
        for tenant, tokens in [("large", 250)] * 6 + [("small", 50)] * 20:
            tasks.create_task(call(tenant, tokens))
        await asyncio.sleep(0)
        async with running(limiter):
            await wait_until(lambda: len(served) == 26)

    assert 9 <= served[:12].count("small") <= 11, served


# --- places among the concurrent calls --------------------------------------------------------------------


async def test_concurrent_calls_are_counted_over_processes(redis_client: redis.asyncio.Redis) -> None:
    """A place that one process settles goes to the other, and none is left at the end."""
    await open_scope(redis_client)
    here, there = (_limiter(redis_client, Quota(concurrency=3)) for _ in range(2))
    async with running(here, there):
        held = [await _permit(here), await _permit(there), await _permit(here)]
        waiting = [asyncio.ensure_future(_permit(limiter)) for limiter in (here, there, there)]
        await asyncio.wait(waiting, timeout=0.3)
        assert not any(each.done() for each in waiting)
        assert await _leases(redis_client) == 3
        here.settle(held.pop(0), None)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=3)
        await asyncio.wait(waiting, timeout=0.3)
        assert sum(each.done() for each in waiting) == 1
        there.settle(held.pop(0), None)
        here.settle(held.pop(0), NOTHING)
        for limiter, each in zip((here, there, there), waiting, strict=True):
            limiter.settle(await each, None)
        await _until_leases(redis_client, 0)


async def test_hungry_processes_share_the_places(redis_client: redis.asyncio.Redis) -> None:
    """Who settles asks again at once, and still whoever came later gets as many places, for few questions."""
    await open_scope(redis_client)
    overheard: Any = _Overheard(redis_client)
    limiters = [_limiter(overheard, Quota(concurrency=4)) for _ in range(2)]
    served: Counter[RedisLimiter] = Counter()

    async def hungry(limiter: RedisLimiter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            permit = await _permit(limiter)
            served[limiter] += 1
            answered = loop.create_future()
            loop.call_later(0.02, answered.set_result, None)
            await answered
            limiter.settle(permit, None)

    async with running(*limiters):
        callers = [asyncio.ensure_future(hungry(limiters[0])) for _ in range(8)]
        await wait_until(lambda: served.total() >= 20)
        callers += [asyncio.ensure_future(hungry(limiters[1])) for _ in range(8)]
        await wait_until(lambda: served[limiters[1]] > 0)
        served.clear()
        asked = overheard.batches
        # Whoever comes goes ahead for up to 0.3 s: the others do not ask again any sooner.
        await wait_until(lambda: served.total() >= 200, timeout_s=10)
        at_first = served.copy()
        await wait_until(lambda: served.total() >= 600, timeout_s=20)
        asked = overheard.batches - asked
        for caller in callers:
            caller.cancel()

    assert min(served.values()) >= 0.8 * max(served.values())
    later = served - at_first
    assert min(later.values()) >= 0.9 * max(later.values())
    assert asked <= 3 * served.total()


@pytest.mark.slow
async def test_a_dead_processes_places_come_back(redis_client: redis.asyncio.Redis) -> None:
    """A call on the wire keeps its place as long as its process renews it, and ten seconds longer."""
    await open_scope(redis_client)
    dying, other = (_limiter(redis_client, Quota(concurrency=1)) for _ in range(2))
    now = asyncio.get_running_loop().time
    async with running(other):
        loop = asyncio.ensure_future(dying.run())
        await _permit(dying)
        granted_at = now()
        waiting = asyncio.ensure_future(_permit(other, timeout_s=30))
        await wait_until(lambda: now() - granted_at > 4.5)
        loop.cancel()
        await waiting
    # Renewed after three seconds at least once: else its place had been free after ten.
    assert 12.5 < now() - granted_at < 16


# --- days ----------------------------------------------------------------------------------------------


async def test_a_used_up_day_stops_every_process(redis_client: redis.asyncio.Redis) -> None:
    """The impatient hear at once which limit it is and that it lasts, others' processes within a second."""
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=6_000, requests_per_day=2)
    here, there = (_limiter(redis_client, quota) for _ in range(2))
    async with running(here, there):
        await _permit(here)
        await _permit(there)
        waiting = asyncio.ensure_future(there.acquire(_ask()))
        answer = await _answer(here, _ask(patience_s=60))
        await wait_until(lambda: there.blocked_for_s() > 3_600, timeout_s=1.5)
        assert not waiting.done()
        waiting.cancel()
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.DAILY_REQUESTS
    assert 22 * 3_600 < answer.wait_s <= 25 * 3_600


async def test_the_last_call_of_a_day_is_granted_as_it_was_booked(redis_client: redis.asyncio.Redis) -> None:
    """That it uses the day up blocks those who come after it, in its own process and in others."""
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=75, requests_per_day=3, burst_s=0)
    here, there = (_limiter(redis_client, quota) for _ in range(2))
    async with running(here, there):
        await _permit(here)
        booked = [asyncio.ensure_future(limiter.acquire(_ask(patience_s=0.5))) for limiter in (here, there)]
        await asyncio.wait(booked, timeout=3)
        answer = await _answer(there, _ask(patience_s=0.5))
    assert all(isinstance(each.result(), Permit) for each in booked)
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.DAILY_REQUESTS


async def test_a_call_larger_than_the_days_rest_lets_smaller_ones_pass(
    redis_client: redis.asyncio.Redis,
) -> None:
    """Only the large one is answered with the day: the scope is not blocked."""
    await open_scope(redis_client)
    limiter = _limiter(redis_client, Quota(tokens_per_day=100))
    async with running(limiter):
        await _permit(limiter, _ask(tokens=80))
        patient = asyncio.ensure_future(limiter.acquire(_ask(tokens=50)))
        answer = await _answer(limiter, _ask(tokens=50, patience_s=60))
        await _permit(limiter, _ask(tokens=20))
        assert not patient.done()
        patient.cancel()
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.DAILY_TOKENS


# --- limits that headers told ------------------------------------------------------------------------------


async def test_an_unlimited_scope_follows_the_limit_that_headers_tell(
    redis_client: redis.asyncio.Redis,
) -> None:
    """Told three times it holds in every process, and each says so once."""
    await open_scope(redis_client)
    here, there = (_limiter(redis_client, Quota()) for _ in range(2))
    told = (QuotaReport(kind=QuotaKind.REQUESTS, limit=300),)
    with capture_logs() as logs:
        async with running(here, there):
            for _ in range(3):
                here.settle(await _permit(here), None, told)
            await wait_until(lambda: _followed(logs) == 2, timeout_s=2)
            permits = [await _permit(limiter) for limiter in (here, there, here, there)]
            for _ in range(3):
                here.settle(await _permit(here), None, told)
            assert (await read_scope(redis_client)).learnt[0] == 300
    assert sum(permit.waited_s for permit in permits) > 0.35
    assert _followed(logs) == 2
    (entry, _) = (entry for entry in logs if entry["event"] == "limiter.limit-follows-headers")
    assert (entry["dimension"], entry["configured"], entry["now"]) == ("requests-per-minute", None, 300)


def _followed(logs: Any) -> int:
    return [entry["event"] for entry in logs].count("limiter.limit-follows-headers")


# --- circuits ----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_circuit_stops_the_other_process_until_its_probe(redis_client: redis.asyncio.Redis) -> None:
    """Open within a second there; one call probes it, and its success closes it here too."""
    await open_scope(redis_client)
    here, there = (_limiter(redis_client, Quota(requests_per_minute=6_000)) for _ in range(2))
    async with running(here, there):
        failed = await _permit(here)
        await here.report(failed, Signal(kind=SignalKind.HALTED, reason="money"))
        here.settle(failed, None)
        await wait_until(lambda: there.circuit() is not None, timeout_s=1.2)
        answer = await there.acquire(_ask(patience_s=1))
        waiting = [asyncio.ensure_future(_permit(there, timeout_s=10)) for _ in range(2)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (probe,) = (each.result() for each in waiting if each.done())
        await there.report(probe, Signal(kind=SignalKind.ALIVE, reason="completed"))
        there.settle(probe, None)
        await wait_until(lambda: here.circuit() is None, timeout_s=1.2)
        permits = [await each for each in waiting]
    assert isinstance(answer, Blocked)
    assert answer.cause is Dimension.CIRCUIT
    assert sorted(permit.is_probe for permit in permits) == [False, True]
    assert probe.waited_s > 3


class _Overheard:
    """A client that remembers the news in every batch."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.news: list[bytes] = []
        self.batches = 0
        self._client: Any = client

    async def ping(self) -> Any:
        """Answer at once."""
        return await self._client.ping()

    async def evalsha(self, *arguments: Any) -> Any:
        """Run the script; the last but four holds the news."""
        try:
            reply = await self._client.evalsha(*arguments)
        except NoScriptError:
            reply = await self._client.eval(script_text(), *arguments[1:])
        self.batches += 1
        if arguments[-5]:
            self.news.append(arguments[-5])
        return reply


async def test_success_is_told_only_where_it_is_news(redis_client: redis.asyncio.Redis) -> None:
    """While all is well nothing is sent; after a failure the first success is."""
    await open_scope(redis_client)
    overheard: Any = _Overheard(redis_client)
    limiter = _limiter(overheard, Quota(requests_per_minute=60_000))
    alive = Signal(kind=SignalKind.ALIVE, reason="completed", event="e")
    async with running(limiter):
        permit = await _permit(limiter)
        for _ in range(100):
            await limiter.report(permit, alive)
        await _batches(overheard, 1)
        assert overheard.news == []
        await limiter.report(permit, Signal(kind=SignalKind.DOWN, reason="timeout", event="e"))
        assert len(overheard.news) == 1
        await limiter.report(permit, alive)
        await wait_until(lambda: len(overheard.news) == 2)
        await _batches(overheard, 1)
        await limiter.report(permit, alive)
        await _batches(overheard, 1)
    assert len(overheard.news) == 2


async def test_the_first_answer_after_a_block_ends_its_climb(redis_client: redis.asyncio.Redis) -> None:
    """What began while the pace is halved is told when it is answered, though no call failed."""
    climbing = ScopeState(
        run_id=await redis_run_id(redis_client),
        generation=1,
        ramp_from_us=await redis_now_us(redis_client),
        ramp_us=60_000_000,
        ramp_code=int(SignalCode.RATE_LIMITED),
    )
    await store_scope(redis_client, "main", climbing)
    limiter = _limiter(redis_client, Quota(requests_per_minute=6_000))
    async with running(limiter):
        permit = await _permit(limiter)
        assert (await read_scope(redis_client)).ramp_us == climbing.ramp_us
        await limiter.report(permit, Signal(kind=SignalKind.ALIVE, reason="completed"))
        limiter.settle(permit, None)
        await limiter.flush()
    assert (await read_scope(redis_client)).ramp_us == 0


async def _batches(overheard: _Overheard, count: int) -> None:
    """Let so many more batches go."""
    enough = overheard.batches + count
    await wait_until(lambda: overheard.batches >= enough)


# --- cancelling --------------------------------------------------------------------------------------------


async def test_a_cancelled_acquire_loses_at_most_its_booking(redis_client: redis.asyncio.Redis) -> None:
    """At whatever step it is cancelled: never a place among the concurrent calls, never two bookings."""
    await open_scope(redis_client)
    limiter = _limiter(redis_client, Quota(requests_per_minute=60_000, requests_per_day=1_000, concurrency=2))
    granted, lost = 0, []
    async with running(limiter):
        limiter.settle(await _permit(limiter), NOTHING)
        await _until_leases(redis_client, 0)
        for steps in range(60):
            before = (await read_scope(redis_client)).newest
            call = asyncio.ensure_future(limiter.acquire(_ask()))
            for _ in range(steps):
                await asyncio.sleep(0)
            if not call.cancel():
                granted += 1
                limiter.settle(_granted(call), NOTHING)
            await asyncio.wait({call})
            # Whatever became of it is told with this one's batches at the latest.
            limiter.settle(await _permit(limiter), NOTHING)
            await _until_leases(redis_client, 0)
            lost.append((await read_scope(redis_client)).newest - before)
    assert set(lost) <= {0, 1}
    assert granted < 60


async def test_a_permit_that_nobody_came_to_see_is_given_back(redis_client: redis.asyncio.Redis) -> None:
    """A call that is cancelled between its grant and its waking up returns its place and its booking."""
    await open_scope(redis_client)
    metrics = Metrics()
    limiter = _limiter(redis_client, Quota(requests_per_minute=60_000, concurrency=2), metrics)

    def grants() -> float:
        labels = {"scope": "main", "lane": "interactive"}
        return metrics.registry.get_sample_value("sluicegate_limiter_wait_seconds_count", labels) or 0.0

    unseen = 0
    async with running(limiter):
        for _ in range(20):
            before = grants()
            call = asyncio.ensure_future(limiter.acquire(_ask()))
            async with asyncio.timeout(3):
                while grants() == before:  # noqa: ASYNC110 - the very step of the grant must be seen
                    await asyncio.sleep(0)
            if not call.cancel():
                limiter.settle(_granted(call), NOTHING)
            await asyncio.wait({call})
            unseen += call.cancelled()
            await _until_leases(redis_client, 0)
        assert (await read_scope(redis_client)).newest == 0
    assert unseen > 0


def _granted(call: asyncio.Future[Any]) -> Permit:
    permit = call.result()
    assert isinstance(permit, Permit)
    return permit
