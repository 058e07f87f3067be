"""How the script calls of one process share round trips without sharing their fates."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import redis.asyncio

from sluicegate.errors import StateUnavailableError
from sluicegate.local.redis_server import RedisServer
from sluicegate.state.api import Copy, EventRef, Lease, Leased, Run, Taken
from sluicegate.state.connecting import connect
from sluicegate.state.keys import keys_of
from sluicegate.state.patient import patiently
from sluicegate.state.redis_state import RedisState
from tests.contract.state_stands import GROUP, counted_ids, event


def state_on(client: redis.asyncio.Redis, timeout_s: float = 2.0) -> RedisState:
    """Return the state under test."""
    return RedisState(client, group=GROUP, new_gen=counted_ids(), timeout_s=timeout_s)


def other(number: int) -> EventRef:
    """Return an event of a key of its own."""
    return event(number, key=f"c-{number}")


async def reads(client: redis.asyncio.Redis) -> int:
    """Return how often the server has read from a socket, this question included."""
    stats: dict[str, Any] = await client.info("stats")
    return int(stats["total_reads_processed"])


async def test_the_calls_of_one_turn_share_a_round_trip(redis_client: redis.asyncio.Redis) -> None:
    """The server reads once for all of them, and one connection carries them."""
    state = state_on(redis_client)
    await state.take(other(0), Copy())
    before = await reads(redis_client)
    await asyncio.gather(*(state.take(other(number), Copy()) for number in range(1, 20)))
    assert await reads(redis_client) == before + 2  # the calls, and the question itself
    assert len(await redis_client.client_list()) == 1


async def test_many_standings_are_one_round_trip(redis_client: redis.asyncio.Redis) -> None:
    """An operator's question about hundreds of events costs the workers' Redis one read."""
    state = state_on(redis_client)
    await state.standings([other(0)])
    before = await reads(redis_client)
    found = await state.standings([other(number) for number in range(300)])
    assert (len(found), set(found)) == (300, {None})
    # The server reads a large request in pieces of 16 KiB.
    assert await reads(redis_client) - before < 10


async def test_each_call_gets_its_own_reply(redis_client: redis.asyncio.Redis) -> None:
    """Also when the server knows only some of the scripts, and answers those first."""
    state = state_on(redis_client)
    await state.take(other(0), Copy())
    await redis_client.script_flush()
    await state.take(other(0), Copy())
    lease = Lease(ref=other(1), step="reply", owner="a")
    begun, taken, earlier = await asyncio.gather(
        state.begin(lease, "h1"), state.take(other(1), Copy()), state.earlier(other(1))
    )
    assert begun == Leased()
    assert isinstance(taken.verdict, Run)
    assert earlier == ()


async def test_a_refused_call_fails_alone(redis_client: redis.asyncio.Redis) -> None:
    """A row that only a newer version can read is no concern of the next event's."""
    state = state_on(redis_client)
    await redis_client.hset(keys_of(GROUP, other(1)).row, mapping={"v": "2", "gen": "g", "live": "input"})
    refused, taken = await asyncio.gather(
        state.take(other(1), Copy()), state.take(other(2), Copy()), return_exceptions=True
    )
    assert isinstance(refused, StateUnavailableError)
    assert isinstance(taken, Taken)


async def test_a_call_that_cannot_be_sent_fails_alone(redis_client: redis.asyncio.Redis) -> None:
    """Half of a surrogate pair has no bytes: its own caller learns that, and nobody else."""
    state = state_on(redis_client)
    unsendable = state.begin(Lease(ref=other(1), step="\ud800", owner="a"), "h1")
    failed, taken = await asyncio.gather(unsendable, state.take(other(2), Copy()), return_exceptions=True)
    assert isinstance(failed, UnicodeEncodeError)
    assert isinstance(taken, Taken)


async def test_a_cancelled_caller_takes_nobody_along(
    redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    """The first of a batch goes while the server holds it; the second gets its own reply, not the first's."""
    state = state_on(redis_client)
    await state.take(other(0), Copy())
    async with connect(redis_url, max_connections=64, timeout_s=2.0) as observer:
        await observer.client_pause(10_000, all=False)
        try:
            gone = asyncio.create_task(state.begin(Lease(ref=other(1), step="a", owner="a"), "h1"))
            stays = asyncio.create_task(state.take(other(2), Copy()))
            for _ in range(3):  # by then the batch is on the wire
                await observer.ping()
            gone.cancel()
            await asyncio.wait([gone])
        finally:
            await observer.client_unpause()
    assert gone.cancelled()
    assert isinstance((await stays).verdict, Run)
    assert isinstance((await state.take(other(3), Copy())).verdict, Run)


async def test_nobody_waits_longer_than_the_timeout_for_a_server_that_hangs() -> None:
    """Neither those on the wire nor those who found every connection busy, and afterwards all is well."""
    timeout_s = 0.5
    with RedisServer() as server:
        client = connect(server.url, max_connections=64, timeout_s=2.0)
        state = state_on(client, timeout_s)
        await state.take(other(0), Copy())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            started_at = time.monotonic()
            tasks = []
            for number in range(40):
                tasks += [asyncio.create_task(state.take(other(number), Copy())) for _ in range(2)]
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            waited_s = time.monotonic() - started_at
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert {type(outcome) for outcome in outcomes} == {StateUnavailableError}
        assert all("TimeoutError" in str(outcome) for outcome in outcomes)
        assert waited_s < 1.8 * timeout_s
        assert isinstance((await patiently(lambda: state.take(other(99), Copy()))).verdict, Run)
        await client.aclose()
