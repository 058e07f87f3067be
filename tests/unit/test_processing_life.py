"""The life of an event on fakes: answered, recorded, parked, dead-lettered, left, set aside."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sluicegate.delivery.dispatcher import Slot, Verdict
from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.events.timestamps import format_rfc3339
from sluicegate.limiter.api import NOTHING
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Failed, Halted, Outcome, Reason, Rejected, Throttled
from sluicegate.records import Origin, Record
from sluicegate.retry.headers import parse_retry_headers
from sluicegate.state.api import Copy, EndKind, Lease
from tests.unit.processing_world import START_MS, World, answer, headers_of, value_of
from tests.waiting import wait_until

REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)


def world_with(*outcomes: Outcome, **environ: str) -> World:
    """Return a world whose provider gives the outcomes in turn and then answers."""
    left = list(outcomes)
    return World(script=lambda request: left.pop(0) if left else answer(), environ=environ)


async def test_an_answered_event_is_published_with_its_envelope_and_acked() -> None:
    """A customer's message ends as one result that names its event, its origin and its cause."""
    world = World()
    record = world.chat(headers=(("ce_id", b"e-1"), ("ce_source", b"/s"), ("ce_type", b"t")))

    assert await world.deliver(record) is Verdict.ACK

    (published,) = world.results
    headers = headers_of(published)
    assert published.key == b"c-1"
    assert value_of(published)["reply"] == "an answer"
    assert value_of(published)["usage"]["input_tokens"] == 10
    assert headers["ce_type"] == "sluicegate.support-chat.reply.v1"
    assert headers["ce_causationid"] == "e-1"
    assert headers["ce_id"] == world.reader.read(record).ref.identity
    assert headers["retry-origin-topic"] == "support-chat"
    assert headers["retry-origin-partition"] == "3"
    assert headers["retry-origin-offset"] == "0"
    assert headers["retry-origin-timestamp-ms"] == str(START_MS)


async def test_an_event_without_an_envelope_is_its_origin_to_others() -> None:
    """Bare JSON has no id of its own: its place stands in, and a null key's id field keys the result."""
    world = World()

    await world.deliver(world.chat(key=None))

    assert headers_of(world.results[0])["ce_causationid"] == "support-chat/3/0"
    assert world.results[0].key == b"c-1"
    assert world.count("repairs", stream="support-chat", kind="null-key") == 1


async def test_an_agents_message_is_recorded_and_seen_by_the_next_answer() -> None:
    """An agent's message publishes nothing and stands in the history that a later answer is given."""
    world = World()

    assert await world.deliver(world.chat("we are open till six", speaker="agent")) is Verdict.ACK
    assert world.publisher.records == []
    await world.deliver(world.chat("until when?", turn=1))

    texts = [(message.role, message.text) for message in world.caller.requests[0].messages]
    assert texts[1:] == [("assistant", "we are open till six"), ("user", "until when?")]
    assert world.count("events_ended", stream="support-chat", kind="recorded") == 1


async def test_a_record_delivered_again_after_its_end_is_stale() -> None:
    """A repeated delivery of an ended event is acked, publishes nothing and pays nothing."""
    world = World()
    record = world.chat()
    await world.deliver(record)

    assert await world.deliver(record) is Verdict.ACK

    assert len(world.results) == 1
    assert len(world.caller.requests) == 1
    assert world.count("stale_copies", stream="support-chat") == 1


