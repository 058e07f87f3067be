"""Two hungry processes on two scopes, a record of what they sent, and an independent judge of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from sluicegate.limiter.api import Ask, Cost, Lane, Permit
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics
from tests.waiting import wait_until

PROCESSES = 2
SCOPES = ("main", "other")
CALLERS = 6  # in each process, for each scope
RESERVED_TOKENS = 20
USED_TOKENS = 10
QUOTA = Quota(requests_per_minute=6_000, tokens_per_minute=60_000)
_TICK_S = 0.01
_crews = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a limit lets through in any window: `per_s` x its length, and `burst`."""

    per_s: float
    burst: float


REQUESTS = Allowed(per_s=100, burst=100 * QUOTA.burst_s)
TOKENS = Allowed(per_s=1_000, burst=1_000 * QUOTA.burst_s)


def most_beyond(starts: Sequence[float], allowed: Allowed, *, each: float = 1) -> float:
    """Return by how much the worst of all windows exceeds what is allowed; `each` is a call's share.

    Tries every window that begins and ends with a call: any other one holds no more and is no shorter.
    """
    ordered = sorted(starts)
    return max(
        (last - first + 1) * each - (ordered[last] - ordered[first]) * allowed.per_s - allowed.burst
        for first in range(len(ordered))
        for last in range(first, len(ordered))
    )


def fullest_window(starts: Sequence[float], window_s: float, allowed: Allowed) -> float:
    """Return the most calls in any window of that length, as a part of what is allowed in it."""
    most = max(sum(first <= at < first + window_s for at in starts) for first in starts)
    return most / (allowed.per_s * window_s + allowed.burst)


class Crew:
    """Callers that never stop asking, in processes that share nothing but Redis.

    `starts` are the event loop's times at which calls began, for each scope. `most_late_s` is by how much
    a task that ticks beside them was ever late: how long the event loop stood still.
    """

    def __init__(self) -> None:
        self.starts: dict[str, list[float]] = {scope: [] for scope in SCOPES}
        self.most_late_s = 0.0
        self._metrics = [Metrics() for _ in range(PROCESSES)]

    def up(self) -> list[float | None]:
        """Return each process's `sluicegate_redis_up`."""
        return [each.registry.get_sample_value("sluicegate_redis_up") for each in self._metrics]

    async def more(self, calls: int, *, timeout_s: float | None = None) -> None:
        """Return when in each scope so many more calls have begun, by default at half the limit's pace."""
        if timeout_s is None:
            timeout_s = 3.0 + 2 * calls / REQUESTS.per_s
        enough = {scope: len(starts) + calls for scope, starts in self.starts.items()}
        await wait_until(
            lambda: all(len(starts) >= enough[scope] for scope, starts in self.starts.items()),
            timeout_s=timeout_s,
            what=f"{calls} more calls in each scope",
        )

    @asynccontextmanager
    async def at_work(self, url: str) -> AsyncIterator[None]:
        """Let all of them call while the block lasts."""
        number = next(_crews)
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(self._tick())]
            for process, metrics in enumerate(self._metrics):
                client = await clients.enter_async_context(connect(url, max_connections=64, timeout_s=2.0))
                for scope in SCOPES:
                    limiter = RedisLimiter(
                        client,
                        scope=scope,
                        quota=QUOTA,
                        metrics=metrics,
                        process_id=f"crew-{number}-{process}",
                    )
                    jobs = [self._call(limiter, scope, Lane(caller % 2)) for caller in range(CALLERS)]
                    working += [tasks.create_task(job) for job in (limiter.run(), *jobs)]
            try:
                yield
            finally:
                for task in working:
                    task.cancel()

    async def _call(self, limiter: RedisLimiter, scope: str, lane: Lane) -> None:
        ask = Ask(lane=lane, cost=Cost(tokens=RESERVED_TOKENS), origin_timestamp_ms=0)
        while True:
            permit = await limiter.acquire(ask)
            assert isinstance(permit, Permit)
            self.starts[scope].append(asyncio.get_running_loop().time())
            limiter.settle(permit, Cost(tokens=USED_TOKENS))

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due_at = now() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.most_late_s = max(self.most_late_s, now() - due_at)
