"""Retry headers: what is written is read back, and nothing hostile gets through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.records import Headers, Origin
from sluicegate.retry.headers import (
    RETRY_HEADER_NAMES,
    Due,
    ReplaySource,
    RetryHeaders,
    RetrySource,
    next_copy,
    origin_headers,
    parse_dead_letter_headers,
    parse_due,
    parse_retry_headers,
    replay_copy,
    with_retry_headers,
    without_retry_headers,
)
from sluicegate.state.api import Copy

NOW_MS = 1_800_000_000_000
HORIZON_S = 604_800.0
ORIGIN = Origin(topic="support-chat", partition=3, offset=41)
TYPICAL = RetryHeaders(
    origin=ORIGIN,
    origin_timestamp_ms=NOW_MS - 9_000,
    copy=Copy(id="2-beef", replaces="1-cafe"),
    due_at_ms=NOW_MS + 40_000,
    attempt=3,
    counted_failures=1,
    deferrals=2,
    tier=3,
    first_failed_at_ms=NOW_MS - 8_000,
    source=RetrySource.RETRY_AFTER,
    reason="rate-limited",
    http_status=429,
    replay_id="r-1",
    replay_count=1,
    replay_source=ReplaySource.DLQ,
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)

counts = st.integers(0, 10**6)
past_ms = st.integers(0, NOW_MS)
copy_ids = st.from_regex(r"[1-9][0-9]{0,5}-[A-Za-z0-9]{1,64}", fullmatch=True)
sound = st.builds(
    RetryHeaders,
    origin=st.builds(
        Origin,
        topic=st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,248}", fullmatch=True),
        partition=st.integers(0, 2**31 - 1),
        offset=st.integers(0, 2**63 - 1),
    ),
    origin_timestamp_ms=st.integers(0, 10**15),
    copy=st.builds(Copy, id=copy_ids, replaces=st.none() | st.just("input") | copy_ids),
    due_at_ms=st.integers(0, NOW_MS + int(HORIZON_S) * 1000),
    attempt=st.integers(1, 10**6),
    counted_failures=counts,
    deferrals=counts,
    tier=st.none() | st.integers(1, 1000),
    first_failed_at_ms=st.none() | past_ms,
    source=st.none() | st.sampled_from(RetrySource),
    reason=st.none() | st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True),
    http_status=st.none() | st.integers(100, 599),
    replay_id=st.none() | st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True),
    replay_count=counts,
    replay_source=st.none() | st.sampled_from(ReplaySource),
)
names = st.sampled_from(sorted(RETRY_HEADER_NAMES)) | st.text(max_size=12)
digits = st.text(st.sampled_from("0123456789-+. _e\u0663\uff11\x00"), max_size=40).map(
    lambda text: text.encode()
)
hostile: st.SearchStrategy[Headers] = st.lists(
    st.tuples(names, st.binary(max_size=40) | digits), max_size=30
).map(tuple)


def parse(headers: Headers) -> RetryHeaders | None:
    """Parse at a fixed moment."""
    return parse_retry_headers(headers, now_ms=NOW_MS, horizon_s=HORIZON_S)


def parsed_with(name: str, *values: bytes) -> RetryHeaders:
    """Parse the typical headers with one header's values replaced."""
    kept = tuple(header for header in with_retry_headers((), TYPICAL) if header[0] != name)
    retry = parse((*kept, *((name, value) for value in values)))
    assert retry is not None
    return retry


@given(retry=sound, others=hostile)
def test_what_is_written_is_read_back(retry: RetryHeaders, others: Headers) -> None:
    """Nothing that a copy must know is lost between a worker and a relay, whatever was there before."""
    assert parse(with_retry_headers(others, retry)) == retry


@given(retry=sound, others=hostile)
def test_headers_are_written_once_in_ascii(retry: RetryHeaders, others: Headers) -> None:
    """Old values are overwritten, never appended to, so that every reader sees the same one."""
    written = [header for header in with_retry_headers(others, retry) if header[0] in RETRY_HEADER_NAMES]
    assert len({name for name, _ in written}) == len(written)
    assert all(name == name.lower() and value.isascii() for name, value in written)


