"""A client while it is open: its limiters run, its connections are there, its calls are counted."""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from sluicegate.clock import LocalClock
from sluicegate.direct.calls import DirectCalls, DirectPorts, Wanted
from sluicegate.errors import ClientClosedError
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.processing.context import Completion
from sluicegate.processing.pauses import DrainablePauses
from sluicegate.processing.routes import Routes
from sluicegate.processing.sending import Sender
from sluicegate.providers import Providers
from sluicegate.retry.policy import RetryPolicy
from sluicegate.settings import RetrySettings, Settings
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.otel import ambient_traces

_log = structlog.get_logger()

# Each scope's limiter has at most one command under way.
_REDIS_CONNECTIONS = 16
_REDIS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDefaults:
    """Where calls go and how long their answers may be, as in a stream's section."""

    provider: str
    model: str
    fallback: tuple[str, ...] = ()
    fallback_after_s: float = 5.0
    max_output_tokens: int = 512
    max_attempts: int = 8


@asynccontextmanager
async def opened_session(
    settings: Settings, defaults: CallDefaults, metrics: Metrics
) -> AsyncIterator[Session]:
    """Build all that a client needs, and end it in the reverse order. Redis may be away meanwhile.

    Raises ConfigurationError when a limit in dollars needs a price that nobody knows.
    """
    async with AsyncExitStack() as stack:
        redis_client = connect(settings.redis, max_connections=_REDIS_CONNECTIONS, timeout_s=_REDIS_TIMEOUT_S)
        stack.push_async_callback(redis_client.aclose)
        providers = Providers(settings, redis_client, metrics, new_id=_new_id, traces=ambient_traces())
        session = Session(settings, defaults, providers, metrics)
        for caller in providers.callers.values():
            await stack.enter_async_context(caller)
        keeper = asyncio.create_task(session.keep())
        try:
            yield session
        finally:
            try:
                await session.close()
            finally:
                await keeper


class Session:
    """A client while it is open. Its limiters run in a task of their own, not in that of who asks first."""

    def __init__(
        self, settings: Settings, defaults: CallDefaults, providers: Providers, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._defaults = defaults
        self._providers = providers
        self._pauses = DrainablePauses()
        clock = LocalClock()
        self._calls = DirectCalls(
            _policy(settings.retry, defaults.max_attempts),
            DirectPorts(
                sender=Sender(clock=clock, metrics=metrics),
                pauses=self._pauses,
                clock=clock,
                random=random.random,
                new_id=_new_id,
            ),
        )
        self._routes: dict[str, Routes] = {}
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        # A limiter must not inherit what the request that needs it first has in its context.
        self._context = contextvars.copy_context()
        self._is_released = False
        self._closing = asyncio.Event()
        self._at_work = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._routes_to(defaults.model)

    async def complete(self, wanted: Wanted) -> Completion:
        """Make one call; see `LlmClient.complete`."""
        if self._is_released:
            raise ClientClosedError
        routes = self._routes_to(wanted.request.model)
        self._at_work += 1
        self._idle.clear()
        try:
            return await self._calls.complete(routes, wanted)
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    async def keep(self) -> None:
        """Run the limiters until the client closes."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._run_limiters()
            await self._closing.wait()
            for running in self._running.values():
                running.cancel()

    async def close(self) -> None:
        """Let waiters go, wait for calls on the wire, tell Redis what all of them used, stop the limiters."""
        self._release()
        try:
            await self._idle.wait()
            limiters = self._providers.limiters.values()
            await asyncio.gather(*(limiter.flush() for limiter in limiters))
        finally:
            self._closing.set()

    def _routes_to(self, model: str) -> Routes:
        if model not in self._routes:
            own = self._defaults
            ways = self._settings.routes_of(own.provider, model, own.fallback)
            routes = self._providers.routes(ways, model)
            self._routes[model] = Routes(routes, fallback_after_s=own.fallback_after_s)
            self._run_limiters()
        return self._routes[model]

    def _run_limiters(self) -> None:
        """Start those that do not run yet, as soon as there is a group to hold them."""
        if self._group is None:
            return
        for scope, limiter in self._providers.limiters.items():
            if scope not in self._running:
                self._running[scope] = self._group.create_task(
                    self._run(limiter), context=self._context.copy()
                )

    async def _run(self, limiter: RedisLimiter) -> None:
        try:
            await limiter.run()
        except Exception as error:
            # Raised again where the client is closed, which may be days from now.
            _log.error("llm-client.broken", error=type(error).__name__)
            raise
        finally:
            self._release()  # who waits for a limiter that does not run would wait in vain

    def _release(self) -> None:
        self._is_released = True
        self._pauses.release()
        for limiter in self._providers.limiters.values():
            limiter.release_waiters()


def _policy(retry: RetrySettings, max_attempts: int) -> RetryPolicy:
    """Return the workers' backoff. Neither tiers nor the event's deadline say how long a caller waits."""
    return RetryPolicy(
        in_place_max_s=retry.in_place_max_s,
        base_s=retry.base_s,
        cap_s=retry.cap_s,
        tiers_s=retry.tiers_s,
        horizon_s=retry.horizon_s,
        max_attempts=max_attempts,
        deadline_s=retry.horizon_s,
        expires_after_s=0.0,
    )


def _new_id() -> str:
    return secrets.token_hex(8)
