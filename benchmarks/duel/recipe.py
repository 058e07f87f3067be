"""The plain recipe: no shared limiter, a fixed number of calls at once, backoff after a 429."""

from __future__ import annotations

import asyncio
import random

from benchmarks.duel.contender import Call, Plan

_BASE_S = 1.0
_LONGEST_S = 60.0


class Recipe:
    """Exponential backoff with full jitter: uniform in [0, min(60 s, 1 s x 2^n)].

    This is the 'full jitter' formula, with the first step and the cap of the retry decorator that vendors'
    guides on rate limits show (`wait_random_exponential(min=1, max=60)`). A call keeps its place among the
    concurrent ones while it backs off, as a decorator around the call does.
    """

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Make room for the calls of this process."""
        self._room = asyncio.Semaphore(plan.concurrency)
        self._random = random.Random(f"{plan.seed}/{plan.process}/backoff")

    async def acquire(self, call: Call) -> None:
        """Wait for room; a call that is tried again has its room already."""
        if call.refusals == 0:
            await self._room.acquire()

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Back off."""
        ceiling_s = min(_LONGEST_S, _BASE_S * 2.0 ** min(call.refusals, 10))
        await asyncio.sleep(self._random.uniform(0, ceiling_s))

    async def done(self, grant: object, call: Call) -> None:
        """Make room for the next."""
        self._room.release()
