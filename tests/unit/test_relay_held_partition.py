"""One assigned partition of a tier: memory, reading ahead, and stopping at a failed publish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.relay.held_partition import Entry, HeldPartition, Room, Window, room_left
from consumers.relay.plan import Tier, hold
from sluicegate.delivery.due_queue import DueEntry
from sluicegate.kafka.admin import Partition
from sluicegate.records import Record
from sluicegate.telemetry.labels import Bound

_NOW_MS = 1_800_000_000_000
_PLACE = Partition(topic="tier.2", number=0)
_ROOM = Room(is_full=False, sure_bytes=1000)
_TIER = Tier(
    stream="chat",
    number=2,
    topic="tier.2",
    least_ms=600_000,
    most_ms=3_600_000,
    due_topic="due",
    dlq_topic="dlq",
    siblings=("tier.1", "tier.2"),
    bounds_s=(600.0, 3600.0),
    horizon_s=86_400.0,
    retention_s=2_592_000,
)


@pytest.fixture
def partition() -> HeldPartition:
    """Return an empty partition with a window of four records."""
    window = Window(max_records=4, ahead_ms=60_000)
    found = HeldPartition(place=_PLACE, tier=_TIER, window=window)
    found.tracker.restore(0, "")
    return found


def _entry(partition: HeldPartition, offset: int, size_bytes: int = 10) -> Entry:
    record = Record(topic="tier.2", partition=0, offset=offset, timestamp_ms=_NOW_MS, key=None, value=None)
    held = hold(record, _TIER, partitions=None, now_ms=_NOW_MS)
    partition.tracker.delivered(offset)
    return DueEntry(
        due_ms=_NOW_MS,
        partition=_PLACE,
        offset=offset,
        size_bytes=size_bytes,
        payload=held,
    )


def _flow(partition: HeldPartition, now_ms: int = _NOW_MS) -> bool:
    partition.paused = partition.must_wait(now_ms, _ROOM)
    return partition.paused


def test_full_window_pauses_and_half_resumes(partition: HeldPartition) -> None:
    """Reading stops at the bound and goes on at half of it, so that it does not flap."""
    entries = [_entry(partition, offset) for offset in range(4)]
    states = []
    for entry in entries:
        partition.entered(entry, None)
        states.append(_flow(partition))
    for entry in entries:
        partition.left(entry)
        states.append(_flow(partition))
    assert states == [False, False, False, True, True, True, False, False]


def test_without_room_a_partition_keeps_its_sure_share_and_no_more(partition: HeldPartition) -> None:
    """A few large records pause a partition as many small ones do, once the process's memory is taken."""
    full = Room(is_full=True, sure_bytes=1000)
    partition.entered(_entry(partition, 0, size_bytes=999), None)
    assert not partition.must_wait(_NOW_MS, full)
    partition.entered(_entry(partition, 1, size_bytes=1), None)
    assert partition.must_wait(_NOW_MS, full)
    assert not partition.must_wait(_NOW_MS, _ROOM)


@given(
    held_bytes=st.lists(st.integers(0, 10**6), min_size=1, max_size=50),
    max_bytes=st.integers(10**4, 10**7),
    was_full=st.booleans(),
)
def test_sure_shares_and_the_common_rest_never_exceed_the_bound(
    held_bytes: list[int], max_bytes: int, was_full: bool
) -> None:
    """While any partition may take of the common rest, all may still fill their sure shares."""
    room = room_left(held_bytes, max_bytes, was_full=was_full)
    promised = sum(max(held, room.sure_bytes) for held in held_bytes)
    assert room.is_full or promised < max_bytes
    assert room.sure_bytes * len(held_bytes) <= max_bytes // 8
    if was_full and not room.is_full:
        assert promised < max_bytes * 0.95 + 1


def test_one_hungry_partition_gets_all_but_the_others_sure_shares() -> None:
    """What is common goes to whoever needs it: memory is widened where much waits."""
    assert not room_left([899, 0, 0, 0, 0], 1000, was_full=False).is_full
    assert room_left([900, 0, 0, 0, 0], 1000, was_full=False).is_full


