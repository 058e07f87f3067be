"""A scope in a chosen state, so that tests need not sit out the guard of a fresh one."""

from __future__ import annotations

import redis.asyncio

from sluicegate.limiter.booking import EPOCH_S
from sluicegate.limiter.stored import (
    ScopeKeys,
    ScopeState,
    Stored,
    decode_state,
    encode_days,
    encode_state,
    encode_ticket,
)


async def redis_now_us(client: redis.asyncio.Redis) -> int:
    """Return Redis's time as the limiter counts it."""
    seconds, micros = await client.time()
    return int(seconds - EPOCH_S) * 1_000_000 + int(micros)


async def redis_run_id(client: redis.asyncio.Redis) -> str:
    """Return the server's run id."""
    return str((await client.info("server"))["run_id"])


async def store_scope(client: redis.asyncio.Redis, scope: str, state: ScopeState) -> None:
    """Write a state as the script would."""
    await client.set(ScopeKeys.of(scope).state, encode_state(state))


async def store(client: redis.asyncio.Redis, scope: str, stored: Stored) -> None:
    """Write all keys of a scope, in place of whatever was there."""
    keys = ScopeKeys.of(scope)
    await client.delete(keys.state, keys.leases, keys.days, keys.processes, keys.tickets)
    if stored.scope is not None:
        await store_scope(client, scope, stored.scope)
    if stored.leases:
        await client.zadd(keys.leases, dict(stored.leases))
    for name, ticket in stored.tickets.items():
        await client.hset(keys.tickets, name, encode_ticket(ticket))
    if stored.days is not None:
        await client.set(keys.days, encode_days(stored.days))


async def open_scope(client: redis.asyncio.Redis, scope: str = "main") -> None:
    """Start the scope with full buckets and no block."""
    await store_scope(client, scope, ScopeState(run_id=await redis_run_id(client), generation=1))


async def read_scope(client: redis.asyncio.Redis, scope: str = "main") -> ScopeState:
    """Read what Redis has; an assertion fails when there is nothing."""
    raw = await client.get(ScopeKeys.of(scope).state)
    assert isinstance(raw, bytes)
    return decode_state(raw)