@given(retry=sound, others=hostile)
def test_unknown_headers_pass_through_unchanged(retry: RetryHeaders, others: Headers) -> None:
    """Headers of others keep their values, their order and their repetitions."""
    foreign = tuple(header for header in others if header[0] not in RETRY_HEADER_NAMES)
    written = with_retry_headers(others, retry)
    assert without_retry_headers(written) == foreign
    assert written[: len(foreign)] == foreign


@given(others=hostile, retry=sound, data=st.data())
def test_hostile_headers_never_crash_nor_leave_their_bounds(
    others: Headers, retry: RetryHeaders, data: st.DataObject
) -> None:
    """Whatever somebody wrote, the result is None or within the bounds of what we write ourselves."""
    mixed = data.draw(st.permutations([*others, *with_retry_headers((), retry)]))
    parsed = parse(tuple(mixed))
    if parsed is None:
        return
    assert 0 <= parsed.due_at_ms <= NOW_MS + HORIZON_S * 1000
    assert 0 <= parsed.origin_timestamp_ms <= 10**15
    assert parsed.first_failed_at_ms is None or 0 <= parsed.first_failed_at_ms <= NOW_MS
    assert 1 <= parsed.attempt <= 10**6
    assert parsed.http_status is None or 100 <= parsed.http_status <= 599
    assert set(parsed.repaired) <= RETRY_HEADER_NAMES
    again = parse(with_retry_headers((), parsed))
    assert again is not None
    assert again.repaired == ()


@given(others=hostile, retry=sound, data=st.data())
def test_a_relay_reads_what_a_worker_reads(others: Headers, retry: RetryHeaders, data: st.DataObject) -> None:
    """Reading the due time alone gives what reading everything gives, whatever the headers are."""
    mixed = tuple(data.draw(st.permutations((*with_retry_headers((), retry), *others))))
    headers = data.draw(st.sampled_from([mixed, others]))
    full = parse(headers)
    expected = full and Due(
        partition=full.origin.partition,
        due_at_ms=full.due_at_ms,
        was_mended="retry-due-at-ms" in full.repaired,
    )
    assert parse_due(headers, now_ms=NOW_MS, horizon_s=HORIZON_S) == expected


@given(others=hostile)
def test_a_record_of_others_is_no_copy(others: Headers) -> None:
    """Without an origin and a copy id a record is none of ours, whatever else it says."""
    without = tuple(header for header in others if header[0] != "retry-copy")
    assert parse(without) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry-origin-topic", "süd".encode()),
        ("retry-origin-topic", b"a/b"),
        ("retry-origin-topic", b".."),
        ("retry-origin-topic", b"x" * 250),
        ("retry-origin-partition", b"-1"),
        ("retry-origin-partition", b"2147483648"),
        ("retry-origin-offset", b"9223372036854775808"),
        ("retry-origin-offset", b""),
        ("retry-copy", b"input"),
        ("retry-copy", b"0-abc"),
        ("retry-copy", b"1-"),
        ("retry-copy", b"1-abc\n"),
        ("retry-copy", "\u0661-abc".encode()),
    ],
)
def test_a_copy_without_a_sound_name_is_no_copy(name: str, value: bytes) -> None:
    """An event is never mixed up with another because its name was damaged."""
    headers = tuple((n, value if n == name else v) for n, v in with_retry_headers((), TYPICAL))
    assert parse(headers) is None


@pytest.mark.parametrize(
    "value",
    [b"", b"-5", b"+5", b" 5", b"5.0", b"1e9", b"\xff", "\u0661\u0662".encode(), b"9" * 5000, b"0x10"],
)
def test_an_unreadable_due_time_is_due_now_and_counted(value: bytes) -> None:
    """A record that cannot say when it is due must not wait for ever."""
    retry = parsed_with("retry-due-at-ms", value)
    assert retry.due_at_ms == NOW_MS
    assert retry.repaired == ("retry-due-at-ms",)


