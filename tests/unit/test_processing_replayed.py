"""What a worker does with the copies that a replay sends: the real processor, on fakes."""

from __future__ import annotations

from consumers.replay.candidates import Candidate, CandidateReader, Send, decide, outgoing
from sluicegate.delivery.dispatcher import Verdict
from sluicegate.events.models import Document
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Outcome, Reason, Rejected, Throttled
from sluicegate.processing.decoding import EventDecoder
from sluicegate.records import OutgoingRecord, Record
from sluicegate.retry.headers import ReplaySource
from tests.unit.processing_world import World, answer, headers_of

BAD = Rejected(reason=Reason.BAD_REQUEST, http_status=400)
REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)
GOOD = '{"summary": "about queues", "tags": ["queues"]}'


class JoinsBadly:
    """A provider that answers every piece, and what joins them only after the given outcomes."""

    def __init__(self, *joins: Outcome) -> None:
        self.joins = list(joins)

    def __call__(self, request: CallRequest) -> Outcome:
        """Answer one call."""
        if "/join/" in request.request_id and self.joins:
            return self.joins.pop(0)
        return answer(GOOD)


def world_with(*joins: Outcome) -> World:
    """Return a stream of documents."""
    return World(
        stream="documents", script=JoinsBadly(*joins), environ={"SLUICEGATE_RETRY__IN_PLACE_MAX_S": "1"}
    )


def document(world: World) -> Record:
    """Return a short document."""
    told: dict[str, object] = {
        "document_id": "d-1",
        "title": "Notes",
        "media_type": "text/plain",
        "text": "On queues.",
    }
    return world.record(told, key=b"d-1")


async def replayed(world: World, letter: OutgoingRecord, replay_id: str) -> OutgoingRecord:
    """Return what a replay sends for a dead letter, planned by how its event stands now."""
    reader = CandidateReader(
        source=ReplaySource.DLQ,
        decoder=EventDecoder(stream="documents", model=Document, ordered=False, max_event_bytes=900_000),
        input_topic=world.topics.input,
        partitions=12,
        horizon_s=1e6,
        max_replays=5,
    )
    record = world.record(letter.value, key=letter.key, headers=letter.headers, topic=world.topics.dlq)
    found = reader.read(record, world.clock.ms)
    assert isinstance(found, Candidate)
    (standing,) = await world.state.standings([found.ref])
    decision = decide(found, standing, replay_id, ReplaySource.DLQ)
    assert isinstance(decision, Send), decision
    return outgoing(
        record,
        found,
        decision.copy,
        replay_id=replay_id,
        source=ReplaySource.DLQ,
        due_topic=world.topics.due,
        now_ms=world.clock.ms,
    )


async def test_a_replayed_event_is_answered_and_pays_only_for_what_it_had_not_paid() -> None:
    """It may be refused and parked on the way, and its copies be delivered again: one result."""
    world = world_with(BAD, REFUSED)
    record = document(world)
    await world.deliver(record)
    sent = await replayed(world, world.letters[0], "r-1")

    assert await world.deliver(world.due_record(sent)) is Verdict.ACK
    parked = headers_of(world.parked[0])
    assert await world.deliver(world.due_record(sent)) is Verdict.ACK  # sent twice by a killed run
    world.advance(70)
    await world.deliver(world.due_record(world.parked[0]))
    await world.deliver(record)

    assert (parked["replay-id"], parked["replay-count"], parked["replay-source"]) == ("r-1", "1", "dlq")
    assert (parked["retry-attempt"], parked["retry-replaces"]) == ("2", headers_of(sent)["retry-copy"])
    assert (len(world.results), len(world.letters), len(world.parked)) == (1, 1, 1)
    assert set(world.caller.paid.values()) == {1}
    assert not world.state.open_origins(world.reader.read(record).ref)


async def test_an_event_that_dies_again_tells_how_often_it_was_sent_back() -> None:
    """Another replay may send it once more, until the maximum; each death is one letter."""
    world = world_with(BAD, BAD)
    await world.deliver(document(world))
    first = await replayed(world, world.letters[0], "r-1")
    await world.deliver(world.due_record(first))
    second = await replayed(world, world.letters[1], "r-2")
    await world.deliver(world.due_record(first))
    await world.deliver(world.due_record(second))

    died = headers_of(world.letters[1])
    assert (died["replay-id"], died["replay-count"], died["replay-source"]) == ("r-1", "1", "dlq")
    assert (died["dlq-reason"], died["retry-copy"]) == ("bad-request", headers_of(first)["retry-copy"])
    assert headers_of(second)["replay-count"] == "2"
    assert (len(world.letters), len(world.results)) == (2, 1)
    assert set(world.caller.paid.values()) == {1}
