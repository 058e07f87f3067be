"""`sluicegate.LlmClient`: the workers' limits, routes and retries for calls that own code makes itself."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import structlog
from prometheus_client import CollectorRegistry

from sluicegate.clock import LocalClock
from sluicegate.direct.calls import DirectCalls, DirectPorts, Wanted
from sluicegate.errors import ClientClosedError, ConfigurationError
from sluicegate.limiter.api import Lane
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.llm.api import CallRequest, Message, conversation
from sluicegate.processing.context import Completion
from sluicegate.processing.pauses import DrainablePauses
from sluicegate.processing.routes import Routes
from sluicegate.processing.sending import Sender
from sluicegate.providers import Providers
from sluicegate.retry.policy import RetryPolicy
from sluicegate.settings import RetrySettings, Settings
from sluicegate.settings.finding import process_settings
from sluicegate.settings.nearest import hint
from sluicegate.settings.routes import read_fallback
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics

_log = structlog.get_logger()

DEFAULT_TIMEOUT_S = 30.0

# Each scope's limiter has at most one command under way.
_REDIS_CONNECTIONS = 16
_REDIS_TIMEOUT_S = 2.0
_LANES = {"interactive": Lane.INTERACTIVE, "bulk": Lane.BULK}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDefaults:
    """Where calls go and how long their answers may be, as in a stream's section."""

    provider: str
    model: str
    fallback: tuple[str, ...] = ()
    fallback_after_s: float = 5.0
    max_output_tokens: int = 512
    max_attempts: int = 8


class LlmClient:
    """Calls an LLM under the limits that the workers spend, from any number of tasks of one event loop.

    Open only inside its `async with` block. Leaving it lets those go who wait for their turn, waits for calls
    on the wire, and tells Redis what all of them used.
    """

    def __init__(
        self, settings: Settings, defaults: CallDefaults, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """`timeout_s` bounds a call that names no time of its own.

        Raises ConfigurationError for a provider that the settings do not have.
        """
        for name, model in (
            (defaults.provider, defaults.model),
            *(read_fallback(text, defaults.model) for text in defaults.fallback),
        ):
            if name not in settings.providers:
                raise ConfigurationError(
                    f"there is no such [providers.*] section{hint(name, settings.providers)}"
                )
            if not model:
                raise ConfigurationError('write a fallback as "PROVIDER" or "PROVIDER/MODEL"')
        self.defaults = defaults
        self._settings = settings
        self._timeout_s = _checked_timeout_s(timeout_s)
        self._metrics = Metrics()
        self._opening: AbstractAsyncContextManager[_Session] | None = None
        self._session: _Session | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        *,
        config: Path | str | None = None,
        stream: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        fallback: Sequence[str] | None = None,
        fallback_after_s: float | None = None,
        max_output_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Return a client that calls what `stream` calls, or `provider` and `model`, or a mixture.

        Without `settings` they are found as every command finds them: the file `config`, else the one that
        SLUICEGATE_CONFIG names, else sluicegate.toml in the working directory, under the environment.
        What is None here is as in the stream's section; without a stream both provider and model are needed.
        Raises ConfigurationError.
        """
        if settings is None:
            settings = process_settings(Path(config) if config is not None else None)
        own = settings.stream(stream) if stream is not None else None
        provider = provider or (own.provider if own else None)
        model = model or (own.model if own else None)
        if provider is None or model is None:
            raise ConfigurationError("say whom to call: give a stream, or both provider and model")
        base = own or CallDefaults(provider=provider, model=model)
        defaults = CallDefaults(
            provider=provider,
            model=model,
            fallback=tuple(base.fallback if fallback is None else fallback),
            fallback_after_s=base.fallback_after_s if fallback_after_s is None else fallback_after_s,
            max_output_tokens=max_output_tokens or base.max_output_tokens,
            max_attempts=base.max_attempts,
        )
        return cls(settings, defaults, timeout_s=timeout_s)

    @property
    def registry(self) -> CollectorRegistry:
        """The client's metrics, `sluicegate_*` as a worker's, for the process's own `/metrics`."""
        return self._metrics.registry

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            raise RuntimeError("the client is open already: one client serves any number of tasks")
        self._opening = _opened(self._settings, self.defaults, self._metrics)
        try:
            self._session = await self._opening.__aenter__()
        except BaseException:
            self._opening = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opening, self._opening, self._session = self._opening, None, None
        if opening is not None:
            await opening.__aexit__(kind, error, trace)

    async def complete(
        self,
        user: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        model: str | None = None,
        max_output_tokens: int | None = None,
        json_object: bool = False,
        lane: Literal["interactive", "bulk"] = "interactive",
        tenant: str | None = None,
        timeout_s: float | None = None,
    ) -> Completion:
        """Return the answer to `system`, then `messages`, then `user`, within `timeout_s` seconds in all.

        `model` is another one of the same provider: one of your own, never a name that came from outside.
        Refused and failed calls are tried again in place while there is time. Raises CallRejectedError when
        the provider will never take the call, CallUnansweredError when there is no answer in time: at once
        where the wait is known and longer. Cancelling gives back what was booked.
        """
        if self._session is None:
            raise RuntimeError("the client is open only inside its `async with` block")
        if user is None and not messages:
            raise ValueError("nothing was asked: give user or messages")
        request = CallRequest(
            model=model or self.defaults.model,
            messages=conversation(system, messages, user),
            max_output_tokens=max_output_tokens or self.defaults.max_output_tokens,
            request_id="",
            json_object=json_object,
        )
        wanted = Wanted(
            request=request,
            lane=_LANES[lane],
            tenant=tenant,
            timeout_s=self._timeout_s if timeout_s is None else _checked_timeout_s(timeout_s),
        )
        return await self._session.complete(wanted)


@asynccontextmanager
async def _opened(settings: Settings, defaults: CallDefaults, metrics: Metrics) -> AsyncIterator[_Session]:
    async with AsyncExitStack() as stack:
        redis_client = connect(
            settings.redis.url, max_connections=_REDIS_CONNECTIONS, timeout_s=_REDIS_TIMEOUT_S
        )
        stack.push_async_callback(redis_client.aclose)
        providers = Providers(settings, redis_client, metrics, new_id=_new_id)
        session = _Session(settings, defaults, providers, metrics)
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


class _Session:
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


def _checked_timeout_s(timeout_s: float) -> float:
    if not 0 < timeout_s < math.inf:
        raise ValueError("timeout_s must be above 0 and finite")
    return timeout_s


def _new_id() -> str:
    return secrets.token_hex(8)
