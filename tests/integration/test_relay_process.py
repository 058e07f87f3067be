"""The relay as operators run it, on the embedded broker and on real Kafka."""

from __future__ import annotations

import functools
import json
import re
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.records import OutgoingRecord, Record
from tests.fixtures.kafka import create_real_topics
from tests.integration.relay_stand import Parked, RelayStand
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

_COORDINATOR_LOADING = 14
_TOPIC_AUTHORIZATION_FAILED = 29
_BOTH = ["embedded", pytest.param("real", marks=pytest.mark.real_kafka)]


@contextmanager
def _stand(request: pytest.FixtureRequest, broker: str, folder: Path) -> Iterator[RelayStand]:
    address: str = request.getfixturevalue(f"{broker}_kafka")
    embedded: EmbeddedBroker = request.getfixturevalue("embedded_broker")
    make = functools.partial(create_real_topics, address)
    with RelayStand(
        kafka=address,
        redis_url=request.getfixturevalue("redis_url"),
        prefix=f"t{token_hex(4)}",
        folder=folder,
        make_topics=make if broker == "real" else lambda topics, _config=None: embedded.create_topics(topics),
    ) as stand:
        yield stand


@pytest.fixture(scope="module", params=_BOTH)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayStand]:
    """Return topics with one relay that no test harms; each test has copies of its own."""
    with _stand(request, request.param, tmp_path_factory.mktemp("relay")) as stand:
        stand.start()
        yield stand


@pytest.fixture(params=_BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RelayStand]:
    """Return topics without a relay: tests start their own."""
    with _stand(request, request.param, tmp_path) as stand:
        yield stand


@pytest.fixture
def embedded_stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RelayStand]:
    """Do the same on the embedded broker, whose faults can be ordered."""
    with _stand(request, "embedded", tmp_path) as stand:
        yield stand


def _copy_of(record: Record) -> str:
    return dict(record.headers)["retry-copy"].decode()


def _of(copies: Collection[str], records: list[Record]) -> list[Record]:
    return [record for record in records if _copy_of(record) in copies]


def _released(stand: RelayStand, copies: Collection[str]) -> list[Record]:
    """Wait until every copy has come out on `due`; return their records, repeats included."""
    found = stand.read(stand.due, until=lambda records: {_copy_of(r) for r in records} >= set(copies))
    return _of(copies, found)


def test_records_are_released_unchanged_and_never_before_they_are_due(running: RelayStand) -> None:
    """Each record arrives on `due`, on its origin's partition, as it was parked and not before its time."""
    due = running.park(
        [
            Parked(copy=f"1-due{index:03d}", due_in_ms=2100 + (index * 37) % 900, partition=index % 2, tier=2)
            for index in range(60)
        ]
    )
    found = _released(running, due)
    assert len(found) == len(due)
    assert [_copy_of(record) for record in found if record.timestamp_ms < due[_copy_of(record)]] == []
    sample = found[0]
    copy = _copy_of(sample)
    assert (sample.key, sample.value) == (f"key-{copy}".encode(), f"value-{copy}".encode())
    assert ("other", b"kept") in sample.headers
    assert [record.partition for record in found] == [int(_copy_of(r)[-3:]) % 2 for r in found]


def test_due_times_order_the_release_not_the_tier(running: RelayStand) -> None:
    """A record behind one that is due much later leaves first: a tier is no queue."""
    due = running.park(
        [
            Parked(copy="1-orderlate", due_in_ms=3000, tier=2),
            Parked(copy="1-orderearly", due_in_ms=2100, tier=2),
            Parked(copy="1-ordermiddle", due_in_ms=2500, tier=2),
        ]
    )
    found = _released(running, due)
    assert [_copy_of(record) for record in found] == ["1-orderearly", "1-ordermiddle", "1-orderlate"]


def test_record_due_beyond_its_tier_is_parked_again(running: RelayStand) -> None:
    """After its tier's maximum a record goes to the tier that fits, with the same copy and due time."""
    due = running.park([Parked(copy="1-far", due_in_ms=4800, tier=1)])
    (released,) = _released(running, due)
    again = _of(due, running.read(running.tiers[1], until=lambda records: bool(_of(due, records))))
    headers = dict(again[0].headers)
    assert (headers["retry-copy"], headers["retry-tier"]) == (b"1-far", b"2")
    assert int(headers["retry-due-at-ms"]) == due["1-far"]
    assert released.timestamp_ms >= due["1-far"]


def test_unreadable_record_is_dead_lettered_and_its_neighbour_released(running: RelayStand) -> None:
    """A record that names no origin goes to the DLQ with its bytes and a reason, and holds nobody up."""
    bad = OutgoingRecord(topic=running.tiers[0], partition=1, key=None, value=b"\xff", headers=(("x", b"1"),))
    running.publish([bad])
    due = running.park([Parked(copy="1-good", due_in_ms=300, partition=1)])
    (dead,) = running.read(running.dlq, until=lambda records: len(records) >= 1)
    assert (dead.value, dead.partition) == (b"\xff", 1)
    assert dead.headers == (("x", b"1"), ("dlq-reason", b"bad-retry-headers"))
    assert len(_released(running, due)) == 1


