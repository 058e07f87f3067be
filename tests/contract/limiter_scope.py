"""A scope in a chosen state, so that tests need not sit out the guard of a fresh one."""

from __future__ import annotations

import struct

import redis.asyncio

from sluicegate.limiter.booking import EPOCH_S, LAYOUT_VERSION, ScopeState, decode_state, scope_key


async def redis_now_us(client: redis.asyncio.Redis) -> int:
    """Return Redis's time as the limiter counts it."""
    seconds, micros = await client.time()
    return int(seconds - EPOCH_S) * 1_000_000 + int(micros)


async def redis_run_id(client: redis.asyncio.Redis) -> str:
    """Return the server's run id."""
    return str((await client.info("server"))["run_id"])


async def store_scope(client: redis.asyncio.Redis, scope: str, state: ScopeState) -> None:
    """Write a state as the script would."""
    packed = struct.pack(
        "<B40s6d",
        LAYOUT_VERSION,
        state.run_id.encode(),
        state.generation,
        state.newest,
        state.last_now_us,
        state.blocked_until_us,
        *state.tats_us,
    )
    await client.set(scope_key(scope), packed)


async def open_scope(client: redis.asyncio.Redis, scope: str = "main") -> None:
    """Start the scope with full buckets and no block."""
    state = ScopeState(
        run_id=await redis_run_id(client),
        generation=1,
        newest=0,
        last_now_us=0,
        blocked_until_us=0,
        tats_us=(0, 0),
    )
    await store_scope(client, scope, state)


async def read_scope(client: redis.asyncio.Redis, scope: str = "main") -> ScopeState:
    """Read what Redis has; an assertion fails when there is nothing."""
    raw = await client.get(scope_key(scope))
    assert isinstance(raw, bytes)
    return decode_state(raw)