async def test_a_refused_event_is_parked_on_its_origins_partition() -> None:
    """A 429 that asks for a minute sends a copy to a tier: same record and partition, absolute due time."""
    world = world_with(REFUSED)
    record = world.chat(headers=(("x-tenant", b"acme"), ("retry-attempt", b"77")))

    assert await world.deliver(record) is Verdict.ACK

    (copy,) = world.parked
    retry = parse_retry_headers(copy.headers, now_ms=world.clock.ms, horizon_s=1e6)
    assert retry is not None
    assert (copy.key, copy.value, copy.partition) == (record.key, record.value, 3)
    assert copy.topic == "sluicegate.support-chat.retry.3"
    assert 60_000 <= retry.due_at_ms - world.clock.ms <= 66_000
    assert (retry.attempt, retry.deferrals, retry.tier) == (2, 0, 3)
    assert retry.copy.replaces == "input"
    assert retry.copy.id.startswith("1-")
    assert (retry.source, retry.reason, retry.http_status) == ("retry-after", "rate-limited", 429)
    assert retry.first_failed_at_ms == START_MS
    assert headers_of(copy)["x-tenant"] == "acme"
    assert world.limiter.blocked_for_s() == 60.0
    assert world.results == []


async def test_a_parked_event_is_answered_when_it_is_due() -> None:
    """The released copy runs with its next attempt's number, ends once, and its input record is stale."""
    world = world_with(REFUSED)
    record = world.chat()
    await world.deliver(record)
    world.advance(70)

    assert await world.deliver(world.due_record(world.parked[0])) is Verdict.ACK
    assert await world.deliver(record) is Verdict.ACK

    assert len(world.results) == 1
    identity = world.reader.read(record).ref.identity
    assert [request.request_id for request in world.caller.requests] == [
        f"{identity}/reply/1",
        f"{identity}/reply/2",
    ]
    assert world.count("stale_copies", stream="support-chat") == 1


async def test_a_copy_released_twice_is_answered_once() -> None:
    """A relay that crashed before its commit releases a copy again: the second one is stale."""
    world = world_with(REFUSED)
    await world.deliver(world.chat())
    world.advance(70)

    await world.deliver(world.due_record(world.parked[0]))
    await world.deliver(world.due_record(world.parked[0]))

    assert len(world.results) == 1


async def test_a_short_refusal_is_retried_in_place() -> None:
    """A 429 whose Retry-After fits the in-place budget keeps the slot and parks nothing."""
    world = world_with(Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=1.0))

    await world.deliver(world.chat())

    assert world.parked == []
    assert len(world.results) == 1
    assert world.pauses.waits == [1.5]


@pytest.mark.parametrize(
    ("outcome", "blocked_for_s"),
    [
        (Throttled(reason=Reason.RATE_LIMITED, http_status=429), 1.0),
        (Throttled(reason=Reason.OVERLOADED, http_status=529), 0.0),
        (Throttled(reason=Reason.OVERLOADED, http_status=503, retry_after_s=60.0), 60.0),
        (Halted(reason=Reason.MONEY, http_status=429), 0.0),
        (Failed(reason=Reason.TIMEOUT, counts=True, on_the_wire=True), 0.0),
    ],
)
async def test_a_refusal_blocks_the_scope_only_as_far_as_it_speaks_for_it(
    outcome: Outcome, blocked_for_s: float
) -> None:
    """A rate limit blocks for all, a capacity error only when it names a time, nothing else blocks."""
    world = world_with(outcome)
    world.pauses.is_draining = True  # it goes no further than its first call

    await world.deliver(world.chat())

    assert world.limiter.blocked_for_s() == blocked_for_s


async def test_a_halted_scope_parks_without_counting_an_attempt_to_the_limit() -> None:
    """No credit is nobody's fault: the event waits in a tier and comes no nearer to its end."""
    world = world_with(Halted(reason=Reason.MONEY, http_status=429))

    await world.deliver(world.chat())

    retry = parse_retry_headers(world.parked[0].headers, now_ms=world.clock.ms, horizon_s=1e6)
    assert retry is not None
    assert (retry.source, retry.counted_failures, retry.reason) == ("backoff", 0, "money")


async def test_an_event_that_was_never_refused_waits_for_its_permit_however_long() -> None:
    """A blocked scope is never a reason to park an event that was not itself refused."""
    world = World()
    world.limiter.block(3600)
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: world.limiter.waiting == 1)

    world.advance(3600)

    assert await work is Verdict.ACK
    assert world.parked == []
    assert world.limiter.asked[0].patience_s is None


