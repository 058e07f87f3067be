"""Direct calls on fakes: what is tried again, what is refused at once, and with which error."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sluicegate.direct.calls import DirectCalls, DirectPorts, Wanted
from sluicegate.errors import (
    CallFailedError,
    CallPhase,
    CallRejectedError,
    CallTimeoutError,
    CircuitOpenError,
    ClientClosedError,
    QuotaBlockedError,
)
from sluicegate.limiter.api import NOTHING, Lane
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.llm.api import CallRequest, Message
from sluicegate.llm.outcomes import Failed, Halted, Outcome, Reason, Rejected, Throttled
from sluicegate.processing.context import Completion
from sluicegate.processing.routes import Route, Routes
from sluicegate.processing.sending import Sender
from sluicegate.retry.policy import RetryPolicy
from sluicegate.telemetry.metrics import Metrics
from tests.unit.processing_world import (
    FakePauses,
    ManualClock,
    RecordedCosts,
    Script,
    ScriptedCaller,
    answer,
)
from tests.waiting import wait_until

PROMPT = "canary-5d1c, where is my parcel?"
REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=2.0)
BROKEN = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500)
NO_MONEY = Halted(reason=Reason.MONEY, http_status=429)
POLICY = RetryPolicy(
    in_place_max_s=5.0,
    base_s=1.0,
    cap_s=3600.0,
    tiers_s=(5.0, 30.0),
    horizon_s=604_800.0,
    max_attempts=3,
    deadline_s=604_800.0,
    expires_after_s=0.0,
)


def first(*outcomes: Outcome) -> Script:
    """Return a provider that gives these outcomes and then answers."""
    left = list(outcomes)
    return lambda request: left.pop(0) if left else answer()


def always(outcome: Outcome) -> Script:
    """Return a provider that gives one outcome."""
    return lambda request: outcome


@dataclass
class Desk:
    """One client's calls on two providers, with a clock that waits move. The backup is there if scripted."""

    script: Script = field(default_factory=first)
    backup_script: Script | None = None
    draw: float = 0.5

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.limiter, self.backup_limiter = FakeLimiter(largest_tokens=10_000), FakeLimiter(scope="backup")
        self.caller = ScriptedCaller(self.script)
        self.backup_caller = ScriptedCaller(self.backup_script or first())
        self.pauses = FakePauses(self.time_passes)
        ids = itertools.count(1)
        self.calls = DirectCalls(
            POLICY,
            DirectPorts(
                sender=Sender(clock=self.clock, metrics=Metrics()),
                pauses=self.pauses,
                clock=self.clock,
                random=lambda: self.draw,
                new_id=lambda: str(next(ids)),
            ),
        )
        ways = [("main", self.limiter, self.caller), ("backup", self.backup_limiter, self.backup_caller)]
        self.routes = Routes(
            [
                Route(
                    name=name,
                    model=f"{name}-model",
                    limiter=limiter,
                    view=limiter,
                    caller=caller,
                    costs=RecordedCosts(),
                )
                for name, limiter, caller in ways[: 2 if self.backup_script else 1]
            ],
            fallback_after_s=5.0,
        )

    async def time_passes(self, seconds: float) -> None:
        """Move all clocks."""
        self.clock.ms += int(seconds * 1000)
        self.limiter.advance(seconds)
        self.backup_limiter.advance(seconds)

    async def complete(
        self,
        text: str = PROMPT,
        *,
        timeout_s: float = 30.0,
        lane: Lane = Lane.INTERACTIVE,
        tenant: str | None = None,
    ) -> Completion:
        """Make one call."""
        request = CallRequest(
            model="main-model",
            messages=(Message(role="user", text=text),),
            max_output_tokens=100,
            request_id="",
        )
        wanted = Wanted(request=request, lane=lane, tenant=tenant, timeout_s=timeout_s)
        return await self.calls.complete(self.routes, wanted)

    @property
    def request_ids(self) -> list[str]:
        """What the own provider was called with."""
        return [request.request_id for request in self.caller.requests]


async def test_an_answer_says_what_it_took_and_who_gave_it() -> None:
    """Text, usage, model and route; the permit is settled by usage, and the request has an id of its own."""
    desk = Desk()

    completion = await desk.complete(lane=Lane.BULK, tenant="acme")

    assert (completion.text, completion.model, completion.route) == ("an answer", "model-1", "main")
    assert completion.usage.total_tokens == 15
    assert desk.request_ids == ["direct-1/direct/1"]
    ((permit, cost),) = desk.limiter.settled.items()
    assert permit == desk.limiter.granted[0].id
    assert cost is not None
    assert cost.tokens == 15
    (ask,) = desk.limiter.asked
    assert (ask.lane, ask.tenant, ask.is_retry, ask.patience_s) == (Lane.BULK, "acme", False, 30.0)


