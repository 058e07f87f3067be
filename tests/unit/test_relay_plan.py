"""What becomes of a parked record, as a pure decision."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from consumers.relay.plan import Mended, Move, Tier, hold, move, tiers_of
from sluicegate.records import Headers, Origin, Record
from sluicegate.retry.headers import BAD_HEADERS_REASON, RetryHeaders, parse_retry_headers, with_retry_headers
from sluicegate.settings import load_settings
from sluicegate.state.api import Copy

_BOUNDS_S = (5.0, 30.0, 120.0)
_HORIZON_S = 3600.0
_NOW_MS = 1_800_000_000_000
_PARTITIONS = 4


def _tier(number: int = 1) -> Tier:
    bounds_ms = [0, *(int(bound * 1000) for bound in _BOUNDS_S)]
    return Tier(
        stream="chat",
        number=number,
        topic=f"tier.{number}",
        least_ms=bounds_ms[number - 1],
        most_ms=bounds_ms[number],
        due_topic="due",
        dlq_topic="dlq",
        siblings=("tier.1", "tier.2", "tier.3"),
        bounds_s=_BOUNDS_S,
        horizon_s=_HORIZON_S,
        retention_s=2_592_000,
    )


def _retry(due_at_ms: int, partition: int = 2) -> RetryHeaders:
    return RetryHeaders(
        origin=Origin(topic="chat", partition=partition, offset=7),
        origin_timestamp_ms=_NOW_MS - 1000,
        copy=Copy(id="1-abc", replaces="input"),
        due_at_ms=due_at_ms,
        attempt=3,
    )


def _record(headers: Headers, *, stored_ms: int = _NOW_MS) -> Record:
    return Record(
        topic="tier.1",
        partition=2,
        offset=11,
        timestamp_ms=stored_ms,
        key=b"key",
        value=b"value",
        headers=headers,
    )


def _parked(due_in_ms: int, *, stored_ms: int = _NOW_MS) -> Record:
    return _record(with_retry_headers((("x", b"1"),), _retry(_NOW_MS + due_in_ms)), stored_ms=stored_ms)


@given(
    due_in_ms=st.integers(-10_000, 4_000_000),
    tier=st.integers(1, 3),
    age_ms=st.integers(-100_000, 500_000),
    step_ms=st.integers(1, 50_000),
)
def test_no_record_is_released_before_it_is_due(due_in_ms: int, tier: int, age_ms: int, step_ms: int) -> None:
    """Whatever the clocks of producers and brokers say, a release is never before the due time."""
    record = _parked(due_in_ms, stored_ms=_NOW_MS - age_ms)
    due_at_ms = min(_NOW_MS + due_in_ms, min(_NOW_MS - age_ms, _NOW_MS) + int(_HORIZON_S * 1000))
    held = hold(record, _tier(tier), partitions=_PARTITIONS, now_ms=_NOW_MS)
    now_ms = max(_NOW_MS, held.wake_at_ms)
    moved = move(held, now_ms=now_ms)
    if moved.move is Move.RELEASED:
        assert now_ms >= due_at_ms
        assert moved.record == replace(moved.record, topic="due", partition=2, headers=record.headers)
    else:
        assert moved.move is Move.PARKED_AGAIN
        assert now_ms < due_at_ms
    assert move(held, now_ms=due_at_ms - 1).move is Move.PARKED_AGAIN
    assert move(held, now_ms=due_at_ms).move is Move.RELEASED
    assert move(held, now_ms=max(now_ms, due_at_ms) + step_ms).move is Move.RELEASED


@given(due_in_ms=st.integers(0, 4_000_000), tier=st.integers(1, 3))
def test_a_record_parked_again_keeps_its_due_time_and_copy(due_in_ms: int, tier: int) -> None:
    """Parking again changes the tier alone: the next reader sees the same copy, due at the same time."""
    held = hold(_parked(due_in_ms), _tier(tier), partitions=_PARTITIONS, now_ms=_NOW_MS)
    moved = move(held, now_ms=held.wake_at_ms)
    if moved.move is not Move.PARKED_AGAIN:
        return
    again = parse_retry_headers(moved.record.headers, now_ms=_NOW_MS, horizon_s=_HORIZON_S)
    assert again is not None
    assert again == replace(_retry(held.due_at_ms), tier=again.tier)
    left_s = (held.due_at_ms - held.wake_at_ms) / 1000
    fitting = next((n for n, bound in enumerate(_BOUNDS_S, start=1) if left_s < bound), len(_BOUNDS_S))
    assert (again.tier, moved.record.topic) == (fitting, f"tier.{fitting}")
    assert ("x", b"1") in moved.record.headers


@given(due_in_ms=st.integers(0, 3_600_000), tier=st.integers(1, 3))
def test_a_held_record_is_looked_at_when_due_or_at_its_tiers_maximum(due_in_ms: int, tier: int) -> None:
    """No record keeps an offset unfinished beyond its tier's maximum."""
    held = hold(_parked(due_in_ms), _tier(tier), partitions=_PARTITIONS, now_ms=_NOW_MS)
    assert held.wake_at_ms == min(_NOW_MS + due_in_ms, _NOW_MS + int(_BOUNDS_S[tier - 1] * 1000))