async def test_a_refused_event_whose_scope_stays_blocked_is_deferred() -> None:
    """A due copy that meets a long block goes back to a tier: no attempt, one deferral more."""
    world = world_with(REFUSED)
    await world.deliver(world.chat())
    world.advance(70)
    world.limiter.block(600)

    assert await world.deliver(world.due_record(world.parked[0])) is Verdict.ACK

    retry = parse_retry_headers(world.parked[1].headers, now_ms=world.clock.ms, horizon_s=1e6)
    assert retry is not None
    assert (retry.source, retry.attempt, retry.deferrals) == ("reservation", 2, 1)
    assert retry.reason == "rate-limited"
    assert retry.due_at_ms - world.clock.ms >= 600_000
    assert len(world.caller.requests) == 1
    assert world.limiter.asked[-1].patience_s == 5.0
    assert world.limiter.asked[-1].is_retry


async def test_a_follower_parks_behind_its_parked_predecessor() -> None:
    """The next event of the key waits behind the parked one: no call, no attempt, one deferral."""
    world = world_with(REFUSED)
    await world.deliver(world.chat("first"))
    follower = world.chat("second", turn=1)

    assert await world.deliver(follower) is Verdict.ACK

    first, second = (
        parse_retry_headers(copy.headers, now_ms=world.clock.ms, horizon_s=1e6) for copy in world.parked
    )
    assert first is not None
    assert second is not None
    assert second.source == "predecessor"
    assert (second.attempt, second.deferrals) == (1, 1)
    assert second.due_at_ms >= first.due_at_ms
    assert len(world.caller.requests) == 1


async def test_a_follower_is_set_aside_while_its_predecessor_waits_here() -> None:
    """When the predecessor's copy waits in this lane, the follower goes back into it instead of a tier."""
    world = world_with(REFUSED)
    await world.deliver(world.chat("first"))
    follower = world.chat("second", turn=1)
    item = world.item(follower)
    world.waiting_here.add((item.lane, 0))

    assert await world.processor.work(item, Slot(item)) is Verdict.SET_ASIDE

    assert len(world.parked) == 1
    assert len(world.lines) == 1


async def test_a_dead_letters_follower_says_so_in_its_result() -> None:
    """The first result of the key after a dead letter names it and is counted; the next one does not."""
    world = world_with(Rejected(reason=Reason.CONTENT_REFUSED, http_status=400))
    await world.deliver(world.chat("first"))

    await world.deliver(world.chat("second", turn=1))
    await world.deliver(world.chat("third", turn=2))

    second, third = (headers_of(result) for result in world.results)
    assert second["predecessor-dead-lettered"] == "0"
    assert "predecessor-dead-lettered" not in third
    assert world.count("repairs", stream="support-chat", kind="predecessor-dead-lettered") == 1


async def test_a_rejected_call_ends_its_event_with_the_providers_reason() -> None:
    """What the provider will never take becomes a dead letter: original record, reason, status, origin."""
    world = world_with(Rejected(reason=Reason.CONTENT_REFUSED, http_status=400))
    record = world.chat(headers=(("ce_id", b"e-1"), ("ce_source", b"/s"), ("ce_type", b"t")))

    assert await world.deliver(record) is Verdict.ACK

    (letter,) = world.letters
    headers = headers_of(letter)
    assert (letter.key, letter.value) == (record.key, record.value)
    assert headers["dlq-reason"] == "content-refused"
    assert headers["retry-http-status"] == "400"
    assert headers["retry-attempt"] == "1"
    assert headers["retry-origin-offset"] == "0"
    assert (headers["ce_id"], headers["ce_causationid"]) == ("e-1", "e-1")
    assert world.count("dead_letters", stream="support-chat", reason="content-refused") == 1


