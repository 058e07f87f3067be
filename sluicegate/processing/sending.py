"""One LLM call from its permit to an outcome that is settled, counted and told to all others of its scope."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus

from sluicegate.clock import Clock
from sluicegate.limiter.api import NOTHING, Cost
from sluicegate.limiter.signals import signal_of
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Failed, Outcome, Throttled
from sluicegate.processing.routes import Granted
from sluicegate.telemetry.labels import Direction
from sluicegate.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a call. `circuit_is_open`: its scope's, as soon as all know what the call showed."""

    outcome: Outcome
    seconds: float
    circuit_is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Makes calls on the routes that granted them."""

    clock: Clock
    metrics: Metrics

    async def send(self, request: CallRequest, prompt_bytes: int, granted: Granted, event: str) -> Sent:
        """Make the call; return its outcome once the permit is settled and everybody is told what it showed.

        `prompt_bytes` is the size of the request's messages; `event` tells apart whom an outage strikes.
        Whatever is cancelled, the permit is settled: what may have reached the provider keeps its cost.
        """
        route, permit = granted.route, granted.permit
        started_ms = self.clock.now_ms()
        outcome: Outcome | None = None
        try:
            outcome = await route.caller.call(replace(request, model=route.model))
        finally:
            quotas = () if outcome is None else outcome.quotas
            route.limiter.settle(permit, _actual(granted, outcome), quotas)
        seconds = max(0, self.clock.now_ms() - started_ms) / 1000
        self._count(permit.scope, outcome, seconds)
        if isinstance(outcome, Completed):
            route.costs.learn(prompt_bytes, request.max_output_tokens, outcome.usage)
        await route.limiter.report(permit, signal_of(outcome, event))
        return Sent(outcome=outcome, seconds=seconds, circuit_is_open=route.view.circuit() is not None)

    def _count(self, scope: str, outcome: Outcome, seconds: float) -> None:
        name = "completed" if isinstance(outcome, Completed) else outcome.reason.value
        self.metrics.calls.labels(scope=scope, outcome=name).inc()
        self.metrics.call_seconds.labels(scope=scope).observe(seconds)
        if isinstance(outcome, Completed):
            self.metrics.tokens.labels(scope=scope, direction=Direction.INPUT).inc(outcome.usage.input_tokens)
            self.metrics.tokens.labels(scope=scope, direction=Direction.OUTPUT).inc(
                outcome.usage.output_tokens
            )


def _actual(granted: Granted, outcome: Outcome | None) -> Cost | None:
    costs, reserved = granted.route.costs, granted.permit.cost
    match outcome:
        case Completed(usage=usage):
            return costs.actual(reserved, usage)
        case Failed(on_the_wire=False):
            return NOTHING
        case Throttled(http_status=status) if status >= HTTPStatus.BAD_REQUEST:
            return costs.refused()
        case _:
            return costs.actual(reserved, None)