def test_a_record_from_a_clock_far_behind_does_not_circle() -> None:
    """A record that looks old already is still held for a second before it is parked again."""
    record = _parked(20_000, stored_ms=_NOW_MS - 3_000_000)
    held = hold(record, _tier(1), partitions=_PARTITIONS, now_ms=_NOW_MS)
    assert held.wake_at_ms == _NOW_MS + 1000


def test_due_beyond_the_horizon_is_clamped_once() -> None:
    """The clamp counts from when the record was stored: reading it again later moves nothing."""
    record = _parked(10 * 3_600_000)
    first = hold(record, _tier(3), partitions=_PARTITIONS, now_ms=_NOW_MS)
    again = hold(record, _tier(3), partitions=_PARTITIONS, now_ms=_NOW_MS + 100_000)
    assert first.mended is Mended.CLAMPED_DUE
    assert first.due_at_ms == again.due_at_ms == _NOW_MS + int(_HORIZON_S * 1000)


def test_unreadable_due_time_is_due_now_and_counted() -> None:
    """A due time that is no number, or negative, releases the record at once."""
    for value in (b"soon", b"-5", b"", b"\xff", b"9" * 400):
        headers = (
            *(h for h in _parked(9000).headers if h[0] != "retry-due-at-ms"),
            ("retry-due-at-ms", value),
        )
        held = hold(_record(headers), _tier(1), partitions=_PARTITIONS, now_ms=_NOW_MS)
        assert (held.mended, held.wake_at_ms) == (Mended.UNREADABLE_DUE, _NOW_MS)
        assert move(held, now_ms=_NOW_MS).move is Move.RELEASED


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["retry-origin-topic", "retry-origin-partition", "retry-copy", "x", "dlq-reason"]
            ),
            st.binary(max_size=40),
        ),
        max_size=8,
    )
)
def test_a_record_that_names_no_origin_is_dead_lettered_as_it_is(headers: list[tuple[str, bytes]]) -> None:
    """Bytes, key and headers stay; only the reason is ours, and it is there once."""
    record = _record(tuple(headers))
    held = hold(record, _tier(1), partitions=_PARTITIONS, now_ms=_NOW_MS)
    moved = move(held, now_ms=held.wake_at_ms)
    assert moved.move is Move.DEAD_LETTERED
    assert (moved.record.topic, moved.record.partition, moved.record.value) == ("dlq", 2, b"value")
    kept = tuple(header for header in headers if header[0] != "dlq-reason")
    assert moved.record.headers == (*kept, ("dlq-reason", BAD_HEADERS_REASON.encode()))


def test_a_partition_that_is_not_there_is_never_written_to() -> None:
    """An origin whose partition `due` does not have would stop the tier for good: it is dead-lettered."""
    record = _record(with_retry_headers((), _retry(_NOW_MS, partition=99)))
    known = hold(record, _tier(1), partitions=_PARTITIONS, now_ms=_NOW_MS)
    unknown = hold(record, _tier(1), partitions=None, now_ms=_NOW_MS)
    assert move(known, now_ms=_NOW_MS).move is Move.DEAD_LETTERED
    assert move(unknown, now_ms=_NOW_MS).move is Move.RELEASED


def test_every_tier_of_every_stream_is_relayed() -> None:
    """One relay reads all streams' tiers, each with the bounds of the settings."""
    tiers = tiers_of(load_settings(None, {}))
    assert [tier.topic for tier in tiers[:2]] == [
        "sluicegate.support-chat.retry.1",
        "sluicegate.support-chat.retry.2",
    ]
    assert len(tiers) == 10
    assert (tiers[1].least_ms, tiers[1].most_ms, tiers[1].due_topic) == (
        5000,
        30_000,
        "sluicegate.support-chat.due",
    )
