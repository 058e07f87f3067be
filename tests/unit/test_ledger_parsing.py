"""The ledger's own reading of records, commits and the simulator's answer."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.local.ledger import EndedAs
from sluicegate.local.ledger.parsing import StreamRules, read_copy, read_ended, read_progress, read_published
from sluicegate.local.ledger.stats import read_stats
from sluicegate.records import Headers, Origin, Record

CHAT = StreamRules(name="support-chat", id_field="conversation_id", is_ordered=True, silent_speaker="agent")
ORIGIN = Origin(topic="chat", partition=2, offset=5)
ORIGIN_HEADERS: Headers = (
    ("retry-origin-topic", b"chat"),
    ("retry-origin-partition", b"2"),
    ("retry-origin-offset", b"5"),
)


def record(value: bytes | None = b"{}", *, key: bytes | None = b"c1", headers: Headers = ()) -> Record:
    """Make a record at the origin's place."""
    return Record(
        topic="chat", partition=2, offset=5, timestamp_ms=1000, key=key, value=value, headers=headers
    )


def done_map(base: int, offsets: set[int], *, damage: bool = False) -> str:
    """Write a done-map by the words of its format."""
    bitmap = bytearray(max((offset - base for offset in offsets), default=0) // 8 + 1)
    for offset in offsets:
        bitmap[(offset - base) // 8] |= 1 << (offset - base) % 8
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(bytes(bitmap)) + deflate.flush()
    checksum = zlib.crc32(bitmap, zlib.crc32(str(base).encode())) ^ int(damage)
    return f"d1:{base}:{base64.b85encode(checksum.to_bytes(4, 'big') + packed).decode()}"


@pytest.mark.parametrize(("speaker", "silent"), [("customer", False), ("agent", True)])
def test_only_the_silent_speakers_messages_end_silently(speaker: str, silent: bool) -> None:
    """The rule is read off the value, not off what the worker did."""
    value = json.dumps({"conversation_id": "c1", "speaker": speaker}).encode()

    assert read_published(record(value), CHAT).ends_silently is silent


def test_an_event_without_key_or_envelope_is_named_by_its_field_and_place() -> None:
    """Bare JSON is an event too."""
    event = read_published(record(b'{"conversation_id": "c9"}', key=None), CHAT)

    assert (event.key, event.event_id, event.origin) == ("c9", "chat/2/5", ORIGIN)


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[1]", b"{"])
def test_a_record_that_is_no_event_still_has_an_end_to_come(value: bytes | None) -> None:
    """Bad input is published input: it must show up as a dead letter."""
    assert read_published(record(value), CHAT).ends_silently is False


def test_a_result_is_an_end_of_the_event_that_caused_it() -> None:
    """Both its origin and its cause must be the event's."""
    event = read_published(record(headers=(("ce_id", b"e1"),)), CHAT)
    headers = (*ORIGIN_HEADERS, ("ce_id", b"r1"), ("ce_causationid", b"e1"))

    ended = read_ended(record(headers=headers), EndedAs.RESULT, {ORIGIN: event})

    assert ended is not None
    assert (ended.origin, ended.ce_id) == (ORIGIN, "r1")


@pytest.mark.parametrize(
    "headers",
    [
        (("ce_id", b"r1"), ("ce_causationid", b"e1")),
        (*ORIGIN_HEADERS, ("ce_causationid", b"e1")),
        (*ORIGIN_HEADERS, ("ce_id", b"r1"), ("ce_causationid", b"someone else")),
        (*ORIGIN_HEADERS[:2], ("retry-origin-offset", b"six"), ("ce_id", b"r1"), ("ce_causationid", b"e1")),
        (*ORIGIN_HEADERS[:2], ("retry-origin-offset", b"6"), ("ce_id", b"r1"), ("ce_causationid", b"e1")),
    ],
    ids=["no origin", "no id", "another cause", "no number", "unknown origin"],
)
def test_a_result_that_does_not_say_whose_it_is_ends_nothing(headers: Headers) -> None:
    """Then the event shows as lost, which is what its publisher would see."""
    event = read_published(record(headers=(("ce_id", b"e1"),)), CHAT)

    assert read_ended(record(headers=headers), EndedAs.RESULT, {ORIGIN: event}) is None


def test_a_dead_letter_keeps_the_events_own_headers() -> None:
    """It is the event itself, so it has no cause."""
    event = read_published(record(), CHAT)

    assert read_ended(record(headers=ORIGIN_HEADERS), EndedAs.DEAD_LETTER, {ORIGIN: event}) is not None


def test_a_copy_says_whose_it_is_and_when_it_is_due() -> None:
    """Without any of the three it is nobody's copy."""
    headers = (*ORIGIN_HEADERS, ("retry-copy", b"1-a"), ("retry-due-at-ms", b"1700"))

    found = read_copy(record(headers=headers))

    assert found is not None
    assert (found.origin, found.copy, found.due_at_ms) == (ORIGIN, "1-a", 1700)
    for missing in range(len(headers)):
        assert read_copy(record(headers=headers[:missing] + headers[missing + 1 :])) is None


@given(base=st.integers(0, 2**40), above=st.sets(st.integers(0, 3000), max_size=200))
def test_a_done_map_says_exactly_what_was_done(base: int, above: set[int]) -> None:
    """Every offset of it, and no other."""
    progress = read_progress(base, done_map(base, {base + offset for offset in above}))

    assert progress.offset == base
    assert progress.done_above == {base + offset for offset in above}


@pytest.mark.parametrize(
    "metadata",
    ["", "d2:7:abc", "d1:8:", "d1:7:~~~ ~", done_map(8, {9}), done_map(7, {9}, damage=True), "d1:7:0"],
)
def test_a_damaged_or_foreign_done_map_says_nothing(metadata: str) -> None:
    """What it lists would else count as done."""
    progress = read_progress(7, metadata)

    assert (progress.offset, progress.done_above) == (7, frozenset())


def test_the_simulators_answer_becomes_calls_and_a_quota() -> None:
    """A call is completed when its whole answer went out unharmed; a cut still running ends now."""
    call = {
        "received_at": 10.0,
        "completed_at": 10.2,
        "request_id": "e/reply/1",
        "admitted": True,
        "status": 200,
        "fault": None,
        "tokens_charged": 30,
    }
    limits = {"requests_per_minute": 1200, "tokens_per_minute": 6000, "burst_requests": 20, "burst_tokens": 9}
    stats = {
        "now": 60.0,
        "timeline": [
            {"from": 0.0, "to": 50.0, "cut": False, **limits},
            {"from": 50.0, "to": None, "cut": True, **limits},
        ],
        "calls": [
            call,
            {**call, "completed_at": None},
            {**call, "fault": "garbage"},
            {**call, "status": 429, "admitted": False, "tokens_charged": 0},
            {**call, "status": None, "completed_at": None},
        ],
    }

    history = read_stats(stats, burst_s=0.1)

    assert [each.is_completed for each in history.calls] == [True, False, False, False, False]
    assert (history.throttled, len(history.admitted)) == (1, 4)
    assert history.calls[0].step == "e/reply"
    quota = history.quota
    assert (quota.requests_per_minute, quota.tokens_per_minute, quota.burst_requests) == (1200, 6000, 2.0)
    assert (quota.bucket_requests, quota.bucket_tokens) == (20, 9)
    assert [(cut.start_s, cut.end_s) for cut in quota.cuts] == [(50.0, 60.0)]


def test_at_least_one_call_may_go_ahead_of_the_pace() -> None:
    """A burst of less than one request would forbid every call."""
    period = {
        "from": 0.0,
        "to": None,
        "cut": False,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "burst_requests": 1,
        "burst_tokens": None,
    }

    history = read_stats({"now": 1.0, "timeline": [period], "calls": []}, burst_s=0.05)

    assert history.quota.burst_requests == 1.0
