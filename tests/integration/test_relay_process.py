"""The relay as operators run it, on the embedded broker and on real Kafka."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.records import OutgoingRecord, Record
from tests.fixtures.kafka import MakeTopics
from tests.integration.relay_stand import Parked, RelayStand
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

_COORDINATOR_LOADING = 14


@pytest.fixture
def stand(
    kafka: str, redis_url: str, prefix: str, tmp_path: Path, make_topics: MakeTopics
) -> Iterator[RelayStand]:
    """Return topics without a relay: tests start their own."""
    with RelayStand(
        kafka=kafka, redis_url=redis_url, prefix=prefix, folder=tmp_path, make_topics=make_topics
    ) as stand:
        yield stand


def _copy_of(record: Record) -> str:
    return dict(record.headers)["retry-copy"].decode()


def test_records_are_released_when_due_and_never_before(stand: RelayStand) -> None:
    """Each record arrives on `due` unchanged, on its origin's partition, not before its time."""
    stand.start()
    events = [
        Parked(copy=f"1-{index:03d}", due_in_ms=2500 + (index * 37) % 1500, partition=index % 2, tier=2)
        for index in range(60)
    ]
    due = stand.park(events)
    found = stand.read(stand.due, until=lambda records: len(records) >= len(events))
    arrived_ms = {_copy_of(record): record.timestamp_ms for record in found}
    assert arrived_ms.keys() == due.keys()
    assert [copy for copy, at_ms in arrived_ms.items() if at_ms < due[copy]] == []
    sample = found[0]
    copy = _copy_of(sample)
    assert (sample.key, sample.value) == (f"key-{copy}".encode(), f"value-{copy}".encode())
    assert ("other", b"kept") in sample.headers
    assert {record.partition for record in found} == {0, 1}


def test_due_times_order_the_release_not_the_tier(stand: RelayStand) -> None:
    """A record behind one that is due much later leaves first: a tier is no queue."""
    stand.start()
    stand.park(
        [
            Parked(copy="1-late", due_in_ms=4000, tier=2),
            Parked(copy="1-early", due_in_ms=2200, tier=2),
            Parked(copy="1-middle", due_in_ms=3000, tier=2),
        ]
    )
    found = stand.read(stand.due, until=lambda records: len(records) >= 3)
    assert [_copy_of(record) for record in found] == ["1-early", "1-middle", "1-late"]


def test_record_due_beyond_its_tier_is_parked_again(stand: RelayStand) -> None:
    """After its tier's maximum a record goes to the tier that fits, with the same copy and due time."""
    stand.start()
    due = stand.park([Parked(copy="1-far", due_in_ms=5000, tier=1)])
    (again,) = stand.read(stand.tiers[1], until=lambda records: len(records) >= 1)
    (released,) = stand.read(stand.due, until=lambda records: len(records) >= 1)
    headers = dict(again.headers)
    assert (headers["retry-copy"], headers["retry-tier"]) == (b"1-far", b"2")
    assert int(headers["retry-due-at-ms"]) == due["1-far"]
    assert released.timestamp_ms >= due["1-far"]


def test_unreadable_record_is_dead_lettered_and_its_neighbour_released(stand: RelayStand) -> None:
    """A record that names no origin goes to the DLQ with its bytes and a reason, and holds nobody up."""
    stand.start()
    stand.publish(
        [OutgoingRecord(topic=stand.tiers[0], partition=1, key=None, value=b"\xff", headers=(("x", b"1"),))]
    )
    stand.park([Parked(copy="1-good", due_in_ms=500, partition=1)])
    (dead,) = stand.read(stand.dlq, until=lambda records: len(records) >= 1)
    (good,) = stand.read(stand.due, until=lambda records: len(records) >= 1)
    assert (dead.value, dead.partition) == (b"\xff", 1)
    assert dead.headers == (("x", b"1"), ("retry-reason", b"bad-retry-headers"))
    assert _copy_of(good) == "1-good"


def test_nothing_is_lost_when_the_relay_is_killed(stand: RelayStand) -> None:
    """After kill -9 in the middle of a release every record arrives, and a repeat carries the same copy."""
    first = stand.start()
    events = [Parked(copy=f"1-{index:04d}", due_in_ms=1500 + index // 2, tier=1) for index in range(2000)]
    due = stand.park(events)
    stand.read(stand.due, until=lambda records: len(records) >= 200)
    first.kill()
    stand.start()
    found = stand.read(
        stand.due, until=lambda records: {_copy_of(record) for record in records} >= due.keys()
    )
    assert [record for record in found if record.timestamp_ms < due[_copy_of(record)]] == []


def test_repeat_after_a_lost_commit_is_the_same_copy(
    embedded_broker: EmbeddedBroker, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """Killed between the confirmed publish and the commit, the next relay releases the same record again."""
    with RelayStand(
        kafka=embedded_broker.address,
        redis_url=redis_url,
        prefix=prefix,
        folder=tmp_path,
        make_topics=lambda topics, _config=None: embedded_broker.create_topics(topics),
    ) as stand:
        embedded_broker.fail(Request.OFFSET_COMMIT, [_COORDINATOR_LOADING] * 10_000)
        first = stand.start()
        stand.park([Parked(copy="1-twice", due_in_ms=500)])
        stand.read(stand.due, until=lambda records: len(records) >= 1)
        first.kill()
        embedded_broker.heal(Request.OFFSET_COMMIT)
        stand.start()
        found = stand.read(stand.due, until=lambda records: len(records) >= 2)
    assert found[0].headers == found[1].headers
    assert (found[0].key, found[0].value) == (found[1].key, found[1].value)


def test_relay_ends_in_order_on_sigterm(stand: RelayStand) -> None:
    """SIGTERM commits what was released, leaves the group and exits 0; the next relay repeats nothing."""
    first = stand.start()
    stand.park([Parked(copy="1-a", due_in_ms=300), Parked(copy="1-z", due_in_ms=6000, tier=2)])
    stand.read(stand.due, until=lambda records: len(records) >= 1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0, stand.log()
    reader = Consumer({"bootstrap.servers": stand.kafka, "group.id": f"{stand.prefix}.relay"})
    (committed,) = reader.committed([TopicPartition(stand.tiers[0], 0)], timeout=10)
    reader.close()
    assert committed.offset == 1
    stand.start()
    found = stand.read(stand.due, until=lambda records: len(records) >= 2)
    assert [_copy_of(record) for record in found] == ["1-a", "1-z"]


def test_two_relays_share_the_tiers(stand: RelayStand) -> None:
    """When a second relay joins, records of both partitions are released, each by whoever owns it."""
    stand.start()
    stand.park([Parked(copy="1-first", due_in_ms=200)])
    stand.read(stand.due, until=lambda records: len(records) >= 1)
    stand.start()
    # The first relay gives all back and takes its half: the group is whole when both have theirs.
    wait_until_sync(lambda: stand.log().count("relay.assigned") >= 3, timeout_s=20, what="both assigned")
    events = [Parked(copy=f"1-{index}", due_in_ms=300, partition=index % 2) for index in range(10)]
    due = stand.park(events)
    found = stand.read(stand.due, until=lambda records: len(records) >= 11)
    assert {_copy_of(record) for record in found} == due.keys() | {"1-first"}
    assert time.time() * 1000 >= max(due.values())