async def test_a_refused_call_is_tried_again_in_place_after_what_the_provider_asked_for() -> None:
    """The header plus its spread, as the next attempt of the same call, ahead of fresh ones."""
    desk = Desk(first(REFUSED))

    await desk.complete()

    assert desk.pauses.waits == [2.5]
    assert desk.request_ids == ["direct-1/direct/1", "direct-1/direct/2"]
    assert [ask.is_retry for ask in desk.limiter.asked] == [False, True]
    assert [ask.patience_s for ask in desk.limiter.asked] == [30.0, 27.5]


@pytest.mark.parametrize(("draw", "waits"), [(0.0, [0.0, 0.0]), (0.5, [0.5, 1.0])])
async def test_without_a_header_the_wait_is_drawn_with_full_jitter(draw: float, waits: list[float]) -> None:
    """From nothing up to a ceiling that doubles."""
    desk = Desk(first(BROKEN, BROKEN), draw=draw)

    await desk.complete()

    assert desk.pauses.waits == waits


async def test_a_wait_beyond_the_callers_time_is_told_at_once() -> None:
    """With what the provider asked for, and no second call."""
    desk = Desk(always(REFUSED))

    with pytest.raises(CallFailedError) as caught:
        await desk.complete(timeout_s=2.2)

    error = caught.value
    assert (error.reason, error.http_status, error.attempts) == ("rate-limited", 429, 1)
    assert error.retry_after_s == pytest.approx(2.5)
    assert desk.pauses.waits == []
    assert len(desk.caller.requests) == 1


async def test_a_provider_that_keeps_failing_is_not_called_for_ever() -> None:
    """`max_attempts` bounds 5xx and time-outs as in a stream."""
    desk = Desk(always(BROKEN), draw=0.0)

    with pytest.raises(CallFailedError) as caught:
        await desk.complete()

    assert (caught.value.attempts, caught.value.reason) == (POLICY.max_attempts, "server-error")
    assert caught.value.retry_after_s is None


async def test_a_block_beyond_the_callers_time_is_told_without_a_call() -> None:
    """A shorter one is waited for."""
    desk = Desk()
    desk.limiter.block(20)

    with pytest.raises(QuotaBlockedError) as caught:
        await desk.complete(timeout_s=10)
    assert (caught.value.retry_after_s, caught.value.reason) == (20, "blocked")
    assert desk.caller.requests == []

    waiting = asyncio.create_task(desk.complete(timeout_s=25))
    await wait_until(lambda: desk.limiter.waiting == 1)
    await desk.time_passes(20)
    assert (await waiting).route == "main"


async def test_an_open_circuit_is_told_at_once_where_its_probe_is_far() -> None:
    """Why it opened, and when it is probed."""
    desk = Desk()
    desk.limiter.open_circuit("money")

    with pytest.raises(CircuitOpenError) as caught:
        await desk.complete(timeout_s=4)

    assert (caught.value.reason, caught.value.retry_after_s) == ("money", 5.0)
    assert desk.caller.requests == []


async def test_one_call_waits_to_probe_an_open_circuit_and_closes_it() -> None:
    """The others are told at once: one caller's patience is enough to find out."""
    desk = Desk()
    desk.limiter.open_circuit("money")
    prober = asyncio.create_task(desk.complete(timeout_s=10))
    await wait_until(lambda: desk.limiter.waiting == 1)

    with pytest.raises(CircuitOpenError):
        await desk.complete(timeout_s=10)
    await desk.time_passes(5)

    assert (await prober).text == "an answer"
    assert [permit.is_probe for permit in desk.limiter.granted] == [True]
    assert desk.limiter.circuit() is None
    await desk.complete()


async def test_a_prober_that_leaves_makes_room_for_the_next_one() -> None:
    """Cancelled before its probe, it holds up nobody."""
    desk = Desk()
    desk.limiter.open_circuit("money")
    for _ in range(2):
        prober = asyncio.create_task(desk.complete(timeout_s=10))
        await wait_until(lambda: desk.limiter.waiting == 1)
        prober.cancel()
        await asyncio.wait({prober})
    assert desk.limiter.waiting == 0


async def test_a_call_that_finds_the_credit_used_up_is_no_secret_to_the_next() -> None:
    """The first is told why it failed; the circuit answers whoever comes after it."""
    desk = Desk(always(NO_MONEY))

    with pytest.raises(CallFailedError) as caught:
        await desk.complete(timeout_s=4)
    assert (caught.value.reason, caught.value.http_status) == ("money", 429)
    with pytest.raises(CircuitOpenError):
        await desk.complete(timeout_s=4)
    assert len(desk.caller.requests) == 1


