"""An open circuit on fakes: nothing dies of it, nothing goes round through Kafka, and one call ends it."""

from __future__ import annotations

import asyncio

import pytest

from sluicegate.delivery.dispatcher import Verdict
from sluicegate.limiter.api import REFUSED, Ask, Cost, Lane, Permit, Signal, SignalKind
from sluicegate.limiter.profiles import Profile
from sluicegate.llm.outcomes import Failed, Halted, Outcome, QuotaKind, QuotaReport, Reason, Throttled
from sluicegate.records import OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, RetrySource, parse_retry_headers
from tests.unit.processing_world import World, answer, headers_of
from tests.waiting import wait_until

NO_MONEY = Halted(reason=Reason.MONEY, http_status=429)
BROKEN = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500)
ONE_ATTEMPT = {"SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS": "1"}


def world_with(*outcomes: Outcome, environ: dict[str, str] | None = None) -> World:
    """Return a world whose provider gives the outcomes in turn and then answers."""
    left = list(outcomes)
    return World(script=lambda request: left.pop(0) if left else answer(), environ=environ or {})


def retry_of(world: World, copy: OutgoingRecord) -> RetryHeaders:
    """Return what a parked copy says of itself."""
    retry = parse_retry_headers(copy.headers, now_ms=world.clock.ms, horizon_s=1e6)
    assert retry is not None
    return retry


async def other_events_fail(world: World, calls: int) -> None:
    """Let that many calls of five other events fail, half a second apart."""
    for number in range(calls):
        ask = Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=0)
        permit = await world.limiter.acquire(ask)
        assert isinstance(permit, Permit)
        world.limiter.settle(permit, None)
        signal = Signal(kind=SignalKind.DOWN, reason="server-error", event=f"other-{number % 5}")
        await world.limiter.report(permit, signal)
        world.advance(0.5)


async def test_no_credit_opens_the_circuit_and_its_event_is_parked() -> None:
    """The event whose call found out backs off, is counted to nothing, and no block is set."""
    world = world_with(NO_MONEY, environ=ONE_ATTEMPT)

    assert await world.deliver(world.chat()) is Verdict.ACK

    circuit = world.limiter.circuit()
    assert circuit is not None
    assert circuit.reason == "money"
    assert world.limiter.blocked_for_s() == 0
    retry = retry_of(world, world.parked[0])
    assert (retry.source, retry.counted_failures) == (RetrySource.BACKOFF, 0)
    assert world.letters == []


async def test_a_parked_event_that_meets_the_open_circuit_waits_in_its_slot() -> None:
    """It is not parked again with every probe: it waits, probes when it is time, and is answered."""
    world = world_with(NO_MONEY, environ={"SLUICEGATE_RETRY__IN_PLACE_MAX_S": "2"})
    await world.deliver(world.chat())
    world.advance(1)
    work = asyncio.create_task(world.deliver(world.due_record(world.parked[0])))
    await wait_until(lambda: world.limiter.waiting == 1)
    assert [ask.patience_s for ask in world.limiter.asked] == [None, 2.0, None]

    world.advance(4)

    assert await work is Verdict.ACK
    assert len(world.parked) == 1
    assert len(world.results) == 1
    assert world.limiter.granted[-1].is_probe
    assert world.limiter.circuit() is None


async def test_a_fresh_event_waits_for_the_circuit_however_long() -> None:
    """Nothing of it failed: it keeps its slot, also through probes of others that fail."""
    world = World()
    world.limiter.open_circuit()
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: world.limiter.waiting == 1)
    world.limiter.close_circuit()
    assert await work is Verdict.ACK
    assert len(world.results) == 1


async def test_one_of_many_waiting_events_probes_and_the_rest_follow_its_success() -> None:
    """While the probe is on the wire nobody else calls; afterwards all do."""
    arrived = asyncio.Event()

    async def slow() -> Outcome:
        await arrived.wait()
        return answer()

    world = World(script=lambda request: slow())
    world.limiter.open_circuit()
    work = [asyncio.create_task(world.deliver(world.chat(key=f"c-{number}".encode()))) for number in range(3)]
    await wait_until(lambda: world.limiter.waiting == 3)
    await world.time_passes(5)
    await wait_until(lambda: len(world.caller.requests) == 1)
    assert world.limiter.waiting == 2

    arrived.set()

    assert await asyncio.gather(*work) == [Verdict.ACK] * 3
    assert [permit.is_probe for permit in world.limiter.granted] == [True, False, False]


