"""What the script does beyond its algorithm: repeats, foreign contents, clocks, what it keeps."""

from __future__ import annotations

import pytest
import redis.asyncio

from sluicegate.limiter.api import Cost
from sluicegate.limiter.booking import Batch, BookingRef, Quota, Reply, Request, Settlement, Verdict
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.reference import GUARD_US
from sluicegate.limiter.stored import LAYOUT_VERSION, ScopeKeys, ScopeState, encode_state, scope_key
from tests.contract.limiter_scope import open_scope, read_scope, redis_now_us, redis_run_id, store_scope

_SECOND_US = 1_000_000
_SOUND = encode_state(ScopeState(run_id="a" * 40))


def _link(client: redis.asyncio.Redis, quota: Quota, *, process_id: str = "p") -> BookingLink:
    return BookingLink(client, scope="main", quota=quota, process_id=process_id, timeout_s=2.0)


async def test_a_repeated_batch_is_answered_from_memory(redis_client: redis.asyncio.Redis) -> None:
    """Sending a batch again, also after a later one, books and settles nothing a second time."""
    await open_scope(redis_client)
    link = _link(redis_client, Quota(requests_per_minute=60))
    first = Batch(
        requests=(Request(cost=Cost()),),
        settlements=(Settlement(booking=BookingRef(generation=1), extra=Cost()),),
    )
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


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        bytes([LAYOUT_VERSION - 1]) + _SOUND[1:],
        bytes([LAYOUT_VERSION]) + _SOUND[1:-8],
        _SOUND + b"x",
    ],
)
async def test_foreign_contents_are_an_empty_scope(redis_client: redis.asyncio.Redis, foreign: bytes) -> None:
    """A value of another layout is never read as buckets."""
    await redis_client.set(scope_key("main"), foreign)
    reply = await _link(redis_client, Quota(requests_per_minute=600)).send(Batch(), 1)
    assert reply.blocked_until_us == reply.now_us + GUARD_US


async def test_another_type_under_the_key_is_an_empty_scope(redis_client: redis.asyncio.Redis) -> None:
    """A list under the scope's key is replaced, not an error for ever."""
    await redis_client.execute_command("LPUSH", scope_key("main"), "x")  # type: ignore[no-untyped-call]  # untyped in redis-py
    reply = await _link(redis_client, Quota(requests_per_minute=600)).send(Batch(), 1)
    assert reply.blocked_until_us == reply.now_us + GUARD_US
    await read_scope(redis_client)


@pytest.mark.parametrize(("ahead_s", "is_fresh"), [(5, False), (25, True)])
async def test_redis_stepping_back_stands_still_or_starts_afresh(
    redis_client: redis.asyncio.Redis, ahead_s: int, is_fresh: bool
) -> None:
    """A few seconds are waited out at the last time seen; a far jump is a new start, not a long halt."""
    last_us = await redis_now_us(redis_client) + ahead_s * _SECOND_US
    state = ScopeState(run_id=await redis_run_id(redis_client), generation=1, last_now_us=last_us)
    await store_scope(redis_client, "main", state)
    reply = await _link(redis_client, Quota(requests_per_minute=60)).send(Batch(), 1)
    assert (reply.now_us == last_us) is not is_fresh
    assert (reply.generation != 1) is is_fresh
    assert (reply.blocked_until_us > reply.now_us) is is_fresh


async def test_the_key_outlives_the_farthest_booking(redis_client: redis.asyncio.Redis) -> None:
    """A block of two days keeps the scope for longer than that; a batch's memory goes in an hour."""
    await open_scope(redis_client)
    link = _link(redis_client, Quota(requests_per_minute=60))
    await link.send(Batch(block_us=2 * 86_400 * _SECOND_US), 1)
    assert await redis_client.pttl(scope_key("main")) > 2 * 86_400_000
    assert 0 < await redis_client.pttl(ScopeKeys.of("main").batch("p")) <= 3_600_000


async def test_an_empty_batch_changes_no_state(redis_client: redis.asyncio.Redis) -> None:
    """Looking at a healthy scope that was looked at a moment ago leaves it byte for byte."""
    await open_scope(redis_client)
    link = _link(redis_client, Quota(requests_per_minute=60))
    await link.send(Batch(), 1)
    before = await redis_client.get(scope_key("main"))
    reply: Reply = await link.send(Batch(), 2)
    assert await redis_client.get(scope_key("main")) == before
    assert reply.answers == ()