async def test_a_rejection_after_retries_in_place_tells_the_number_of_its_call() -> None:
    """The dead letter's attempt is the rejected call's, not the first one of the delivery."""
    busy = Throttled(reason=Reason.OVERLOADED, http_status=529)
    world = world_with(busy, busy, Rejected(reason=Reason.CONTENT_REFUSED, http_status=400))

    await world.deliver(world.chat())

    headers = headers_of(world.letters[0])
    assert headers["retry-attempt"] == "3"
    assert headers["retry-first-failed-at-ms"] == str(START_MS)
    assert len(world.caller.requests) == 3


async def test_failures_that_count_end_an_event_after_max_attempts() -> None:
    """The last allowed failure is a dead letter; the reason generalises, the cause is kept."""
    broken = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500)
    world = world_with(*[broken] * 9, SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS="2")

    await world.deliver(world.chat())

    headers = headers_of(world.letters[0])
    assert headers["dlq-reason"] == "attempts-exhausted"
    assert headers["retry-reason"] == "server-error"
    assert headers["retry-attempt"] == "2"
    assert len(world.caller.requests) == 2


async def test_a_call_larger_than_the_limit_ends_its_event() -> None:
    """No wait can help a call that fits no bucket."""
    world = World()
    world.limiter._largest_tokens = 1

    await world.deliver(world.chat())

    assert headers_of(world.letters[0])["dlq-reason"] == "prompt-too-large"
    assert world.caller.requests == []


async def test_an_event_that_expired_is_not_answered() -> None:
    """Beyond expires_after_s from ce_time no call is made: a late reply can do harm."""
    world = World(environ={"SLUICEGATE_STREAMS__SUPPORT_CHAT__EXPIRES_AFTER_S": "60"})
    headers = (("ce_id", b"e"), ("ce_source", b"s"), ("ce_type", b"t"), ("ce_time", b"2023-11-14T22:12:00Z"))

    await world.deliver(world.chat(headers=headers))

    assert headers_of(world.letters[0])["dlq-reason"] == "expired"
    assert world.caller.requests == []


def expiring(*outcomes: Outcome, **environ: str) -> tuple[World, Record]:
    """Return a world whose answers are of use for a minute, and an event of this moment."""
    environ = {"SLUICEGATE_STREAMS__SUPPORT_CHAT__EXPIRES_AFTER_S": "60", **environ}
    world = world_with(*outcomes, **environ)
    time = format_rfc3339(START_MS).encode()
    headers = (("ce_id", b"e"), ("ce_source", b"s"), ("ce_type", b"t"), ("ce_time", time))
    return world, world.chat(headers=headers)


async def test_an_event_that_expires_while_it_waits_for_a_permit_makes_no_call() -> None:
    """It keeps its slot while its scope is blocked, but an hour later nobody wants the answer."""
    world, record = expiring()
    world.limiter.block(3600)
    work = asyncio.create_task(world.deliver(record))
    await wait_until(lambda: world.limiter.waiting == 1)

    world.advance(3600)

    assert await work is Verdict.ACK
    assert headers_of(world.letters[0])["dlq-reason"] == "expired"
    assert world.caller.requests == []
    assert list(world.limiter.settled.values()) == [NOTHING]


async def test_an_event_ends_at_its_expiry_and_not_when_its_permit_comes() -> None:
    """A scope that stays blocked for a day holds no slot for what is over after a minute."""
    world, record = expiring(SLUICEGATE_STREAMS__SUPPORT_CHAT__EXPIRES_AFTER_S="0.05")
    world.limiter.block(86_400)

    assert await asyncio.wait_for(world.deliver(record), 5) is Verdict.ACK

    assert headers_of(world.letters[0])["dlq-reason"] == "expired"
    assert world.limiter.waiting == 0