def test_nothing_is_lost_when_the_relay_is_killed(stand: RelayStand) -> None:
    """After kill -9 in the middle of a release every record arrives, and a repeat is the same record."""
    first = stand.start()
    due = stand.park(
        [Parked(copy=f"1-{index:04d}", due_in_ms=600 + index // 2, tier=1) for index in range(2000)]
    )
    stand.read(stand.due, until=lambda records: len(records) >= 200)
    first.kill()
    stand.start()
    found = _released(stand, due)
    assert [record for record in found if record.timestamp_ms < due[_copy_of(record)]] == []
    assert len({(record.key, record.value, record.headers) for record in found}) == len(due)


def test_repeat_after_a_lost_commit_is_the_same_copy(
    embedded_stand: RelayStand, embedded_broker: EmbeddedBroker
) -> None:
    """Killed between the confirmed publish and the commit, the next relay releases the same record again."""
    embedded_broker.fail(Request.OFFSET_COMMIT, [_COORDINATOR_LOADING] * 10_000)
    first = embedded_stand.start()
    embedded_stand.park([Parked(copy="1-twice", due_in_ms=200)])
    embedded_stand.read(embedded_stand.due, until=lambda records: len(records) >= 1)
    first.kill()
    embedded_broker.heal(Request.OFFSET_COMMIT)
    embedded_stand.start()
    found = embedded_stand.read(embedded_stand.due, until=lambda records: len(records) >= 2)
    assert found[0].headers == found[1].headers
    assert (found[0].key, found[0].value) == (found[1].key, found[1].value)


def test_refused_publish_stops_its_partition_until_it_is_taken(
    embedded_stand: RelayStand, embedded_broker: EmbeddedBroker
) -> None:
    """A refused record is never passed over: its partition waits, tells, and goes on when it is taken."""
    embedded_stand.start()
    due = embedded_stand.park([Parked(copy=f"1-{index}", due_in_ms=1500) for index in range(5)])
    embedded_broker.fail(Request.PRODUCE, [_TOPIC_AUTHORIZATION_FAILED])
    found = _released(embedded_stand, due)
    assert len(found) == len(due)
    assert "relay.partition.stopped" in embedded_stand.log()


def test_broker_outage_delays_and_loses_nothing(
    embedded_stand: RelayStand, embedded_broker: EmbeddedBroker
) -> None:
    """While the broker is away the relay stays; when it is back everything is released."""
    process = embedded_stand.start()
    due = embedded_stand.park([Parked(copy=f"1-{index}", due_in_ms=700) for index in range(20)])
    embedded_broker.down()
    late_ms = max(due.values()) + 500
    wait_until_sync(lambda: embedded_stand.now_ms() > late_ms, what="all due while the broker is away")
    embedded_broker.up()
    found = _released(embedded_stand, due)
    assert {_copy_of(record) for record in found} == due.keys()
    assert process.poll() is None


def test_parked_records_that_kafka_deleted_are_told_and_the_oldest_left_comes_next(
    embedded_stand: RelayStand, embedded_broker: EmbeddedBroker
) -> None:
    """A tier whose retention ran out loses events in no silence, and none that is still there."""
    first = embedded_stand.start()
    gone = embedded_stand.park([Parked(copy=f"1-gone{index}", due_in_ms=100) for index in range(4)])
    _released(embedded_stand, gone)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0, embedded_stand.log()
    parked = embedded_stand.park([Parked(copy=f"1-{index}", due_in_ms=100) for index in range(5)])
    embedded_broker.delete_records(embedded_stand.tiers[0], 0, 7)
    embedded_stand.start()
    left = list(parked)[3:]
    found = _released(embedded_stand, left)
    assert [_copy_of(record) for record in found] == left
    (told,) = (json.loads(line) for line in embedded_stand.log().splitlines() if "records.missed" in line)
    assert (told["topic"], told["wanted"], told["oldest"], told["missed"]) == (
        *(embedded_stand.tiers[0], 4, 7),
        3,
    )


def test_relay_ends_in_order_on_sigterm(stand: RelayStand) -> None:
    """SIGTERM commits what was released, leaves the group and exits 0; the next relay repeats nothing."""
    first = stand.start()
    stand.park([Parked(copy="1-a", due_in_ms=100), Parked(copy="1-z", due_in_ms=5500, tier=2)])
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


@pytest.mark.real_kafka
def test_the_age_of_the_oldest_dead_letter_is_told(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A letter that somebody left in the DLQ shows its age from the relay's start on."""
    with _stand(request, "real", tmp_path) as stand:
        stand.publish([OutgoingRecord(topic=stand.dlq, key=b"k", value=b"{}", partition=1)])
        stand.start()

        def is_told() -> bool:
            shown = httpx.get(f"http://127.0.0.1:{stand.health_port()}/metrics").text
            age = re.search(
                r'^sluicegate_relay_oldest_dead_letter_seconds{stream="support-chat"} (\S+)', shown, re.M
            )
            return age is not None and 0 < float(age[1]) < 60

        wait_until_sync(is_told, timeout_s=10, what="the age of the letter")


def test_relays_share_the_tiers_and_one_goes_on_when_the_other_dies(stand: RelayStand) -> None:
    """Partitions are divided; after a kill -9 the other takes all within its session, none early or lost."""
    victim = stand.start()
    stand.start()
    # The first relay gives all back and takes its half: the group is whole when both have theirs.
    wait_until_sync(lambda: stand.log().count("relay.assigned") >= 3, timeout_s=20, what="both assigned")
    due = stand.park(
        [
            Parked(copy=f"1-{index}", due_in_ms=2000 + index * 20, partition=index % 2, tier=2)
            for index in range(150)
        ]
    )
    stand.read(stand.due, until=lambda records: len(records) >= 20)
    victim.kill()
    found = _released(stand, due)
    assert {record.partition for record in found} == {0, 1}
    assert [record for record in found if record.timestamp_ms < due[_copy_of(record)]] == []
    assert len({(record.key, record.value, record.headers) for record in found}) == len(due)
    # A session of 1.5 s, and what a group needs to notice and to read in again on a busy machine.
    assert max(record.timestamp_ms - due[_copy_of(record)] for record in found) < 10_000
