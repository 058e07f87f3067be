"""Records into deliveries, and bad records into dead letters that keep every byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.delivery.dispatcher import Verdict
from sluicegate.errors import PublishRefusedError, RecordTooLargeError
from sluicegate.llm.outcomes import Reason, Throttled
from sluicegate.processing.reading import BadDelivery, Delivery
from sluicegate.records import Headers, Origin
from tests.unit.processing_world import World, headers_of

GOOD: dict[str, object] = {"conversation_id": "c-1", "turn": 0, "speaker": "customer", "text": "hi"}
COPY: Headers = (
    ("retry-origin-topic", b"support-chat"),
    ("retry-origin-partition", b"3"),
    ("retry-origin-offset", b"41"),
    ("retry-origin-timestamp-ms", b"1600000000000"),
    ("retry-copy", b"2-abc"),
    ("retry-replaces", b"1-xyz"),
    ("retry-attempt", b"4"),
    ("retry-due-at-ms", b"1700000000000"),
)


def replaced(name: str, value: bytes) -> Headers:
    """Return a copy's headers with one of them changed."""
    return tuple((key, value if key == name else old) for key, old in COPY)


def test_retry_headers_mean_nothing_on_the_input() -> None:
    """Whoever publishes may have copied them from a result: the record is its own origin."""
    world = World()

    delivery = world.reader.read(world.record(GOOD, headers=COPY))

    assert isinstance(delivery, Delivery)
    assert delivery.ref.origin == Origin(topic="support-chat", partition=3, offset=0)
    assert (delivery.copy.is_input, delivery.attempt) == (True, 1)


def test_a_due_record_is_the_event_that_its_headers_name() -> None:
    """Origin, copy and attempt come from the headers that we wrote."""
    world = World()

    delivery = world.reader.read(world.record(GOOD, headers=COPY, topic=world.topics.due))

    assert isinstance(delivery, Delivery)
    assert delivery.ref.origin == Origin(topic="support-chat", partition=3, offset=41)
    assert (delivery.copy.id, delivery.copy.replaces, delivery.attempt) == ("2-abc", "1-xyz", 4)
    assert delivery.origin_timestamp_ms == 1_600_000_000_000


@pytest.mark.parametrize(("source", "ordered"), [(b"dlq", False), (b"retry", True)])
def test_only_what_came_back_from_the_dlq_is_out_of_order(source: bytes, ordered: bool) -> None:
    """Its followers went on long ago; what is sent ahead of its due time keeps its place."""
    world = World()
    headers = (*COPY, ("replay-id", b"r-1"), ("replay-count", b"1"), ("replay-source", source))

    delivery = world.reader.read(world.record(GOOD, headers=headers, topic=world.topics.due))

    assert delivery.ref.ordered is ordered
    assert not delivery.copy.is_replay


@pytest.mark.parametrize(
    "headers",
    [
        (),
        replaced("retry-origin-topic", b"someone-elses"),
        replaced("retry-origin-partition", b"4"),
        replaced("retry-origin-offset", b"-1"),
    ],
)
async def test_a_due_record_of_a_foreign_origin_is_a_dead_letter(headers: Headers) -> None:
    """A copy that names another topic or partition would break another event's protocol."""
    world = World()

    assert await world.deliver(world.record(GOOD, headers=headers, topic=world.topics.due)) is Verdict.ACK

    assert headers_of(world.letters[0])["dlq-reason"] == "bad-envelope"
    assert world.caller.requests == []


@given(value=st.binary(max_size=60), key=st.none() | st.binary(max_size=20))
def test_no_record_makes_reading_raise(value: bytes, key: bytes | None) -> None:
    """Whatever bytes come, they are an event or a bad record with a reason."""
    world = _WORLD

    delivered = world.reader.read(world.record(value, key=key))

    assert isinstance(delivered, (Delivery, BadDelivery))


_WORLD = World()


def test_input_and_due_share_a_lane_and_a_key_that_is_no_text_has_one() -> None:
    """A key's events run one at a time, wherever they come from; bytes that are no UTF-8 are a key too."""
    world = World()

    fresh = world.reader.read(world.record(GOOD, key=b"\xff\x00"))
    due = world.reader.read(world.record(GOOD, key=b"\xff\x00", headers=COPY, topic=world.topics.due))

    assert fresh.lane == due.lane
    assert fresh.lane != world.reader.read(world.record(GOOD, key=b"\xfe\x00")).lane