@pytest.mark.parametrize(
    "outcome", [NO_MONEY, Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60)]
)
async def test_what_the_own_provider_refuses_is_answered_by_the_fallback(outcome: Outcome) -> None:
    """In place, as the next attempt, with the fallback's own model."""
    desk = Desk(always(outcome), backup_script=first())

    completion = await desk.complete()

    assert completion.route == "backup"
    (request,) = desk.backup_caller.requests
    assert (request.request_id, request.model) == ("direct-1/direct/2", "backup-model")


async def test_a_rejected_call_is_not_tried_again() -> None:
    """The reason comes from the closed set."""
    desk = Desk(always(Rejected(reason=Reason.CONTENT_REFUSED, http_status=400)))

    with pytest.raises(CallRejectedError) as caught:
        await desk.complete()

    assert (caught.value.reason, caught.value.http_status) == ("content-refused", 400)
    assert len(desk.caller.requests) == 1


async def test_a_call_that_no_limit_holds_is_rejected_before_it_is_sent() -> None:
    """No wait can help."""
    desk = Desk()

    with pytest.raises(CallRejectedError, match="prompt-too-large"):
        await desk.complete("x" * 100_000)

    assert desk.caller.requests == []


async def test_text_that_nothing_can_carry_is_rejected_without_being_quoted() -> None:
    """The codec's error would hold all of it."""
    desk = Desk()

    with pytest.raises(CallRejectedError, match="bad-request") as caught:
        await desk.complete("canary \ud800")

    assert caught.value.__context__ is None
    assert desk.limiter.asked == []


async def test_time_that_ends_on_the_wire_keeps_the_cost_and_says_so() -> None:
    """What may have reached the provider may be charged."""

    async def hang(request: CallRequest) -> Outcome:
        await asyncio.Event().wait()
        return answer()

    desk = Desk(hang)

    with pytest.raises(CallTimeoutError) as caught:
        await desk.complete(timeout_s=0.05)

    assert caught.value.phase is CallPhase.ANSWER
    assert list(desk.limiter.settled.values()) == [None]


async def test_time_that_ends_in_the_queue_leaves_nothing_behind() -> None:
    """No permit, no booking, no waiter."""
    desk = Desk()
    desk.limiter.block(0.04)

    with pytest.raises(CallTimeoutError) as caught:
        await desk.complete(timeout_s=0.05)

    assert (caught.value.phase, caught.value.retry_after_s) == (CallPhase.QUEUE, None)
    assert desk.limiter.waiting == 0
    assert desk.limiter.granted == []


async def test_a_call_that_is_cancelled_on_the_wire_is_settled_once() -> None:
    """And its caller sees the cancellation."""

    async def hang(request: CallRequest) -> Outcome:
        await asyncio.Event().wait()
        return answer()

    desk = Desk(hang)
    call = asyncio.create_task(desk.complete())
    await wait_until(lambda: len(desk.caller.requests) == 1)
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert list(desk.limiter.settled.values()) == [None]
    assert NOTHING not in desk.limiter.settled.values()


async def test_waiters_of_a_client_that_closes_are_told() -> None:
    """They do not wait for a limiter that nobody runs any more."""
    desk = Desk()
    desk.limiter.block(20)
    waiting = asyncio.create_task(desk.complete())
    await wait_until(lambda: desk.limiter.waiting == 1)

    desk.limiter.release_waiters()

    with pytest.raises(ClientClosedError):
        await waiting


_UNANSWERED: list[tuple[Script, Callable[[Desk], None]]] = [
    (always(REFUSED), lambda desk: None),
    (always(Rejected(reason=Reason.BAD_REQUEST, http_status=400)), lambda desk: None),
    (first(), lambda desk: desk.limiter.block(60)),
    (first(), lambda desk: desk.limiter.open_circuit("money")),
]


@pytest.mark.parametrize(("script", "prepare"), _UNANSWERED)
async def test_no_error_holds_the_prompt(script: Script, prepare: Callable[[Desk], None]) -> None:
    """Not in its text, not in its attributes, not in a chain of causes."""
    desk = Desk(script)
    prepare(desk)

    with pytest.raises((CallFailedError, CallRejectedError, QuotaBlockedError, CircuitOpenError)) as caught:
        await desk.complete(timeout_s=2.1)

    error = caught.value
    assert "canary" not in f"{error!r} {vars(error)!r} {error.__cause__!r} {error.__context__!r}"