async def test_a_refused_event_that_would_come_back_expired_ends_at_once() -> None:
    """Whether a header or the limiter's block says how long: its tier would keep it in vain."""
    world, record = expiring(REFUSED)
    await world.deliver(record)
    assert headers_of(world.letters[0])["dlq-reason"] == "expired"

    world, record = expiring(replace(REFUSED, retry_after_s=20.0))
    await world.deliver(record)
    world.advance(25)
    world.limiter.block(600)
    await world.deliver(world.due_record(world.parked[0]))
    assert headers_of(world.letters[0])["dlq-reason"] == "expired"
    assert len(world.parked) == 1


async def test_a_deadline_counts_from_the_first_refusal_through_every_tier() -> None:
    """The copy carries the moment; the first call after the deadline that fails is the last one."""
    world = world_with(REFUSED, REFUSED, REFUSED, SLUICEGATE_STREAMS__SUPPORT_CHAT__DEADLINE_S="100")
    await world.deliver(world.chat())
    world.advance(70)
    await world.deliver(world.due_record(world.parked[0]))
    assert len(world.parked) == 2
    world.advance(70)

    await world.deliver(world.due_record(world.parked[1]))

    headers = headers_of(world.letters[0])
    assert headers["dlq-reason"] == "deadline-passed"
    assert headers["retry-first-failed-at-ms"] == str(START_MS)
    assert (headers["retry-reason"], headers["retry-attempt"]) == ("rate-limited", "3")
    assert len(world.parked) == 2


async def test_failures_count_to_max_attempts_through_every_tier() -> None:
    """Eight failures are eight wherever the event waited between them; refusals are none of them."""
    broken = Failed(
        reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500, retry_after_s=30.0
    )
    world = world_with(broken, REFUSED, broken, SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS="2")
    await world.deliver(world.chat())
    for parked in (0, 1):
        world.advance(70)
        await world.deliver(world.due_record(world.parked[parked]))

    headers = headers_of(world.letters[0])
    assert headers["dlq-reason"] == "attempts-exhausted"
    assert (headers["retry-counted-failures"], headers["retry-attempt"]) == ("2", "3")


async def test_a_cancelled_event_is_dead_lettered_without_a_call() -> None:
    """An operator's flag ends the event when it is next taken."""
    world = world_with(REFUSED)
    record = world.chat()
    await world.deliver(record)
    row = world.state.row_of(world.reader.read(record).ref)
    assert row is not None
    row.is_cancelled = True

    await world.deliver(world.due_record(world.parked[0]))

    assert headers_of(world.letters[0])["dlq-reason"] == "cancelled"
    assert len(world.caller.requests) == 1


async def test_a_publish_that_is_not_confirmed_is_repeated() -> None:
    """The broker's absence costs time, never an event."""
    world = World()
    world.publisher.failures = [PublishError("away")] * 3

    assert await world.deliver(world.chat()) is Verdict.ACK

    assert len(world.results) == 1


async def test_a_result_too_large_for_its_topic_becomes_a_dead_letter() -> None:
    """A refused result ends its event in the DLQ with the original event; it does not stop the stream."""
    world = World()
    world.publisher.refuse = lambda record: (
        RecordTooLargeError("too large") if record.topic == world.topics.results else None
    )
    record = world.chat()

    assert await world.deliver(record) is Verdict.ACK

    assert headers_of(world.letters[0])["dlq-reason"] == "result-too-large"
    assert world.letters[0].value == record.value
    row = world.state.row_of(world.item(record).payload.ref)
    assert row is not None
    assert row.kind is EndKind.DEAD_LETTER
    assert world.count("events_ended", stream="support-chat", kind="dead-letter") == 1


async def test_a_topic_that_takes_nothing_stops_the_process() -> None:
    """A refusal not about one record's size would drain the whole topic into the DLQ: it is raised."""
    world = World()
    world.publisher.refuse = lambda record: PublishRefusedError("not authorised")

    with pytest.raises(PublishRefusedError):
        await world.deliver(world.chat())

    assert world.letters == []


