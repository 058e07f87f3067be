"""What calls need to reach their providers: one limiter a scope and one client a provider, from the settings.

Both composition roots that make calls, the worker and `sluicegate.LlmClient`, build it here, so that they
book on the same scopes in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sluicegate.limiter.costs import CostModel
from sluicegate.limiter.quotas import quota_for
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.llm.api_key import ApiKeyFile
from sluicegate.llm.client import HttpLlmCaller
from sluicegate.llm.prices import required_price
from sluicegate.processing.routes import Route
from sluicegate.settings import Settings
from sluicegate.settings.routes import Route as ConfiguredRoute
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.pulse import TimedWork
from sluicegate.telemetry.traces import Traces

if TYPE_CHECKING:
    import redis.asyncio


class Providers:
    """The limiters and clients of one process. Whoever built it opens the clients and runs the limiters."""

    def __init__(
        self,
        settings: Settings,
        redis_client: redis.asyncio.Redis,
        metrics: Metrics,
        *,
        new_id: Callable[[], str],
        traces: Traces,
        watched: TimedWork | None = None,
    ) -> None:
        """`new_id` gives ids that no other process has.

        `traces` shows the calls, `watched` knows of every one while it lasts.
        """
        self.limiters: dict[str, RedisLimiter] = {}
        self.callers: dict[str, HttpLlmCaller] = {}
        self._settings = settings
        self._redis = redis_client
        self._metrics = metrics
        self._new_id = new_id
        self._traces = traces
        self._watched = watched

    def routes(self, ways: Sequence[ConfiguredRoute], own_model: str) -> tuple[Route, ...]:
        """Return a route for each way, with what they need of limiters and clients built and kept.

        A route to `own_model` bears its provider's name alone. Raises ConfigurationError when a limit in
        dollars needs a price that nobody knows.
        """
        return tuple(self._route(way, own_model) for way in ways)

    def _route(self, way: ConfiguredRoute, own_model: str) -> Route:
        costs = CostModel(self._settings.providers[way.provider].profile, required_price(self._settings, way))
        limiter = self._limiter(way.scope)
        return Route(
            name=way.provider if way.model == own_model else f"{way.provider}/{way.model}",
            model=way.model,
            limiter=limiter,
            view=limiter,
            caller=self._caller(way.provider),
            costs=costs,
        )

    def _limiter(self, scope: str) -> RedisLimiter:
        if scope not in self.limiters:
            self.limiters[scope] = RedisLimiter(
                self._redis,
                scope=scope,
                quota=quota_for(self._settings, scope),
                metrics=self._metrics,
                process_id=self._new_id(),
            )
        return self.limiters[scope]

    def _caller(self, name: str) -> HttpLlmCaller:
        if name not in self.callers:
            provider = self._settings.providers[name]
            self.callers[name] = HttpLlmCaller(
                provider.format.value,
                provider.base_url,
                api_key=ApiKeyFile(key_file) if (key_file := provider.api_key_file) else lambda: None,
                timeout_s=provider.timeout_s,
                traces=self._traces,
                watched=self._watched,
            )
        return self.callers[name]
