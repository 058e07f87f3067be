"""Other shared limiters in the duel, each used as its own documentation says.

It runs in the environment that `peers_env.py` makes. Requests and tokens are two limits to all of them, none
takes both in one step: requests are acquired first, then the tokens, which bind. After a 429 a caller waits
as long as the provider asked and acquires again.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import time
from datetime import timedelta
from pathlib import Path

import limits.aio.strategies
import redis.asyncio
from limits import RateLimitItemPerSecond
from limits.storage import storage_from_string
from pyrate_limiter import Limiter, Rate, RedisBucket, RedisStateStore, StateBucket
from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

from benchmarks.duel.contender import Call, Plan

_LEAST_SLEEP_S = 0.01
_MAX_CONNECTIONS = 64


def _client(plan: Plan) -> redis.asyncio.Redis:
    # `connect` is for our own loops; peers get the client that their documentation shows.
    return redis.asyncio.Redis.from_url(plan.redis_url, max_connections=_MAX_CONNECTIONS)  # noqa: TID251


async def _wait_out(retry_after_s: float) -> None:
    await asyncio.sleep(retry_after_s)


class _Limits:
    """limits: `hit`, and on a refusal sleep until `get_window_stats().reset_time` (its API reference)."""

    _strategy: type[limits.aio.strategies.RateLimiter]

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Use the asyncio storage with redis-py."""
        storage = storage_from_string(
            f"async+{plan.redis_url}", implementation="redispy", max_connections=_MAX_CONNECTIONS
        )
        self._limiter = self._strategy(storage)
        seconds = round(plan.window_s)
        self._items = [(RateLimitItemPerSecond(plan.requests_per_window, seconds), "requests")]
        if plan.tokens_per_window:
            self._items.append((RateLimitItemPerSecond(plan.tokens_per_window, seconds), "tokens"))

    async def acquire(self, call: Call) -> None:
        """Hit each limit until it gives."""
        for item, name in self._items:
            while not await self._limiter.hit(item, name, cost=1 if name == "requests" else call.tokens):
                window = await self._limiter.get_window_stats(item, name)
                await asyncio.sleep(max(_LEAST_SLEEP_S, window.reset_time - time.time()))

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Wait as long as the provider asked."""
        await _wait_out(retry_after_s)

    async def done(self, grant: object, call: Call) -> None:
        """There is nothing to settle."""


class LimitsMoving(_Limits):
    """Its log of every unit."""

    _strategy = limits.aio.strategies.MovingWindowRateLimiter


class LimitsSliding(_Limits):
    """Its two weighted counters."""

    _strategy = limits.aio.strategies.SlidingWindowCounterRateLimiter


class PyrateLog:
    """pyrate-limiter: `RedisBucket` (its README's backend for several hosts), `try_acquire_async`."""

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """One bucket for requests, one for tokens."""
        client = _client(plan)
        self._limiters = [
            (name, Limiter(await self._bucket(client, name, Rate(amount, round(plan.window_s * 1000)))))
            for name, amount in (("requests", plan.requests_per_window), ("tokens", plan.tokens_per_window))
            if amount
        ]

    async def _bucket(self, client: redis.asyncio.Redis, name: str, rate: Rate) -> object:
        return await RedisBucket.init([rate], client, name)

    async def acquire(self, call: Call) -> None:
        """Block until there is room: its default."""
        for name, limiter in self._limiters:
            await limiter.try_acquire_async(name, weight=1 if name == "requests" else call.tokens)

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Wait as long as the provider asked."""
        await _wait_out(retry_after_s)

    async def done(self, grant: object, call: Call) -> None:
        """There is nothing to settle."""


class PyrateGcra(PyrateLog):
    """pyrate-limiter: `StateBucket` with `RedisStateStore`, its README's advice for Redis: GCRA."""

    async def _bucket(self, client: redis.asyncio.Redis, name: str, rate: Rate) -> object:
        return StateBucket([rate], store=RedisStateStore(client, name))


class ThrottledGcra:
    """throttled-py: GCRA with a Redis store and a timeout, its README's 'Wait & Retry'; default burst."""

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """One throttle for requests, one for tokens."""
        shared = store.RedisStore(server=plan.redis_url)
        self._throttles = [
            (
                name,
                Throttled(
                    key=name,
                    using=RateLimiterType.GCRA.value,
                    quota=rate_limiter.per_duration(timedelta(seconds=plan.window_s), limit=amount),
                    store=shared,
                    timeout=3600,
                ),
            )
            for name, amount in (("requests", plan.requests_per_window), ("tokens", plan.tokens_per_window))
            if amount
        ]

    async def acquire(self, call: Call) -> None:
        """Wait and retry until it lets the call go."""
        for name, throttle in self._throttles:
            while (await throttle.limit(cost=1 if name == "requests" else call.tokens)).limited:
                pass

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Wait as long as the provider asked."""
        await _wait_out(retry_after_s)

    async def done(self, grant: object, call: Call) -> None:
        """There is nothing to settle."""


class LitellmV3:
    """LiteLLM's `parallel_request_limiter_v3`: its two scripts, driven as its hooks drive them.

    The scripts' text is read out of the installed package, whose code never runs: the proxy around them needs
    a hundred packages. Before a call requests and tokens are each counted up by one, and the call is refused
    when a counter is above its limit, or was when last seen in this process within a window; after the
    answer its tokens are added. A refused caller gets a 429 whose retry-after is the window: it obeys.
    """

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Register the scripts."""
        client = _client(plan)
        texts = _litellm_scripts()
        self._count = client.register_script(texts["BATCH_RATE_LIMITER_SCRIPT"])
        self._add = client.register_script(texts["TOKEN_INCREMENT_SCRIPT"])
        self._window_s = round(plan.window_s)
        self._limits = {"{api_key:duel}:requests": plan.requests_per_window}
        if plan.tokens_per_window:
            self._limits["{api_key:duel}:tokens"] = plan.tokens_per_window
        self._keys = [key for counter in self._limits for key in ("{api_key:duel}:window", counter)]
        self._seen: dict[str, tuple[int, float]] = {}

    async def acquire(self, call: Call) -> None:
        """Ask, and when refused wait as its answer says."""
        while not await self._may_go():
            await _wait_out(self._window_s)

    async def _may_go(self) -> bool:
        now = time.monotonic()
        if self._is_over({key: count for key, (count, until) in self._seen.items() if now < until}):
            return False
        values = await self._count(keys=self._keys, args=[int(time.time()), self._window_s])
        counts = dict(zip(self._limits, map(int, values[1::2]), strict=True))
        self._seen = {key: (count, now + self._window_s) for key, count in counts.items()}
        return not self._is_over(counts)

    def _is_over(self, counts: dict[str, int]) -> bool:
        return any(count > self._limits[key] for key, count in counts.items())

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Wait as long as the provider asked."""
        await _wait_out(retry_after_s)

    async def done(self, grant: object, call: Call) -> None:
        """Add the tokens that were used."""
        if "{api_key:duel}:tokens" in self._limits:
            await self._add(keys=["{api_key:duel}:tokens"], args=[call.tokens, self._window_s])


def _litellm_scripts() -> dict[str, str]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("litellm is not installed here")
    source = Path(spec.submodule_search_locations[0]) / "proxy/hooks/parallel_request_limiter_v3.py"
    return {
        target.id: node.value.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
