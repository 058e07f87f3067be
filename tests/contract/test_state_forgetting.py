"""Forgetting a person: what a stream keeps of one key in Redis, on the real server."""

from __future__ import annotations

import pytest
import redis.asyncio

from sluicegate.state.api import Copy, End, EndKind, EventRef, HistoryEntry, Lease, Run
from sluicegate.state.forgetting import Forgetting, Forgotten
from sluicegate.state.keeping import Keeping
from tests.contract.state_stands import GROUP, RedisStand, event

RESULT = End(
    kind=EndKind.RESULT, value=b"{}", history=(HistoryEntry(speaker="customer", text="My name is canary"),)
)
DEAD = End(kind=EndKind.DEAD_LETTER)
NOTHING = Forgotten(removed=0, open=0)


@pytest.fixture
def stand(redis_client: redis.asyncio.Redis) -> RedisStand:
    """Return an empty state."""
    return RedisStand(redis_client, Keeping())


@pytest.fixture
def forgetting(redis_client: redis.asyncio.Redis) -> Forgetting:
    """Return what forgets in the stand's deployment."""
    return Forgetting(redis_client, group=GROUP)


async def begin(stand: RedisStand, ref: EventRef, copy: Copy | None = None) -> str:
    """Take an event and run one step of it; return its gen."""
    verdict = (await stand.state.take(ref, copy or Copy())).verdict
    assert isinstance(verdict, Run), verdict
    lease = Lease(ref=ref, step="reply", owner="me")
    await stand.state.begin(lease, "hash")
    await stand.state.complete(lease, "hash", b"an answer about canary")
    return verdict.gen


async def end(stand: RedisStand, ref: EventRef, kind: End = RESULT) -> None:
    """Bring an event to its end."""
    gen = await begin(stand, ref)
    await stand.state.claim(ref, gen, kind)
    await stand.state.finish(ref, gen, kind)


async def names(client: redis.asyncio.Redis) -> list[bytes]:
    """Return the names of all keys there are."""
    return sorted([name async for name in client.scan_iter()])


async def test_all_that_is_kept_of_a_key_goes_and_its_neighbours_stay(
    stand: RedisStand, forgetting: Forgetting, redis_client: redis.asyncio.Redis
) -> None:
    """History, answers and rows of one key; other keys, streams and deployments are left alone."""
    await end(stand, event(1, key="other"))
    kept = await names(redis_client)
    await end(stand, event(2, key="person"))
    await end(stand, event(3, key="person"), DEAD)

    done = await forgetting.forget(event(2).stream, "person")

    assert done.open == 0
    assert done.removed >= 4  # two rows, the history, the dead letter's steps
    assert await names(redis_client) == kept
    assert await forgetting.forget(event(2).stream, "person") == NOTHING
    assert await forgetting.forget("another-stream", "other") == NOTHING
    assert await Forgetting(redis_client, group="another").forget(event(1).stream, "other") == NOTHING


async def test_while_an_event_is_open_nothing_of_its_key_goes(
    stand: RedisStand, forgetting: Forgetting, redis_client: redis.asyncio.Redis
) -> None:
    """One at work or parked is counted, and its answers and its place in the order stay with it."""
    await end(stand, event(1))
    running, parked = event(2), event(3)
    await begin(stand, running)
    gen = await begin(stand, parked)
    due_at_ms = await stand.now_ms() + 60_000
    await stand.state.park(parked, Copy(), Copy(id="1-a", replaces="input"), gen, due_at_ms)
    before = await names(redis_client)

    assert await forgetting.forget(running.stream, running.key) == Forgotten(removed=0, open=2)
    assert await names(redis_client) == before


async def test_open_events_go_too_when_that_is_asked_for(
    stand: RedisStand, forgetting: Forgetting, redis_client: redis.asyncio.Redis
) -> None:
    """Nothing is left, and a record of the event that still comes is taken as a new one."""
    ref = event(1)
    gen = await begin(stand, ref)
    await stand.state.park(ref, Copy(), Copy(id="1-a", replaces="input"), gen, await stand.now_ms() + 60_000)

    done = await forgetting.forget(ref.stream, ref.key, also_open=True)

    assert done.open == 1
    assert await names(redis_client) == []
    assert isinstance((await stand.state.take(ref, Copy(id="1-a", replaces="input"))).verdict, Run)


async def test_a_gate_that_lost_its_row_still_counts_as_open(
    stand: RedisStand, forgetting: Forgetting, redis_client: redis.asyncio.Redis
) -> None:
    """An event that was parked between the look and the removal is seen by its place in the order."""
    ref = event(1)
    gen = await begin(stand, ref)
    await stand.state.park(ref, Copy(), Copy(id="1-a", replaces="input"), gen, await stand.now_ms() + 60_000)
    rows = [name async for name in redis_client.scan_iter(match="*:row:*")]
    await redis_client.delete(*rows)

    assert await forgetting.forget(ref.stream, ref.key) == Forgotten(removed=0, open=1)
