"""Durable steps: a completed LLM call is not made again for the same event and step.

A step is begun in the shared state, which answers with what is remembered, with who is at it, or with
a lease that is kept alive while the step waits for quota and is on the wire. What the call comes to is
decided here, in the middle of the handler: try again in place, or unwind the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from sluicegate.clock import Clock
from sluicegate.errors import CallRejectedError, StateUnavailableError
from sluicegate.limiter.api import NOTHING, Ask, Blocked, Dimension, NeverFits, WaitersReleasedError
from sluicegate.llm.api import CallRequest, Message, conversation
from sluicegate.llm.outcomes import Completed, Failed, Halted, Reason, Rejected, Throttled, Usage
from sluicegate.processing.account import Account
from sluicegate.processing.answers import decode_answer, prompt_bytes, request_hash
from sluicegate.processing.calling import Call, Wire
from sluicegate.processing.context import Completion
from sluicegate.processing.leases import LeaseKeeper
from sluicegate.processing.pauses import Pauses
from sluicegate.processing.progress import DeliveryProgress
from sluicegate.processing.reading import Delivery
from sluicegate.processing.results import Spent
from sluicegate.processing.routes import Granted, Route, Routes
from sluicegate.processing.sending import Sent
from sluicegate.processing.signals import (
    AlreadyOver,
    Broken,
    Fate,
    Left,
    MustDie,
    MustPark,
    StepRejectedError,
)
from sluicegate.processing.spans import answered, waiting_for_permit
from sluicegate.processing.wire import WireCalls
from sluicegate.retry.decisions import (
    DeadLetter,
    Park,
    Progress,
    Retriable,
    RetryInPlace,
    decide,
    decide_blocked,
    expired,
    judged,
)
from sluicegate.retry.policy import RetryPolicy, expires_in_s, has_expired
from sluicegate.settings import StreamSettings
from sluicegate.state.api import AlreadyEnded, Busy, Lease, Leased, Memo, Steps
from sluicegate.state.patient import patiently
from sluicegate.telemetry.labels import Repair
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.traces import NO_TRACES, Traces

# How often a step that another worker has in flight is asked for again.
_BUSY_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPorts:
    """What all steps of a process share. `new_id` gives random ids, `random` numbers in [0, 1)."""

    steps: Steps
    routes: Routes
    wire: Wire
    wire_calls: WireCalls
    leases: LeaseKeeper
    pauses: Pauses
    clock: Clock
    random: Callable[[], float]
    new_id: Callable[[], str]
    metrics: Metrics
    traces: Traces = NO_TRACES


class EventSteps:
    """The steps of one delivery of one event: what `ctx.llm` is behind its protocol."""

    def __init__(
        self,
        *,
        delivery: Delivery,
        settings: StreamSettings,
        policy: RetryPolicy,
        ports: StepPorts,
        fate: Fate,
        account: Account,
    ) -> None:
        self._delivery = delivery
        self._settings = settings
        self._policy = policy
        self._ports = ports
        self._fate = fate
        self._account = account
        self.progress = DeliveryProgress(delivery.progress, policy)
        self._on_wire: dict[Lease, asyncio.Task[Sent]] = {}
        self._usage = Usage()
        self._completed = 0
        self._routes: dict[str, None] = {}  # as an ordered set
        self._is_closed = False

    @property
    def usage(self) -> Usage:
        """What all completed steps of this event took, remembered ones included."""
        return self._usage

    @property
    def routes(self) -> tuple[str, ...]:
        """Which routes answered the completed steps, each once, in the order of their first use."""
        return tuple(self._routes)

    @property
    def spent(self) -> Spent:
        """What the completed steps took, remembered ones included."""
        return Spent(calls=self._completed, usage=self._usage, routes=self.routes)

    async def complete(
        self,
        *,
        step: str,
        system: str | None = None,
        messages: Sequence[Message] = (),
        user: str | None = None,
        max_output_tokens: int | None = None,
        json_object: bool = False,
    ) -> Completion:
        """Return the step's answer; the promise is `context.Llm`'s."""
        if self._is_closed:
            raise RuntimeError(f"step {step} was asked for after its handler had returned")
        request = CallRequest(
            model=self._settings.model,
            messages=conversation(system, messages, user),
            max_output_tokens=max_output_tokens or self._settings.max_output_tokens,
            request_id="",
            json_object=json_object,
        )
        wanted = _Wanted(
            step=step,
            request=request,
            request_hash=request_hash(request),
            prompt_bytes=prompt_bytes(request),
        )
        await self._fate.check()
        try:
            completion = await self._answer(wanted)
        except WaitersReleasedError:
            raise self._fate.decide(Left()) from None
        except CallRejectedError:
            raise
        except Exception as error:
            raise self._fate.decide(Broken(error=error)) from error
        self._usage += completion.usage
        self._completed += 1
        if completion.route:
            self._routes[completion.route] = None
        return completion

    async def settled(self) -> None:
        """Return when no call of this event is on the wire any more; their answers are stored."""
        while self._on_wire:
            await asyncio.wait(self._on_wire.values())

    def close(self) -> None:
        """Refuse steps from now on: the handler has returned."""
        self._is_closed = True

    async def _answer(self, wanted: _Wanted) -> Completion:
        ports = self._ports
        lease = Lease(ref=self._delivery.ref, step=wanted.step, owner=ports.new_id())
        is_held = True  # also while `begin` is under way: a cancelled one may have been granted
        try:
            completion = await self._begin(wanted, lease)
            if completion is None:
                completion = await self._call_until_decided(wanted, lease)
            is_held = False
            return completion
        finally:
            self._let_go(lease, release=is_held and not isinstance(self._fate.decided, AlreadyOver))

    async def _begin(self, wanted: _Wanted, lease: Lease) -> Completion | None:
        """Return the answer that is remembered, or None once the lease is ours."""
        ports = self._ports
        while True:
            asked_at_s = ports.leases.now_s()
            match await patiently(lambda: ports.steps.begin(lease, wanted.request_hash)):
                case Memo(answer=answer):
                    return decode_answer(answer)
                case AlreadyEnded():
                    raise self._fate.decide(AlreadyOver())
                case Busy(wait_ms=wait_ms):
                    await ports.pauses.wait(min(wait_ms / 1000, _BUSY_POLL_S))
                case Leased(mismatch=mismatch):
                    self._count_mismatch(mismatch)
                    ports.leases.hold(lease, asked_at_s)
                    return None

    async def _call_until_decided(self, wanted: _Wanted, lease: Lease) -> Completion:
        ports, progress = self._ports, self.progress.of_step()
        while True:
            await self._fate.check()
            granted = await self._permit(wanted, progress)
            if not ports.leases.is_certain(lease):
                # The process stood still, or Redis was away: another worker may have made this call.
                granted.route.limiter.settle(granted.permit, NOTHING)
                if (remembered := await self._begin(wanted, lease)) is not None:
                    return remembered
                continue
            # No await between the permit and its task: from here the task settles it.
            sent = await self._send(wanted, lease, granted, progress.attempt + 1)
            match sent.outcome:
                case Completed(text=text, model=model, usage=usage):
                    return Completion(text=text, model=model, usage=usage, route=granted.route.name)
                case Rejected(reason=reason, http_status=http_status):
                    # Only its number counts: a rejection that the handler catches leaves no failure behind.
                    rejected = replace(progress, attempt=progress.attempt + 1)
                    raise StepRejectedError(reason, http_status, rejected)
                case Throttled() | Failed() | Halted() as outcome:
                    counted = judged(outcome, circuit_is_open=sent.circuit_is_open)
                    progress = await self._retry_or_unwind(counted, progress, granted.route)
                case _:
                    assert_never(sent.outcome)

    async def _permit(self, wanted: _Wanted, progress: Progress) -> Granted:
        """Wait for a permit, but not beyond the event's expiry: no call is begun for nobody."""
        event_time_ms, now_ms = self._delivery.envelope.time_ms, self._ports.clock.now_ms
        try:
            async with asyncio.timeout(expires_in_s(event_time_ms, self._policy, now_ms())):
                granted = await self._permit_however_long(wanted, progress)
        except TimeoutError:
            raise self._fate.decide(MustDie(letter=expired(progress), progress=progress)) from None
        if has_expired(event_time_ms, self._policy, now_ms()):
            granted.route.limiter.settle(granted.permit, NOTHING)
            raise self._fate.decide(MustDie(letter=expired(progress), progress=progress))
        return granted

    async def _permit_however_long(self, wanted: _Wanted, progress: Progress) -> Granted:
        ports = self._ports
        patience_s = self.progress.patience_s(ports.clock.now_ms())
        while True:
            with waiting_for_permit(ports.traces, self._settings.lane) as span:
                answer = await ports.routes.acquire(partial(self._ask, wanted, patience_s))
                span.note(answered(answer))
            match answer:
                case Granted(permit=permit) as granted:
                    self._account.waited_s += permit.waited_s
                    return granted
                case Blocked(cause=Dimension.CIRCUIT) if not self.progress.has_failed_here:
                    # Nobody knows when it closes: a copy that came back waits in its slot and does not
                    # go round through Kafka with every probe.
                    patience_s = None
                case Blocked() as blocked:
                    now_ms = ports.clock.now_ms()
                    match decide_blocked(blocked, progress, self._policy, now_ms, ports.random):
                        case Park() as park:
                            raise self._fate.decide(MustPark(park=park, progress=progress))
                        case DeadLetter() as letter:
                            raise self._fate.decide(MustDie(letter=letter, progress=progress))
                case NeverFits():
                    raise CallRejectedError(Reason.PROMPT_TOO_LARGE.value)

    def _ask(self, wanted: _Wanted, patience_s: float | None, route: Route) -> Ask:
        return Ask(
            lane=self._settings.lane,
            cost=route.costs.reserve(wanted.prompt_bytes, wanted.request.max_output_tokens),
            origin_timestamp_ms=self._delivery.origin_timestamp_ms,
            is_retry=self.progress.has_failed or not self._delivery.copy.is_input,
            patience_s=patience_s,
            tenant=self._delivery.tenant,
        )

    async def _send(self, wanted: _Wanted, lease: Lease, granted: Granted, attempt: int) -> Sent:
        request_id = f"{self._delivery.ref.identity}/{wanted.step}/{attempt}"
        call = Call(
            request=replace(wanted.request, request_id=request_id),
            request_hash=wanted.request_hash,
            prompt_bytes=wanted.prompt_bytes,
            granted=granted,
            lease=lease,
        )
        task = self._ports.wire_calls.start(self._ports.wire.send(call))
        self._on_wire[lease] = task
        task.add_done_callback(lambda _: self._on_wire.pop(lease, None))
        self.progress.has_called = True
        # A cancelled event leaves the call alone: it is paid for and its answer will be wanted again.
        sent = await asyncio.shield(task)
        self._account.add_call(sent.outcome, sent.seconds)
        return sent

    async def _retry_or_unwind(self, outcome: Retriable, progress: Progress, route: Route) -> Progress:
        ports, now_ms = self._ports, self._ports.clock.now_ms()
        progress = self.progress.after(progress, outcome, now_ms)
        another_route = ports.routes.lead_past(route, self.progress.patience_s(now_ms))
        match decide(outcome, progress, self._policy, now_ms, ports.random, another_route=another_route):
            case RetryInPlace(delay_s=delay_s):
                await ports.pauses.wait(delay_s)
                return progress
            case Park() as park:
                raise self._fate.decide(MustPark(park=park, progress=progress))
            case DeadLetter() as letter:
                raise self._fate.decide(MustDie(letter=letter, progress=progress))

    def _let_go(self, lease: Lease, *, release: bool) -> None:
        """End the lease now, or when the call that outlives this coroutine has ended."""
        ports = self._ports
        task = self._on_wire.get(lease)
        if task is not None and not task.done():
            task.add_done_callback(lambda done: self._let_go(lease, release=not _is_answered(done)))
            return
        ports.leases.drop(lease)
        if release:
            ports.wire_calls.start(_release(ports.steps, lease))

    def _count_mismatch(self, mismatch: bool) -> None:
        if mismatch:
            stream = self._delivery.ref.stream
            self._ports.metrics.repairs.labels(stream=stream, kind=Repair.STEP_MISMATCH).inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A step as its handler asked for it."""

    step: str
    request: CallRequest
    request_hash: str
    prompt_bytes: int


def _is_answered(task: asyncio.Task[Sent]) -> bool:
    return not task.cancelled() and task.exception() is None and isinstance(task.result().outcome, Completed)


async def _release(steps: Steps, lease: Lease) -> None:
    with contextlib.suppress(StateUnavailableError):  # then it ends by itself, six seconds later
        await steps.release(lease)
