"""Reading a scope as Redis keeps it, without taking part in it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from sluicegate.limiter.stored import (
    ScopeKeys,
    Stored,
    decode_days,
    decode_process,
    decode_state,
    decode_ticket,
)

if TYPE_CHECKING:
    import redis.asyncio


async def read_stored(client: redis.asyncio.Redis, scope: str) -> Stored:
    """Read all keys of a scope in one round trip; what is not of today's layout is left out."""
    keys = ScopeKeys.of(scope)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.get(keys.state)
        pipeline.zrange(keys.leases, 0, -1, withscores=True)
        pipeline.get(keys.days)
        pipeline.hgetall(keys.processes)
        pipeline.hgetall(keys.tickets)
        state, leases, days, processes, tickets = await pipeline.execute()
    return Stored(
        scope=_readable(decode_state, state),
        leases={call.decode(): int(end) for call, end in leases},
        days=_readable(decode_days, days),
        processes=_readables(decode_process, processes),
        tickets=_readables(decode_ticket, tickets),
    )


def _readable(decode: Any, raw: bytes | None) -> Any:
    try:
        return decode(raw) if raw is not None else None
    except (struct.error, ValueError):
        return None


def _readables(decode: Any, packed: dict[bytes, bytes]) -> dict[str, Any]:
    read = {name.decode(): _readable(decode, raw) for name, raw in packed.items()}
    return {name: value for name, value in read.items() if value is not None}