async def test_a_probe_that_fails_parks_its_event_until_the_next_one_at_least() -> None:
    """The event failed here, so it does not sit the circuit out: a reservation, and no attempt used up."""
    world = world_with(BROKEN, environ=ONE_ATTEMPT)
    world.limiter.open_circuit("server-error", is_outage=True)

    await world.deliver_while_time_passes(world.chat())

    retry = retry_of(world, world.parked[0])
    assert (retry.source, retry.reason) == (RetrySource.RESERVATION, "server-error")
    assert (retry.attempt, retry.counted_failures) == (2, 0)
    circuit = world.limiter.circuit()
    assert circuit is not None
    assert retry.due_at_ms - world.clock.ms >= circuit.next_probe_s * 1000
    assert world.letters == []


async def test_the_failure_that_opens_the_circuit_is_not_counted_either() -> None:
    """The twentieth call of an outage is no more to blame than the twenty-first."""
    world = world_with(BROKEN, environ=ONE_ATTEMPT)
    await other_events_fail(world, 19)
    assert world.limiter.circuit() is None

    await world.deliver_while_time_passes(world.chat())

    assert [permit.is_probe for permit in world.limiter.granted[19:]] == [False]
    assert world.letters == []
    retry = retry_of(world, world.parked[0])
    assert (retry.attempt, retry.counted_failures) == (2, 0)


async def test_a_failure_while_the_circuit_is_closed_counts() -> None:
    """One bad event, or a provider that fails now and then, ends by its attempts as ever."""
    world = world_with(BROKEN, environ=ONE_ATTEMPT)

    await world.deliver(world.chat())

    assert headers_of(world.letters[0])["dlq-reason"] == "attempts-exhausted"


async def test_a_malformed_answer_shows_that_the_provider_is_there() -> None:
    """It counts against its event, and between failures of others it keeps the circuit closed."""
    malformed = Failed(reason=Reason.MALFORMED_ANSWER, counts=True, on_the_wire=True, http_status=200)
    world = world_with(malformed, environ=ONE_ATTEMPT)
    await other_events_fail(world, 19)

    await world.deliver(world.chat())
    await other_events_fail(world, 19)

    assert world.limiter.circuit() is None
    assert headers_of(world.letters[0])["dlq-reason"] == "attempts-exhausted"


async def test_every_call_tells_what_it_showed_and_what_its_headers_said() -> None:
    """One signal a call, under the event's identity; the headers' quotas go with the settlement."""
    quota = QuotaReport(kind=QuotaKind.REQUESTS, limit=60, remaining=1)
    refused = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=1.0, quotas=(quota,))
    world = world_with(refused)
    record = world.chat()

    await world.deliver_while_time_passes(record)

    identity = world.reader.read(record).ref.identity
    assert world.limiter.signals == [
        Signal(kind=SignalKind.RATE_LIMITED, reason="rate-limited", retry_after_s=1.0, event=identity),
        Signal(kind=SignalKind.ALIVE, reason="completed", event=identity),
    ]
    assert list(world.limiter.quotas.values()) == [(quota,), ()]


@pytest.mark.parametrize(
    ("status", "profile", "settled"),
    [
        (429, Profile.ANTHROPIC, REFUSED),
        (200, Profile.ANTHROPIC, None),
        (429, Profile.OPENAI, None),
    ],
)
async def test_a_refused_call_gives_back_what_its_provider_does_not_count(
    status: int, profile: Profile, settled: Cost | None
) -> None:
    """Anthropic counts no token of it; an overload inside a 200 has been worked on."""
    left: list[Outcome] = [Throttled(reason=Reason.OVERLOADED, http_status=status)]
    world = World(script=lambda request: left.pop() if left else answer(), profile=profile)

    await world.deliver_while_time_passes(world.chat())

    refused, completed = world.limiter.settled.values()
    assert refused == settled
    assert completed is not None


async def test_a_completed_calls_usage_is_learnt_for_its_route() -> None:
    """Prompt size, longest answer and usage; a refused call teaches nothing."""
    world = world_with(Throttled(reason=Reason.OVERLOADED, http_status=529))

    await world.deliver_while_time_passes(world.chat("hello"))

    (lesson,) = world.costs.lessons
    prompt_bytes, max_output_tokens, usage = lesson
    assert prompt_bytes == sum(len(message.text.encode()) for message in world.caller.requests[0].messages)
    assert (max_output_tokens, usage) == (world.own.max_output_tokens, answer().usage)


async def test_an_ask_names_its_tenant() -> None:
    """So that tenants can take turns."""
    world = World()

    await world.deliver(
        world.record(
            {"conversation_id": "c-1", "turn": 0, "speaker": "customer", "text": "", "tenant": "t-1"}
        )
    )

    assert [ask.tenant for ask in world.limiter.asked] == ["t-1"]
