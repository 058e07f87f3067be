"""The embedded stack: a broker in this process, a Redis and a provider simulator as child processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sluicegate.local.broker import EmbeddedBroker
from sluicegate.local.processes import CommandProcess
from sluicegate.local.redis_server import RedisServer

_PROVIDER_START_S = 30.0
_PROVIDER_STOP_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What to start, and where the rest is: an address that is given is used, one that is None is started.

    `topics` maps names to partition counts, for the embedded broker. `provider` is the root of a provider,
    without the version part; `provider_options` are those of `sluicegate provider`.
    """

    topics: Mapping[str, int]
    provider_options: Sequence[str] = ()
    kafka: str | None = None
    redis: str | None = None
    provider: str | None = None


class LocalStack:
    """A broker, a Redis and a provider, each embedded unless its address is given. Use it as a context."""

    def __init__(self, plan: StackPlan, *, folder: Path) -> None:
        """`folder` takes the provider's log."""
        self._plan = plan
        self._folder = folder
        self._opened = ExitStack()
        self.broker: EmbeddedBroker | None = None
        self.provider_process: CommandProcess | None = None
        self.kafka = plan.kafka or ""
        self.redis = plan.redis or ""
        self.provider = (plan.provider or "").rstrip("/")

    @property
    def provider_base_url(self) -> str:
        """The provider's address with its version part, as `[providers.*] base_url` wants it."""
        return self.provider if self.provider.endswith("/v1") else f"{self.provider}/v1"

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._start(opening)
            self._opened = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _start(self, opening: ExitStack) -> None:
        if not self.kafka:
            self.broker = opening.enter_context(EmbeddedBroker(self._plan.topics))
            self.kafka = self.broker.address
        if not self.redis:
            self.redis = opening.enter_context(RedisServer(appendonly=True)).url
        if not self.provider:
            self.provider = self._start_provider(opening)

    def _start_provider(self, opening: ExitStack) -> str:
        arguments = ("provider", "--port", "0", *self._plan.provider_options)
        process = self.provider_process = CommandProcess("provider", arguments, folder=self._folder)
        process.start(reads_stdout=True)
        opening.callback(process.wait, _PROVIDER_STOP_S)
        opening.callback(process.ask_to_stop)
        return str(process.first_line(_PROVIDER_START_S)["address"])