def test_a_missing_due_time_is_due_now_and_counted() -> None:
    """A copy without a due time is treated as one with an unreadable one."""
    retry = parsed_with("retry-due-at-ms")
    assert (retry.due_at_ms, retry.repaired) == (NOW_MS, ("retry-due-at-ms",))


@pytest.mark.parametrize("beyond_ms", [1, 10**6, 2**62])
def test_a_due_time_beyond_the_horizon_is_clamped_and_counted(beyond_ms: int) -> None:
    """Nobody parks a record for a century."""
    latest = NOW_MS + int(HORIZON_S * 1000)
    retry = parsed_with("retry-due-at-ms", str(latest + beyond_ms).encode())
    assert (retry.due_at_ms, retry.repaired) == (latest, ("retry-due-at-ms",))
    at_the_edge = parsed_with("retry-due-at-ms", str(latest).encode())
    assert (at_the_edge.due_at_ms, at_the_edge.repaired) == (latest, ())


def test_of_a_duplicated_header_the_last_counts_and_is_reported() -> None:
    """Every reader takes the same of two values, and somebody hears of it."""
    retry = parsed_with("retry-attempt", b"9", b"4")
    assert (retry.attempt, retry.repaired) == (4, ("retry-attempt",))


@pytest.mark.parametrize("value", [str(NOW_MS + 1).encode(), b"-1", b"long ago"])
def test_an_event_cannot_outrun_its_deadline(value: bytes) -> None:
    """A first failure that is ahead of us, or unreadable, was now."""
    retry = parsed_with("retry-first-failed-at-ms", value)
    assert (retry.first_failed_at_ms, retry.repaired) == (NOW_MS, ("retry-first-failed-at-ms",))
    at_the_edge = parsed_with("retry-first-failed-at-ms", str(NOW_MS).encode())
    assert (at_the_edge.first_failed_at_ms, at_the_edge.repaired) == (NOW_MS, ())


def test_the_publishers_clock_is_carried_on_as_it_was() -> None:
    """A publisher whose clock is ahead is not corrected at every hop; only what is unreadable is now."""
    ahead = parsed_with("retry-origin-timestamp-ms", str(NOW_MS + 90_000).encode())
    assert (ahead.origin_timestamp_ms, ahead.repaired) == (NOW_MS + 90_000, ())
    for values in ([], [b"-1"], [b"1" * 17]):
        lost = parsed_with("retry-origin-timestamp-ms", *values)
        assert (lost.origin_timestamp_ms, lost.repaired) == (NOW_MS, ("retry-origin-timestamp-ms",))


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("retry-attempt", b"0", "attempt", 1),
        ("retry-attempt", b"99999999", "attempt", 1),
        ("retry-counted-failures", b"-1", "counted_failures", 0),
        ("retry-deferrals", b"many", "deferrals", 0),
        ("retry-tier", b"0", "tier", None),
        ("retry-source", b"the moon", "source", None),
        ("retry-source", b"moon", "source", None),
        ("retry-reason", b"You exceeded your quota!", "reason", None),
        ("retry-http-status", b"999", "http_status", None),
        ("replay-id", b"a b", "replay_id", None),
        ("replay-count", b"x", "replay_count", 0),
        ("replay-source", b"elsewhere", "replay_source", None),
    ],
)
def test_a_damaged_value_becomes_its_default_and_is_reported(
    name: str, value: bytes, attribute: str, expected: object
) -> None:
    """One bad header costs that header alone."""
    retry = parsed_with(name, value)
    assert getattr(retry, attribute) == expected
    assert retry.repaired == (name,)