async def test_redis_away_is_waited_out() -> None:
    """Nothing is published or acked while the state is away; the event goes on when it is back."""
    world = World()
    world.state.is_available = False
    work = asyncio.create_task(world.deliver(world.chat()))
    await asyncio.sleep(0)

    world.state.is_available = True

    assert await work is Verdict.ACK
    assert len(world.results) == 1


async def test_an_answer_that_arrives_while_redis_is_away_is_kept() -> None:
    """The call is paid for once, though its answer could not be stored at first."""
    world = World()

    def script(request: CallRequest) -> Outcome:
        world.state.is_available = False
        return answer()

    world.caller.script = script
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: len(world.caller.requests) == 1)
    assert world.results == []

    world.state.is_available = True

    assert await work is Verdict.ACK
    assert len(world.caller.requests) == 1


async def test_a_step_on_another_worker_is_waited_for() -> None:
    """While another worker holds the step's lease no second call is made; its answer is taken."""
    world = World()
    record = world.chat()
    ref = world.reader.read(record).ref
    other = Lease(ref=ref, step="reply", owner="other")
    await world.state.begin(other, "whatever")

    assert await world.deliver(record) is Verdict.ACK

    assert sum(world.pauses.waits) == 6.0
    assert len(world.caller.requests) == 1


async def test_a_drain_lets_waiters_go_and_leaves_the_event() -> None:
    """An event that waits for quota when the process drains is neither acked nor parked nor ended."""
    world = World()
    world.limiter.block(3600)
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: world.limiter.waiting == 1)

    world.limiter.release_waiters()

    assert await work is Verdict.LEFT
    assert world.publisher.records == []
    assert world.lines[-1]["decision"] == "left"


async def test_a_drain_cuts_a_pause_before_a_retry_short() -> None:
    """An event between two tries in place is left as well."""
    world = world_with(Throttled(reason=Reason.OVERLOADED, http_status=529))
    world.pauses.is_draining = True

    assert await world.deliver(world.chat()) is Verdict.LEFT


async def test_permits_are_settled_whatever_became_of_the_call() -> None:
    """Usage is settled for an answer, the reservation kept for a refusal, nothing for what never left."""
    world = world_with(
        Throttled(reason=Reason.RATE_LIMITED, http_status=429),
        Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False),
    )

    await world.deliver_while_time_passes(world.chat())

    refused, unsent, answered = world.limiter.settled.values()
    assert refused is None
    assert unsent is not None
    assert (unsent.requests, unsent.tokens) == (0, 0)
    assert answered is not None
    assert answered.tokens == 15
    assert len(world.limiter.granted) == 3


async def test_the_log_line_says_what_happened_and_quotes_nothing() -> None:
    """One line a delivery, with its facts and without a word of what was said."""
    world = World(script=lambda request: answer("CANARY-REPLY"))

    await world.deliver(world.chat("CANARY-TEXT", headers=(("x", b"CANARY-HEADER"),)))

    (line,) = world.lines
    assert line["name"] == "delivery.done"
    assert (line["decision"], line["origin"], line["attempt"]) == ("result", "support-chat/3/0", 1)
    assert (line["input_tokens"], line["output_tokens"], line["calls"]) == (10, 5, 1)
    assert "CANARY" not in str(world.lines)


async def test_a_flushed_state_is_taken_again() -> None:
    """A row made anew between Take and the claim sends the record back to Take, not to a second end."""
    world = World()
    record = world.chat()
    ref = world.reader.read(record).ref

    async def script(request: CallRequest) -> Outcome:
        world.state.flush()
        await world.state.take(ref, Copy())
        world.caller.script = lambda request: answer()
        return answer()

    world.caller.script = script

    assert await world.deliver(record) is Verdict.ACK
    assert len(world.results) == 1
    assert ref.origin == Origin(topic="support-chat", partition=3, offset=0)
