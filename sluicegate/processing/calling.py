"""One LLM call from asking for a permit to an outcome that is settled, told to all and remembered."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.clock import Clock
from sluicegate.limiter.api import Cost, Limiter, Permit
from sluicegate.limiter.profiles import Profile, actual_cost
from sluicegate.llm.api import CallRequest, LlmCaller
from sluicegate.llm.outcomes import Completed, Failed, Halted, Outcome, Reason, Throttled
from sluicegate.processing.answers import encode_answer
from sluicegate.state.api import Lease, Steps
from sluicegate.state.patient import patiently
from sluicegate.telemetry.metrics import Metrics

# A rate limit that names no time is taken for one second; a capacity error that names none blocks nobody.
_RATE_LIMIT_BLOCK_S = 1.0
# Credentials and money: nothing that a retry cures. Until somebody acts, one event at a time asks again.
_HALT_BLOCK_S = 30.0
_RATE_LIMITS = frozenset({Reason.RATE_LIMITED, Reason.RAMP_LIMITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that may start now. `request_hash` is what its answer is remembered with."""

    request: CallRequest
    request_hash: str
    permit: Permit
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a call on the wire needs to end well without its event. `profile` says how it is charged."""

    caller: LlmCaller
    limiter: Limiter
    profile: Profile
    steps: Steps
    clock: Clock
    metrics: Metrics

    async def send(self, call: Call) -> tuple[Outcome, float]:
        """Make the call; return its outcome and the seconds on the wire once all that follows is done.

        The permit is settled, a refusal blocks the scope for everybody, an answer is stored however
        long Redis is away: it is paid for.
        """
        started_ms = self.clock.now_ms()
        outcome: Outcome | None = None
        try:
            outcome = await self.caller.call(call.request)
        finally:
            self.limiter.settle(call.permit, self._actual(call.permit, outcome))
        seconds = max(0, self.clock.now_ms() - started_ms) / 1000
        self._count(call.permit.scope, outcome, seconds)
        if isinstance(outcome, Completed):
            answer = encode_answer(outcome)
            await patiently(lambda: self.steps.complete(call.lease, call.request_hash, answer))
        elif block := _block_of(outcome):
            await self.limiter.block(*block)
        return outcome, seconds

    def _actual(self, permit: Permit, outcome: Outcome | None) -> Cost | None:
        match outcome:
            case Completed(usage=usage):
                return actual_cost(self.profile, permit.cost, usage)
            case Failed(on_the_wire=False):
                return Cost(requests=0, tokens=0)
            case _:
                return None

    def _count(self, scope: str, outcome: Outcome, seconds: float) -> None:
        name = "completed" if isinstance(outcome, Completed) else outcome.reason.value
        self.metrics.calls.labels(scope=scope, outcome=name).inc()
        self.metrics.call_seconds.labels(scope=scope).observe(seconds)
        if isinstance(outcome, Completed):
            self.metrics.tokens.labels(scope=scope, direction="input").inc(outcome.usage.input_tokens)
            self.metrics.tokens.labels(scope=scope, direction="output").inc(outcome.usage.output_tokens)


def _block_of(outcome: Outcome) -> tuple[float, str] | None:
    match outcome:
        case Throttled(retry_after_s=float() as seconds, reason=reason):
            return seconds, reason.value
        case Throttled(reason=reason) if reason in _RATE_LIMITS:
            return _RATE_LIMIT_BLOCK_S, reason.value
        case Halted(reason=reason):
            return _HALT_BLOCK_S, reason.value
        case _:
            return None