def test_records_that_cannot_be_due_soon_stay_in_kafka(partition: HeldPartition) -> None:
    """The next record was stored no earlier than the last, so it is not due before that plus the minimum."""
    partition.entered(_entry(partition, 0), _NOW_MS)
    assert _flow(partition, _NOW_MS)
    assert _flow(partition, _NOW_MS + 600_000 - 40_000)
    assert not _flow(partition, _NOW_MS + 600_000 - 20_000)


def test_producers_times_say_nothing_of_the_next_record(partition: HeldPartition) -> None:
    """Where the broker keeps the producer's time, reading ahead is bounded by the window alone."""
    partition.entered(_entry(partition, 0), None)
    assert not partition.must_wait(_NOW_MS, _ROOM)


def test_a_record_left_in_kafka_is_held_back_only_when_it_may_be_due(partition: HeldPartition) -> None:
    """Waiting for a time that has not come is no fault; a full memory then is one, with its name."""
    full = Room(is_full=True, sure_bytes=10)
    partition.entered(_entry(partition, 0, size_bytes=100), _NOW_MS - 600_000)
    partition.paused = partition.must_wait(_NOW_MS, full)
    assert partition.held_back_by(_NOW_MS, full) is Bound.MEMORY
    assert partition.held_back_by(_NOW_MS - 1, full) is None
    assert partition.held_back_by(_NOW_MS, _ROOM) is None
    for offset in range(1, 4):
        partition.entered(_entry(partition, offset), _NOW_MS - 600_000)
    assert partition.held_back_by(_NOW_MS, full) is Bound.WINDOW


def test_what_one_partition_has_on_its_way_is_bounded(partition: HeldPartition) -> None:
    """A partition whose leader is gone leaves the producer's queue to the others."""
    partition.in_flight = 499
    assert partition.may_send
    partition.in_flight = 500
    assert not partition.may_send


def test_failed_publish_stops_the_partition_until_it_succeeds(partition: HeldPartition) -> None:
    """One record is tried again after growing pauses; the others wait, and nothing counts as finished."""
    first, second = _entry(partition, 0), _entry(partition, 1)
    partition.entered(first, None)
    partition.entered(second, None)
    assert partition.fail(first, 100.0)
    assert not partition.fail(second, 100.0), "records that were under way together are one failure"
    assert partition.must_wait(_NOW_MS, _ROOM)
    assert not partition.may_send
    assert partition.probe(100.9) is None
    probe = partition.probe(101.0)
    assert probe is not None
    assert partition.probe(101.0) is None
    assert partition.fail(probe, 101.0)
    assert partition.probe(102.9) is None
    probe = partition.probe(103.0)
    assert probe is not None
    assert partition.tracker.watermark() == 0
    assert partition.recovered(probe)
    partition.left(probe)
    (waiting,) = partition.backlog
    assert {probe.offset, waiting.offset} == {0, 1}
    assert partition.may_send


def test_a_record_that_is_always_refused_is_never_passed_over(partition: HeldPartition) -> None:
    """It alone is tried again: nothing behind it moves, whatever has become due meanwhile."""
    refused, behind = _entry(partition, 0), _entry(partition, 1)
    partition.fail(refused, 100.0)
    partition.backlog.append(behind)
    tried = []
    for now_s in (101.0, 103.0, 107.0):
        probe = partition.probe(now_s)
        assert probe is not None
        tried.append(probe.offset)
        partition.fail(probe, now_s)
    assert tried == [0, 0, 0]


def test_an_old_confirmation_does_not_restart_a_stopped_partition(partition: HeldPartition) -> None:
    """A record that was under way before the failure is no proof that the failed one can pass."""
    first, second = _entry(partition, 0), _entry(partition, 1)
    partition.fail(first, 100.0)
    assert not partition.recovered(second)
    assert partition.stopped
