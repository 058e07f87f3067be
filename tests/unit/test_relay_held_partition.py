"""One assigned partition of a tier: windows, reading ahead, and stopping at a failed publish."""

from __future__ import annotations

import pytest

from consumers.relay.held_partition import Entry, HeldPartition, InHand, Window
from consumers.relay.plan import Tier, hold
from sluicegate.delivery.due_queue import DueEntry
from sluicegate.kafka.admin import Partition
from sluicegate.records import Record

_NOW_MS = 1_800_000_000_000
_PLACE = Partition(topic="tier.2", number=0)
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
    window = Window(max_records=4, max_bytes=1000, ahead_ms=60_000)
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
        payload=InHand(held=held, owner=partition),
    )


def _flow(partition: HeldPartition, now_ms: int = _NOW_MS) -> bool:
    partition.paused = partition.must_wait(now_ms)
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


def test_bytes_fill_a_window_too(partition: HeldPartition) -> None:
    """A few large records pause a partition as many small ones do."""
    partition.entered(_entry(partition, 0, size_bytes=1000), None)
    assert partition.must_wait(_NOW_MS)


def test_records_that_cannot_be_due_soon_stay_in_kafka(partition: HeldPartition) -> None:
    """The next record was stored no earlier than the last, so it is not due before that plus the minimum."""
    partition.entered(_entry(partition, 0), _NOW_MS)
    assert _flow(partition, _NOW_MS)
    assert _flow(partition, _NOW_MS + 600_000 - 40_000)
    assert not _flow(partition, _NOW_MS + 600_000 - 20_000)


def test_producers_times_say_nothing_of_the_next_record(partition: HeldPartition) -> None:
    """Where the broker keeps the producer's time, reading ahead is bounded by the window alone."""
    partition.entered(_entry(partition, 0), None)
    assert not partition.must_wait(_NOW_MS)


def test_failed_publish_stops_the_partition_until_it_succeeds(partition: HeldPartition) -> None:
    """One record is tried again after growing pauses; the others wait, and nothing counts as finished."""
    first, second = _entry(partition, 0), _entry(partition, 1)
    partition.entered(first, None)
    partition.entered(second, None)
    assert partition.fail(first, 100.0)
    assert not partition.fail(second, 100.0), "records that were under way together are one failure"
    assert partition.must_wait(_NOW_MS)
    assert partition.probe(100.9) is None
    probe = partition.probe(101.0)
    assert probe is not None
    assert partition.probe(101.0) is None
    assert partition.fail(probe, 101.0)
    assert partition.probe(102.9) is None
    probe = partition.probe(103.0)
    assert probe is not None
    assert partition.tracker.watermark() == 0
    (waiting,) = partition.recovered(probe)
    partition.left(probe)
    assert {probe.offset, waiting.offset} == {0, 1}
    assert not partition.stopped


def test_an_old_confirmation_does_not_restart_a_stopped_partition(partition: HeldPartition) -> None:
    """A record that was under way before the failure is no proof that the failed one can pass."""
    first, second = _entry(partition, 0), _entry(partition, 1)
    partition.fail(first, 100.0)
    assert partition.recovered(second) == ()
    assert partition.stopped
