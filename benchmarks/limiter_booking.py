"""How fast one Redis books, what a booking costs it, and how exactly a waiter wakes.

Run with `python -m benchmarks.limiter_booking`; it starts a Redis of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid

import redis.asyncio

from sluicegate.limiter.api import Ask, Cost, Lane, Permit
from sluicegate.limiter.booking import Batch, BookingRef, Quota, Request, Settlement
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.local.redis_server import RedisServer
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics

_RUNS = 5
_BATCHES = 3_000
_WAKE_UPS = 200
_NO_LIMIT_IN_PRACTICE = Quota(requests_per_minute=6e8, tokens_per_minute=6e11)


async def _server_us_per_call(client: redis.asyncio.Redis) -> float:
    stats = await client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec_per_call"])


async def _measure_booking(client: redis.asyncio.Redis, size: int) -> tuple[float, float]:
    """Return Redis's us per booking, and bookings/s as this one client saw them."""
    link = BookingLink(
        client, scope="bench", quota=_NO_LIMIT_IN_PRACTICE, process_id=uuid.uuid4().hex, timeout_s=1.0
    )
    requests = tuple(Request(cost=Cost(tokens=1_000)) for _ in range(size))
    generation = (await link.send(Batch(requests=requests), 1)).generation
    settlement = Settlement(booking=BookingRef(generation=generation), extra=Cost(requests=0, tokens=-100))
    batch = Batch(requests=requests, settlements=(settlement,) * size)
    await client.config_resetstat()
    started_at = time.perf_counter()
    for sequence in range(2, 2 + _BATCHES):
        await link.send(batch, sequence)
    elapsed_s = time.perf_counter() - started_at
    return await _server_us_per_call(client) / size, _BATCHES * size / elapsed_s


async def _measure_wake_ups(client: redis.asyncio.Redis) -> list[float]:
    """Return by how many ms each call of a saturated limit of 100/s started after its booked start."""
    quota = Quota(requests_per_minute=6_000, burst_s=0)
    limiter = RedisLimiter(client, scope="wake", quota=quota, metrics=Metrics(), process_id=uuid.uuid4().hex)
    starts: list[float] = []

    async def call(n: int) -> None:
        permit = await limiter.acquire(Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=n))
        starts.append(time.perf_counter())
        assert isinstance(permit, Permit)

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(limiter.run())
        await asyncio.gather(*(call(n) for n in range(_WAKE_UPS)))
        running.cancel()
    # The exact schedule is one call each 10 ms; its zero is the earliest that any call came.
    offsets = [at - n / 100 for n, at in enumerate(starts[1:])]
    return sorted((offset - min(offsets)) * 1e3 for offset in offsets)


async def _run(url: str) -> None:
    async with connect(url, max_connections=64, timeout_s=2.0) as client:
        for size in (1, 8, 32):
            runs = [await _measure_booking(client, size) for _ in range(_RUNS)]
            cost_us = statistics.median(run[0] for run in runs)
            spread = f"{min(run[0] for run in runs):.2f}-{max(run[0] for run in runs):.2f}"
            seen = statistics.median(run[1] for run in runs)
            print(
                f"{size:>3} settled and booked a call: {cost_us:6.2f} us of Redis each ({spread}),"
                f" {1e6 / cost_us:>9,.0f}/s on its core; one client saw {seen:>8,.0f}/s"
            )
        late = await _measure_wake_ups(client)
        print(
            f"start after its booked time at 100/s: p50 {late[len(late) // 2]:.2f} ms,"
            f" p99 {late[int(len(late) * 0.99)]:.2f} ms"
        )


def main() -> None:
    """Print the figures."""
    with RedisServer() as server:
        asyncio.run(_run(server.url))


if __name__ == "__main__":
    main()
