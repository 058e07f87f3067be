"""`sluicegate.LlmClient`: the workers' limits, routes and retries for calls that own code makes itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from prometheus_client import CollectorRegistry

from sluicegate.direct.calls import Wanted
from sluicegate.direct.session import CallDefaults, Session, opened_session
from sluicegate.errors import ConfigurationError
from sluicegate.limiter.api import Lane
from sluicegate.llm.api import CallRequest, Message, conversation
from sluicegate.processing.context import Completion
from sluicegate.settings import Settings
from sluicegate.settings.finding import process_settings
from sluicegate.settings.nearest import hint
from sluicegate.settings.routes import read_fallback
from sluicegate.telemetry.metrics import Metrics

DEFAULT_TIMEOUT_S = 30.0

_LANES = {"interactive": Lane.INTERACTIVE, "bulk": Lane.BULK}


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
        self._opening: AbstractAsyncContextManager[Session] | None = None
        self._session: Session | None = None

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
        self._opening = opened_session(self._settings, self.defaults, self._metrics)
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


def _checked_timeout_s(timeout_s: float) -> float:
    if not 0 < timeout_s < math.inf:
        raise ValueError("timeout_s must be above 0 and finite")
    return timeout_s
