"""A call without an event: what becomes of it is decided while its caller waits, within the caller's time.

The parts are those of a durable step: routes, permits, one sender, one retry policy. Where a step parks its
event, a direct call says at once that there will be no answer in time, and when to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from sluicegate.clock import Clock
from sluicegate.errors import (
    CallFailedError,
    CallPhase,
    CallRejectedError,
    CallTimeoutError,
    CallUnansweredError,
    CircuitOpenError,
    ClientClosedError,
    QuotaBlockedError,
)
from sluicegate.limiter.api import Ask, Blocked, Dimension, Lane, NeverFits, WaitersReleasedError
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Failed, Halted, Reason, Rejected, Throttled
from sluicegate.processing.answers import prompt_bytes
from sluicegate.processing.context import Completion
from sluicegate.processing.pauses import Pauses
from sluicegate.processing.routes import Granted, Route, Routes
from sluicegate.processing.sending import Sender
from sluicegate.retry.decisions import (
    DeadLetter,
    Park,
    Progress,
    Retriable,
    RetryInPlace,
    decide,
    judged,
)
from sluicegate.retry.policy import RetryPolicy

# The step's name in a request's id, whose parts are identity, step and attempt.
_STEP = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPorts:
    """What all direct calls of a client share. `new_id` gives random ids, `random` numbers in [0, 1)."""

    sender: Sender
    pauses: Pauses
    clock: Clock
    random: Callable[[], float]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A call as its caller asked for it. The request's id is given by attempt."""

    request: CallRequest
    lane: Lane
    tenant: str | None
    timeout_s: float


class DirectCalls:
    """Makes calls for callers who wait, as many at once as are asked for."""

    def __init__(self, policy: RetryPolicy, ports: DirectPorts) -> None:
        """Of the policy the backoff and `max_attempts` count; how long a call is retried says its caller."""
        self._policy = policy
        self._ports = ports
        self._probing: set[Routes] = set()

    async def complete(self, routes: Routes, wanted: Wanted) -> Completion:
        """Return the answer within `timeout_s`, from the first moment to the last.

        Raises CallRejectedError when the provider will never take the call, CallUnansweredError when there is
        no answer in time: at once where that is known beforehand. Cancelling gives back what was booked.
        """
        size = _prompt_bytes(wanted.request)
        if size is None:
            raise CallRejectedError(Reason.BAD_REQUEST.value)
        call = _Call(wanted, size, f"{_STEP}-{self._ports.new_id()}", self._ports.clock.now_ms())
        try:
            async with asyncio.timeout(wanted.timeout_s):
                return await self._until_answered(routes, call)
        except TimeoutError:
            raise _timed_out(routes, call) from None
        except WaitersReleasedError:
            raise ClientClosedError from None

    async def _until_answered(self, routes: Routes, call: _Call) -> Completion:
        while True:
            call.phase = CallPhase.QUEUE
            granted = await self._permit(routes, call)
            # No await between the permit and its sending, which settles it whatever happens.
            call.phase = CallPhase.ANSWER
            sent = await self._ports.sender.send(
                call.next_request(), call.prompt_bytes, granted, call.identity
            )
            match sent.outcome:
                case Completed(text=text, model=model, usage=usage):
                    return Completion(text=text, model=model, usage=usage, route=granted.route.name)
                case Rejected(reason=reason, http_status=http_status):
                    raise CallRejectedError(reason.value, http_status)
                case Throttled() | Failed() | Halted() as outcome:
                    counted = judged(outcome, circuit_is_open=sent.circuit_is_open)
                    call.phase = CallPhase.RETRY
                    await self._before_retry(routes, call, counted, granted.route)
                case _:
                    assert_never(sent.outcome)

    async def _permit(self, routes: Routes, call: _Call) -> Granted:
        left_s = call.left_s(self._ports.clock.now_ms())
        answer = await routes.acquire(partial(call.ask, left_s))
        if _is_worth_a_probe(answer, left_s) and routes not in self._probing:
            # One call at a time waits for the circuit's next probe and makes it. Where no worker runs, nobody
            # else would ever find out that the provider is back.
            self._probing.add(routes)
            try:
                answer = await routes.acquire(partial(call.ask, None))
            finally:
                self._probing.discard(routes)
        match answer:
            case Granted():
                return answer
            case Blocked(cause=Dimension.CIRCUIT) as blocked:
                circuit = routes.circuit()
                raise CircuitOpenError(circuit.reason if circuit else "outage", blocked.wait_s)
            case Blocked(wait_s=wait_s, cause=cause):
                raise QuotaBlockedError(cause.value, wait_s)
            case NeverFits():
                raise CallRejectedError(Reason.PROMPT_TOO_LARGE.value)
            case _:
                assert_never(answer)

    async def _before_retry(self, routes: Routes, call: _Call, outcome: Retriable, route: Route) -> None:
        """Wait until the call may be tried again; raise CallFailedError when that is not within its time."""
        now_ms = self._ports.clock.now_ms()
        call.progress = call.progress.after(outcome, self._policy, now_ms)
        another_route = routes.lead_past(route, call.left_s(now_ms))
        match decide(
            outcome, call.progress, self._policy, now_ms, self._ports.random, another_route=another_route
        ):
            case RetryInPlace(delay_s=delay_s):
                await self._ports.pauses.wait(delay_s)
            case Park(due_at_ms=due_at_ms):
                raise call.failed(outcome, (due_at_ms - now_ms) / 1000)
            case DeadLetter():
                raise call.failed(outcome, None)


