"""The Lua script does what the reference says, on a real Redis."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluicegate.limiter.api import Cost
from sluicegate.limiter.booking import (
    Batch,
    GiveBack,
    Quota,
    Reply,
    Request,
    ScopeState,
    Settlement,
    Verdict,
    batch_key,
    scope_key,
)
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.reference import GUARD_US, book
from sluicegate.state.connecting import connect
from tests.contract.limiter_scope import open_scope, read_scope, redis_now_us, redis_run_id, store_scope

_T = TypeVar("_T")
_SECOND_US = 1_000_000
_costs = st.builds(Cost, requests=st.integers(0, 3), tokens=st.integers(0, 5_000))
_extras = st.builds(Cost, requests=st.integers(0, 1), tokens=st.integers(-4_000, 4_000))
_quotas = st.builds(
    Quota,
    requests_per_minute=st.sampled_from([None, 2, 7, 60, 3000.5]),
    tokens_per_minute=st.sampled_from([None, 1_000, 4_001, 250_000]),
    burst_s=st.sampled_from([0.0, 0.05, 1.0, 60.0]),
)
# Generation 1 is that of the stored state; 0 and 2 are foreign.
_generations = st.sampled_from([0, 1, 1, 1, 2])
_batches = st.builds(
    Batch,
    give_backs=st.lists(
        st.builds(GiveBack, generation=_generations, number=st.integers(1, 6), cost=_costs), max_size=2
    ).map(tuple),
    settlements=st.lists(st.builds(Settlement, generation=_generations, extra=_extras), max_size=2).map(
        tuple
    ),
    requests=st.lists(
        st.builds(Request, generation=_generations, number=st.integers(0, 6), cost=_costs), max_size=4
    ).map(tuple),
    block_us=st.sampled_from([0, 0, 0, 1, 3 * _SECOND_US]),
    horizon_us=st.sampled_from([0, 2 * _SECOND_US, 60 * _SECOND_US]),
)
_offsets = st.integers(-3 * _SECOND_US, 70 * _SECOND_US)


@st.composite
def _states(draw: st.DrawFn, now_us: int, run_id: str) -> ScopeState | None:
    if draw(st.integers(0, 5)) == 0:
        return None
    return ScopeState(
        run_id=draw(st.sampled_from([run_id, run_id, run_id, "0" * 40])),
        generation=1,
        newest=draw(st.integers(0, 5)),
        last_now_us=now_us + draw(st.sampled_from([-_SECOND_US, 0, 5 * _SECOND_US, 25 * _SECOND_US])),
        blocked_until_us=now_us + draw(st.sampled_from([-_SECOND_US, -_SECOND_US, 20 * _SECOND_US])),
        tats_us=(now_us + draw(_offsets), now_us + draw(_offsets)),
    )


def _link(client: redis.asyncio.Redis, quota: Quota, *, process_id: str = "p") -> BookingLink:
    return BookingLink(client, scope="main", quota=quota, process_id=process_id, timeout_s=2.0)


def test_lua_and_reference_agree(redis_url: str) -> None:
    """Any batches on any state give the same replies and leave the same state as the reference."""
    runner = asyncio.Runner()
    client = connect(redis_url, max_connections=64, timeout_s=2.0)

    def run(work: Callable[[], Awaitable[_T]]) -> _T:
        async def call() -> _T:
            return await work()

        return runner.run(call())

    run_id = run(lambda: redis_run_id(client))
    processes = itertools.count()

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), quota=_quotas, batches=st.lists(_batches, min_size=1, max_size=5))
    def agree(data: st.DataObject, quota: Quota, batches: list[Batch]) -> None:
        now_us = run(lambda: redis_now_us(client))
        state = data.draw(_states(now_us, run_id))

        async def compare() -> None:
            nonlocal state
            await client.delete(scope_key("main"))
            if state is not None:
                await store_scope(client, "main", state)
            link = _link(client, quota, process_id=f"p{next(processes)}")
            for sequence, batch in enumerate(batches, start=1):
                reply = await link.send(batch, sequence)
                state, expected = book(state, batch, quota, clock_us=reply.now_us, run_id=run_id)
                assert reply == expected
                stored = await read_scope(client)
                assert _but_last_now(stored) == _but_last_now(state)

        run(compare)

    try:
        agree()
    finally:
        run(client.aclose)
        runner.close()


def _but_last_now(state: ScopeState) -> tuple[object, ...]:
    """A batch that changes nothing writes nothing, so that `last_now` may be older than the reference's."""
    return (state.run_id, state.generation, state.newest, state.blocked_until_us, state.tats_us)


async def test_a_repeated_batch_is_answered_from_memory(redis_client: redis.asyncio.Redis) -> None:
    """Sending a batch again, also after a later one, books and settles nothing a second time."""
    await open_scope(redis_client)
    link = _link(redis_client, Quota(requests_per_minute=60))
    first = Batch(requests=(Request(cost=Cost()),), settlements=(Settlement(generation=1, extra=Cost()),))
    reply = await link.send(first, 1)
    stored = await redis_client.get(scope_key("main"))

    assert await link.send(first, 1) == reply
    assert await redis_client.get(scope_key("main")) == stored
    later = await link.send(Batch(requests=(Request(cost=Cost()),)), 2)
    stored = await redis_client.get(scope_key("main"))
    assert await link.send(first, 1) == later, "a late duplicate is dropped"
    assert await redis_client.get(scope_key("main")) == stored


