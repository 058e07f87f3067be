"""One LLM call from asking for a permit to an outcome that is settled, told to all and remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus

from sluicegate.clock import Clock
from sluicegate.limiter.api import NOTHING, Cost
from sluicegate.limiter.signals import signal_of
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Failed, Outcome, Throttled
from sluicegate.processing.answers import encode_answer
from sluicegate.processing.routes import Granted
from sluicegate.state.api import Lease, Steps
from sluicegate.state.patient import patiently
from sluicegate.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that may start now, on the route that granted it.

    `request_hash` is what its answer is remembered with, whichever route gives it. `prompt_bytes` is the
    size of its messages.
    """

    request: CallRequest
    request_hash: str
    prompt_bytes: int
    granted: Granted
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a call. `circuit_is_open`: its scope's, as soon as all know what the call showed."""

    outcome: Outcome
    seconds: float
    circuit_is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a call on the wire needs to end well without its event."""

    steps: Steps
    clock: Clock
    metrics: Metrics

    async def send(self, call: Call) -> Sent:
        """Make the call; return its outcome and the seconds on the wire once all that follows is done.

        The permit is settled, everybody is told what the call showed of its scope, an answer is stored
        however long Redis is away: it is paid for.
        """
        route, permit = call.granted.route, call.granted.permit
        started_ms = self.clock.now_ms()
        outcome: Outcome | None = None
        try:
            outcome = await route.caller.call(replace(call.request, model=route.model))
        finally:
            quotas = () if outcome is None else outcome.quotas
            route.limiter.settle(permit, _actual(call, outcome), quotas)
        seconds = max(0, self.clock.now_ms() - started_ms) / 1000
        self._count(permit.scope, outcome, seconds)
        if isinstance(outcome, Completed):
            route.costs.learn(call.prompt_bytes, call.request.max_output_tokens, outcome.usage)
        await route.limiter.report(permit, signal_of(outcome, call.lease.ref.identity))
        circuit_is_open = route.view.circuit() is not None
        if isinstance(outcome, Completed):
            answer = encode_answer(outcome, route.name)
            await patiently(lambda: self.steps.complete(call.lease, call.request_hash, answer))
        return Sent(outcome=outcome, seconds=seconds, circuit_is_open=circuit_is_open)

    def _count(self, scope: str, outcome: Outcome, seconds: float) -> None:
        name = "completed" if isinstance(outcome, Completed) else outcome.reason.value
        self.metrics.calls.labels(scope=scope, outcome=name).inc()
        self.metrics.call_seconds.labels(scope=scope).observe(seconds)
        if isinstance(outcome, Completed):
            self.metrics.tokens.labels(scope=scope, direction="input").inc(outcome.usage.input_tokens)
            self.metrics.tokens.labels(scope=scope, direction="output").inc(outcome.usage.output_tokens)


def _actual(call: Call, outcome: Outcome | None) -> Cost | None:
    costs, reserved = call.granted.route.costs, call.granted.permit.cost
    match outcome:
        case Completed(usage=usage):
            return costs.actual(reserved, usage)
        case Failed(on_the_wire=False):
            return NOTHING
        case Throttled(http_status=status) if status >= HTTPStatus.BAD_REQUEST:
            return costs.refused()
        case _:
            return costs.actual(reserved, None)