class _Call:
    """How far one call has come. Its in-place budget is all of its caller's time."""

    def __init__(self, wanted: Wanted, prompt_bytes: int, identity: str, now_ms: int) -> None:
        self.identity = identity
        self.wanted = wanted
        self.prompt_bytes = prompt_bytes
        self.phase = CallPhase.QUEUE
        self._asked_ms = now_ms
        self._until_ms = now_ms + int(wanted.timeout_s * 1000)
        self.progress = Progress(in_place_until_ms=self._until_ms)

    def left_s(self, now_ms: int) -> float:
        """How long the caller waits from now on."""
        return max(0, self._until_ms - now_ms) / 1000

    def ask(self, patience_s: float | None, route: Route) -> Ask:
        """Return what to ask a route's limiter for."""
        return Ask(
            lane=self.wanted.lane,
            cost=route.costs.reserve(self.prompt_bytes, self.wanted.request.max_output_tokens),
            origin_timestamp_ms=self._asked_ms,
            is_retry=self.progress.attempt > 0,
            patience_s=patience_s,
            tenant=self.wanted.tenant,
        )

    def next_request(self) -> CallRequest:
        """Return the request under the id of its next attempt."""
        attempt = self.progress.attempt + 1
        return replace(self.wanted.request, request_id=f"{self.identity}/{_STEP}/{attempt}")

    def failed(self, outcome: Retriable, retry_after_s: float | None) -> CallFailedError:
        """Return what to raise when there is no next attempt."""
        return CallFailedError(
            outcome.reason.value,
            attempts=self.progress.attempt,
            http_status=outcome.http_status,
            retry_after_s=retry_after_s,
        )


def _prompt_bytes(request: CallRequest) -> int | None:
    """Return the prompt's size; None for text that nothing can carry (half of a surrogate pair).

    The codec's own error holds the whole text, even as the context of another one.
    """
    try:
        return prompt_bytes(request)
    except UnicodeEncodeError:
        return None


def _is_worth_a_probe(answer: Granted | Blocked | NeverFits, left_s: float) -> bool:
    return isinstance(answer, Blocked) and answer.cause is Dimension.CIRCUIT and answer.wait_s <= left_s


def _timed_out(routes: Routes, call: _Call) -> CallUnansweredError:
    if call.phase is CallPhase.QUEUE and (circuit := routes.circuit()) is not None:
        return CircuitOpenError(circuit.reason, circuit.next_probe_s)
    return CallTimeoutError(call.phase, call.wanted.timeout_s)