def test_a_null_key_has_the_lane_of_its_id_field() -> None:
    """Within its partition a record without a key stands with those that have it."""
    world = World()

    keyed, unkeyed = world.record(GOOD, key=b"c-1"), world.record(GOOD, key=None)

    assert world.reader.read(keyed).lane == world.reader.read(unkeyed).lane


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"\xff\xfe{", "not-utf8"),
        (b"{", "not-json"),
        (b"[]", "wrong-schema"),
        (b'{"conversation_id": "c", "turn": "0", "speaker": "customer", "text": "x"}', "wrong-schema"),
        (b" " * 900_001, "too-large"),
    ],
)
async def test_a_bad_record_is_a_dead_letter_with_its_bytes_and_headers(
    value: bytes | None, reason: str
) -> None:
    """What can never be an event goes to the DLQ as it came, with the reason, and is acked."""
    world = World()
    headers = (("x-dup", b"1"), ("x-dup", b"2"), ("x-bytes", b"\xff\x00"))

    assert await world.deliver(world.record(value, headers=headers)) is Verdict.ACK

    (letter,) = world.letters
    assert (letter.key, letter.value) == (b"c-1", value)
    assert letter.headers[:3] == headers
    own = dict(letter.headers[3:])
    assert own["dlq-reason"].decode() == reason
    assert own["retry-origin-offset"] == b"0"
    assert own["ce_causationid"] == b"support-chat/3/0"
    assert world.count("dead_letters", stream="support-chat", reason=reason) == 1


async def test_a_schema_fault_names_the_field_and_no_content() -> None:
    """The DLQ's reader learns where to look."""
    world = World()

    await world.deliver(world.record({**GOOD, "turn": "CANARY"}))

    headers = headers_of(world.letters[0])
    assert headers["dlq-where"] == "turn"
    assert not any("CANARY" in value for value in headers.values())


async def test_a_tombstone_without_a_key_can_be_published() -> None:
    """Clients refuse a record without key and value: its letter has an empty value, and says why."""
    world = World()

    await world.deliver(world.record(None, key=None))

    assert (world.letters[0].key, world.letters[0].value) == (None, b"")


async def test_a_bad_record_heeds_no_gate() -> None:
    """A bad record behind a parked event of its key neither waits for it nor holds up its followers."""

    refused = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)
    world = World(script=lambda request: refused)
    await world.deliver(world.chat())
    bad = world.record(b"{")

    assert await world.deliver(bad) is Verdict.ACK

    assert len(world.letters) == 1
    assert world.reader.read(bad).lane != world.reader.read(world.chat()).lane


async def test_a_bad_record_delivered_again_is_stale() -> None:
    """A redelivered bad record is not written to the DLQ twice."""
    world = World()
    record = world.record(b"{")
    await world.deliver(record)

    await world.deliver(record)

    assert len(world.letters) == 1


async def test_a_letter_too_large_for_the_dlq_is_a_stub_that_says_so() -> None:
    """Its head is kept, with how large it was and how many headers were dropped."""
    world = World()
    world.publisher.refuse = lambda record: (
        RecordTooLargeError("too large") if len(record.value or b"") > 100_000 else None
    )
    headers = (("x-small", b"1"), ("x-large", b"h" * 20_000))

    assert await world.deliver(world.record(b"x" * 950_000, headers=headers)) is Verdict.ACK

    (letter,) = world.letters
    said = headers_of(letter)
    assert letter.value == b"x" * 65_536
    assert said["dlq-original-bytes"] == "950000"
    assert said["dlq-dropped-headers"] == "1"
    assert (said["x-small"], said["dlq-reason"]) == ("1", "too-large")
    assert "x-large" not in said


async def test_a_dlq_that_takes_not_even_a_stub_stops_the_process() -> None:
    """Nothing is acked that is kept nowhere."""
    world = World()
    world.publisher.refuse = lambda record: RecordTooLargeError("too large")

    with pytest.raises(PublishRefusedError):
        await world.deliver(world.record(b"{"))