def test_the_header_names_are_the_documented_ones() -> None:
    """Operators filter by these names."""
    assert {name for name, _ in with_retry_headers((), TYPICAL)} == RETRY_HEADER_NAMES
    assert dict(with_retry_headers((), TYPICAL))["retry-due-at-ms"] == b"1800000040000"
    assert {name for name, _ in origin_headers(ORIGIN, 5)} == {
        "retry-origin-topic",
        "retry-origin-partition",
        "retry-origin-offset",
        "retry-origin-timestamp-ms",
    }


def test_a_copy_is_one_hop_further_and_names_what_it_replaces() -> None:
    """Take adopts a copy by what it replaces, and prefers the higher hop after a loss."""
    first = next_copy(Copy(), "cafe")
    second = next_copy(first, "beef")
    assert (first.id, first.replaces, first.hop) == ("1-cafe", "input", 1)
    assert (second.id, second.replaces, second.hop) == ("2-beef", "1-cafe", 2)


def test_a_dead_letter_may_have_died_as_the_input_record() -> None:
    """Its copy is `input`, which no copy in a tier may be; all else is read as a copy's."""
    headers = with_retry_headers((), replace(TYPICAL, copy=Copy(), due_at_ms=NOW_MS - 5))
    assert parse_retry_headers(headers, now_ms=NOW_MS, horizon_s=HORIZON_S) is None
    found = parse_dead_letter_headers(headers, now_ms=NOW_MS)
    assert found == replace(TYPICAL, copy=Copy(), due_at_ms=NOW_MS - 5)


def test_a_dead_letter_without_an_origin_is_nobodys() -> None:
    """Raw poison that only names a copy cannot be told apart from a stranger's record."""
    headers = with_retry_headers((), TYPICAL)
    kept = tuple(header for header in headers if header[0] != "retry-origin-offset")
    assert parse_dead_letter_headers(kept, now_ms=NOW_MS) is None


def test_a_dead_letter_with_an_unreadable_copy_counts_as_the_input_record() -> None:
    """The origin is what it needs to be sent back; which copy died is only a hint."""
    headers = (*origin_headers(ORIGIN, NOW_MS), ("retry-copy", b"\xff"))
    found = parse_dead_letter_headers(headers, now_ms=NOW_MS)
    assert found is not None
    assert (found.origin, found.copy, found.repaired) == (
        ORIGIN,
        Copy(),
        ("retry-copy", "retry-due-at-ms"),
    )


def test_a_replays_copy_is_known_again_by_its_name() -> None:
    """The same replay names it alike however often it is sent, and only that very copy is a replay's."""
    died, counts = Copy(id="2-beef"), Copy(id="5-cafe")
    copy = replay_copy("r-1", ORIGIN, replaces=counts, died=died)
    assert copy == replay_copy("r-1", ORIGIN, replaces=counts, died=died)
    assert copy.id != replay_copy("r-2", ORIGIN, replaces=counts, died=died).id
    assert copy.id != replay_copy("r-1", replace(ORIGIN, offset=42), replaces=counts, died=died).id
    assert (copy.hop, copy.replaces, copy.is_replay) == (6, "5-cafe", True)
    sent = parse(with_retry_headers((), replace(TYPICAL, copy=copy)))
    assert sent is not None
    assert sent.copy == copy
    assert replay_copy("r-1", ORIGIN, replaces=Copy(), died=died).hop == 3


@pytest.mark.parametrize(
    "change",
    [
        {"replay_id": "r-2"},
        {"replay_id": None},
        {"copy": Copy(id="6-feed")},
        {"origin": replace(ORIGIN, offset=42)},
    ],
)
def test_a_copy_made_from_a_replays_copy_is_not_the_replays(change: dict[str, Any]) -> None:
    """A copy parked later keeps the replay's id, and may not reopen what ended since."""
    copy = replay_copy("r-1", ORIGIN, replaces=Copy(), died=Copy())
    sent = parse(with_retry_headers((), replace(replace(TYPICAL, copy=copy), **change)))
    assert sent is not None
    assert not sent.copy.is_replay