async def test_processes_have_memories_of_their_own(redis_client: redis.asyncio.Redis) -> None:
    """Two processes with the same sequence both book."""
    await open_scope(redis_client)
    quota = Quota(requests_per_minute=60)
    batch = Batch(requests=(Request(cost=Cost()),))
    numbers = [
        (await _link(redis_client, quota, process_id=process).send(batch, 1)).answers[0].number
        for process in ("a", "b")
    ]
    assert numbers == [1, 2]


async def test_the_script_is_sent_again_when_redis_forgot_it(redis_client: redis.asyncio.Redis) -> None:
    """NOSCRIPT is followed by EVAL, without the caller's notice."""
    await redis_client.script_flush()
    reply = await _link(redis_client, Quota(requests_per_minute=60)).send(
        Batch(requests=(Request(cost=Cost()),)), 1
    )
    assert reply.answers[0].verdict is Verdict.BOOKED


async def test_an_empty_scope_starts_blocked_with_no_burst(redis_client: redis.asyncio.Redis) -> None:
    """After a loss of state nothing starts for 2 s, and then at the rate, not in a burst."""
    quota = Quota(requests_per_minute=600, burst_s=1.0)
    reply = await _link(redis_client, quota).send(
        Batch(requests=tuple(Request(cost=Cost()) for _ in range(3))), 1
    )
    assert reply.blocked_until_us == reply.now_us + GUARD_US
    assert [answer.wait_us for answer in reply.answers] == [GUARD_US + n * 100_000 for n in (1, 2, 3)]


@pytest.mark.parametrize("foreign", [b"", b"\x02" + bytes(88), bytes(89), b"\x01" + bytes(40)])
async def test_foreign_contents_are_an_empty_scope(redis_client: redis.asyncio.Redis, foreign: bytes) -> None:
    """A value of another layout is never read as buckets."""
    await redis_client.set(scope_key("main"), foreign)
    reply = await _link(redis_client, Quota(requests_per_minute=600)).send(Batch(), 0)
    assert reply.blocked_until_us == reply.now_us + GUARD_US


async def test_another_type_under_the_key_is_an_empty_scope(redis_client: redis.asyncio.Redis) -> None:
    """A list under the scope's key is replaced, not an error for ever."""
    await redis_client.execute_command("LPUSH", scope_key("main"), "x")  # type: ignore[no-untyped-call]  # untyped in redis-py
    reply = await _link(redis_client, Quota(requests_per_minute=600)).send(Batch(), 0)
    assert reply.blocked_until_us == reply.now_us + GUARD_US
    await read_scope(redis_client)


@pytest.mark.parametrize(("ahead_s", "is_fresh"), [(5, False), (25, True)])
async def test_redis_stepping_back_stands_still_or_starts_afresh(
    redis_client: redis.asyncio.Redis, ahead_s: int, is_fresh: bool
) -> None:
    """A few seconds are waited out at the last time seen; a far jump is a new start, not a long halt."""
    last_us = await redis_now_us(redis_client) + ahead_s * _SECOND_US
    state = ScopeState(
        run_id=await redis_run_id(redis_client),
        generation=1,
        newest=0,
        last_now_us=last_us,
        blocked_until_us=0,
        tats_us=(0, 0),
    )
    await store_scope(redis_client, "main", state)
    reply = await _link(redis_client, Quota(requests_per_minute=60)).send(Batch(), 0)
    assert (reply.now_us == last_us) is not is_fresh
    assert (reply.generation != 1) is is_fresh
    assert (reply.blocked_until_us > reply.now_us) is is_fresh


async def test_the_key_outlives_the_farthest_booking(redis_client: redis.asyncio.Redis) -> None:
    """A block of two days keeps the scope for longer than that; a batch's memory goes in an hour."""
    await open_scope(redis_client)
    link = _link(redis_client, Quota(requests_per_minute=60))
    await link.send(Batch(block_us=2 * 86_400 * _SECOND_US), 1)
    assert await redis_client.pttl(scope_key("main")) > 2 * 86_400_000
    assert 0 < await redis_client.pttl(batch_key("main", "p")) <= 3_600_000


async def test_a_look_writes_nothing(redis_client: redis.asyncio.Redis) -> None:
    """Looking at a healthy scope leaves it byte for byte, and leaves no memory of a batch."""
    await open_scope(redis_client)
    before = await redis_client.get(scope_key("main"))
    reply: Reply = await _link(redis_client, Quota(requests_per_minute=60)).send(Batch(), 0)
    assert await redis_client.get(scope_key("main")) == before
    assert reply.answers == ()
    assert not await redis_client.exists(batch_key("main", "p"))
