"""A stream with a second provider: what its own refuses goes on there, and the result says so."""

from __future__ import annotations

import orjson
import pytest

from sluicegate.delivery.dispatcher import Verdict
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Failed, Halted, Outcome, Reason, Throttled
from sluicegate.processing.answers import decode_answer, encode_answer
from sluicegate.retry.headers import RetrySource, parse_retry_headers
from tests.unit.processing_world import Script, World, answer, headers_of, value_of

REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)
NO_MONEY = Halted(reason=Reason.MONEY, http_status=429)


def always(outcome: Outcome) -> Script:
    """Return a provider that gives one outcome."""
    return lambda request: outcome


async def test_the_own_provider_answers_while_it_can() -> None:
    """The backup is not called, and the result names the route."""
    world = World(backup_script=always(answer("from the backup")))

    await world.deliver(world.chat())

    assert world.backup_caller.requests == []
    assert value_of(world.results[0])["route"] == "main"
    assert headers_of(world.results[0])["llm-routes"] == "main"


@pytest.mark.parametrize("outcome", [REFUSED, NO_MONEY])
async def test_what_the_own_provider_refuses_is_answered_by_the_backup_in_place(outcome: Outcome) -> None:
    """Nothing is parked and nothing waits: the next attempt goes to the backup, with the backup's model."""
    world = World(script=always(outcome), backup_script=always(answer("from the backup")))
    record = world.chat()

    assert await world.deliver(record) is Verdict.ACK

    identity = world.reader.read(record).ref.identity
    assert [request.request_id for request in world.caller.requests] == [f"{identity}/reply/1"]
    (call,) = world.backup_caller.requests
    assert (call.request_id, call.model) == (f"{identity}/reply/2", "backup-model")
    assert world.parked == []
    assert world.pauses.waits == [0.0]
    assert value_of(world.results[0])["reply"] == "from the backup"
    assert value_of(world.results[0])["route"] == "backup"
    assert headers_of(world.results[0])["llm-routes"] == "backup"


async def test_a_short_refusal_is_waited_out_at_the_own_provider() -> None:
    """A wait below fallback_after_s is no reason to go elsewhere."""
    left = [Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=1.0)]
    world = World(script=lambda request: left.pop() if left else answer(), backup_script=always(answer("no")))

    await world.deliver_while_time_passes(world.chat())

    assert world.backup_caller.requests == []
    assert len(world.caller.requests) == 2


async def test_an_event_that_every_route_refused_is_parked() -> None:
    """With no route open, the wait that the last one asked for decides as ever."""
    world = World(script=always(REFUSED), backup_script=always(REFUSED))

    await world.deliver(world.chat())

    (copy,) = world.parked
    retry = parse_retry_headers(copy.headers, now_ms=world.clock.ms, horizon_s=1e6)
    assert retry is not None
    assert (retry.source, retry.attempt) == (RetrySource.RETRY_AFTER, 3)
    assert (len(world.caller.requests), len(world.backup_caller.requests)) == (1, 1)


async def test_a_route_whose_circuit_is_open_is_passed_over() -> None:
    """Fresh events go to the backup without a try at the closed one."""
    world = World(backup_script=always(answer()))
    world.limiter.open_circuit()

    await world.deliver(world.chat())

    assert world.caller.requests == []
    assert len(world.backup_caller.requests) == 1


async def test_an_event_whose_failure_opened_the_circuit_goes_on_at_the_backup() -> None:
    """In an outage of the own provider nothing waits and nothing is counted while another one is open."""
    broken = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500)
    world = World(
        script=always(broken),
        backup_script=always(answer()),
        environ={"SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS": "1"},
    )
    world.limiter.open_circuit(is_outage=True)
    world.advance(5)  # so that this event makes the probe

    await world.deliver(world.chat())

    assert (len(world.caller.requests), len(world.backup_caller.requests)) == (1, 1)
    assert world.pauses.waits == [0.0]
    assert world.letters == []
    assert len(world.results) == 1


async def test_each_route_has_its_own_account() -> None:
    """A call is booked, settled and reported where it went, and nowhere else."""
    world = World(script=always(REFUSED), backup_script=always(answer()))

    await world.deliver(world.chat())

    for limiter, kind in ((world.limiter, "rate-limited"), (world.backup_limiter, "alive")):
        assert len(limiter.granted) == len(limiter.settled) == 1
        assert [signal.kind for signal in limiter.signals] == [kind]


async def test_an_answer_of_the_backup_is_paid_once() -> None:
    """Remembered under the stream's own model, it is found again whichever route is open by then."""
    chunk = orjson.dumps({"summary": "about", "tags": ["a"]}).decode()

    def backup(request: CallRequest) -> Outcome:
        return REFUSED if "/join/" in request.request_id else answer(chunk)

    world = World(stream="documents", script=always(answer(chunk)), backup_script=backup)
    world.limiter.open_circuit()
    document: dict[str, object] = {"document_id": "d", "title": "t", "media_type": "text/plain", "text": "x"}
    await world.deliver(world.record(document, key=b"d"))
    assert len(world.parked) == 1
    world.advance(70)
    world.limiter.close_circuit()

    await world.deliver(world.due_record(world.parked[0]))

    assert [request.request_id.split("/")[1] for request in world.caller.requests] == ["join"]
    assert [request.request_id.split("/")[1] for request in world.backup_caller.requests] == [
        "chunk-0",
        "join",
    ]
    assert headers_of(world.results[0])["llm-routes"] == "backup,main"
    assert value_of(world.results[0])["routes"] == ["backup", "main"]
    assert world.count("repairs", stream="documents", kind="step-mismatch") == 0


def test_an_answer_stored_before_there_were_routes_is_read() -> None:
    """It names none."""
    stored = orjson.loads(encode_answer(answer("kept"), "backup"))
    del stored["route"]
    completion = decode_answer(orjson.dumps(stored))
    assert (completion.text, completion.route) == ("kept", "")
    assert decode_answer(encode_answer(answer("kept"), "backup")).route == "backup"
