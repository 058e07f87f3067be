"""When parked records come back, judged by the append times of real Kafka.

How fast is measured in benchmarks/; what is asserted here holds on a busy machine too: never early, in the
order of the due times, and far truer to them than a queue could be.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from secrets import token_hex

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from benchmarks.relay_figures import Release, most_above_drawn, most_in_a_window
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.records import Record
from tests.fixtures.kafka import create_real_topics
from tests.integration.relay_stand import Parked, RelayStand
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

_WINDOW_MS = 100


@pytest.fixture(scope="module")
def running(
    real_kafka: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RelayStand]:
    """Return topics with one relay; each test has copies of its own."""
    with RelayStand(
        kafka=real_kafka,
        redis_url=redis_url,
        prefix=f"t{token_hex(4)}",
        folder=tmp_path_factory.mktemp("releases"),
        make_topics=lambda topics, config=None: create_real_topics(real_kafka, topics, config),
    ) as stand:
        stand.start()
        yield stand


def _copy_of(record: Record) -> str:
    return dict(record.headers)["retry-copy"].decode()


def _released(stand: RelayStand, due: Mapping[str, int]) -> list[Record]:
    """Wait until every copy has come out on `due`; return their records, repeats included."""
    found = stand.read(stand.due, until=lambda records: {_copy_of(r) for r in records} >= due.keys())
    return [record for record in found if _copy_of(record) in due]


def _as_releases(records: Sequence[Record], due: Mapping[str, int]) -> list[Release]:
    return [
        Release(
            copy=_copy_of(record),
            due_ms=due[_copy_of(record)],
            stored_ms=record.timestamp_ms,
            seen_ms=record.timestamp_ms,
        )
        for record in records
    ]


def _from_a_queue(parked: Sequence[Parked], due: Mapping[str, int]) -> list[Release]:
    """Return when a tier that is read from the front would have released the same: at the running maximum."""
    latest: dict[int, int] = {}
    releases = []
    for each in parked:
        at_ms = latest[each.partition] = max(due[each.copy], latest.get(each.partition, 0))
        releases.append(Release(copy=each.copy, due_ms=due[each.copy], stored_ms=at_ms, seen_ms=at_ms))
    return releases


def _mean_late_ms(releases: Sequence[Release]) -> float:
    return sum(release.late_ms for release in releases) / len(releases)


def test_releases_keep_the_jitter_that_was_drawn(running: RelayStand) -> None:
    """G2: of 1,000 parked together with delays U(3, 6) s each leaves at its own time, not in a burst."""
    chance = random.Random(20261124)
    parked = [
        Parked(copy=f"1-jitter{index}", due_in_ms=chance.randint(3000, 5999), tier=2, partition=index % 2)
        for index in range(1000)
    ]
    due = running.park(parked)
    found = _released(running, due)
    ours, queued = _as_releases(found, due), _from_a_queue(parked, due)

    assert len(found) == len(due)
    assert [release for release in ours if release.late_ms < 0] == []
    for partition in (0, 1):
        order = [due[_copy_of(record)] for record in found if record.partition == partition]
        assert order == sorted(order)
    assert _mean_late_ms(ours) < _mean_late_ms(queued) / 10
    stored_ms = [release.stored_ms for release in ours]
    assert most_in_a_window(stored_ms, _WINDOW_MS) < most_in_a_window(
        [release.stored_ms for release in queued], _WINDOW_MS
    )
    assert most_above_drawn(ours, _WINDOW_MS) < most_above_drawn(queued, _WINDOW_MS) / 2


def test_thousands_due_at_one_instant_all_come_out_and_none_early(running: RelayStand) -> None:
    """G2: 5,000 of one due time leave as fast as the broker confirms them, each once."""
    due = running.park(
        [
            Parked(copy=f"1-instant{index}", due_in_ms=4000, tier=2, partition=index % 2)
            for index in range(5000)
        ]
    )
    found = _released(running, due)
    late_ms = [release.late_ms for release in _as_releases(found, due)]
    assert len(found) == len(due)
    assert min(late_ms) >= 0
    assert max(late_ms) < 10_000


def test_a_record_that_cannot_be_published_stops_its_partition_and_no_other(running: RelayStand) -> None:
    """What `due` refuses is never passed over: metric and log tell, the others go on."""
    _limit_record_size(running, "2000")
    running.publish_parked(Parked(copy="1-huge", due_in_ms=1000), value=b"x" * 3000)
    wait_until_sync(lambda: _stopped(running) == 1, timeout_s=20, what="the metric tells of the partition")
    behind = running.park([Parked(copy="1-behind", due_in_ms=300)])
    beside = running.park([Parked(copy="1-beside", due_in_ms=300, partition=1)])
    assert len(_released(running, beside)) == 1
    assert running.log().count("relay.partition.stopped") >= 1
    seen = {_copy_of(record) for record in running.read(running.due, until=bool)}
    assert seen.isdisjoint({"1-huge", *behind})
    _limit_record_size(running, "1100000")

    found = _released(running, {"1-huge": 0, **behind})

    assert [_copy_of(record) for record in found] == ["1-huge", "1-behind"]
    wait_until_sync(lambda: _stopped(running) == 0, timeout_s=20, what="the metric falls back")
    assert "relay.partition.resumed" in running.log()


def test_markers_of_transactions_leave_no_lag(running: RelayStand) -> None:
    """Behind the last record of a tier may stand what no reader sees: the commit goes past it."""
    producer = Producer({"bootstrap.servers": running.kafka, "transactional.id": running.prefix})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(running.tiers[0], b"no copy", partition=1)
    producer.commit_transaction(30)
    place = TopicPartition(running.tiers[0], 1)
    reader = Consumer({"bootstrap.servers": running.kafka, "group.id": f"{running.prefix}.relay"})
    _, end = reader.get_watermark_offsets(place, timeout=10) or (0, 0)

    def caught_up() -> bool:
        return bool(reader.committed([place], timeout=10)[0].offset == end)

    wait_until_sync(caught_up, timeout_s=20, what=f"the commit reaches {end}")
    reader.close()


def _limit_record_size(stand: RelayStand, most_bytes: str) -> None:
    entry = ConfigEntry("max.message.bytes", most_bytes, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, stand.due, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": stand.kafka})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)
    asking = KafkaAdmin(stand.kafka)
    wait_until_sync(
        lambda: asking.topic_configs([stand.due])[stand.due]["max.message.bytes"] == most_bytes,
        timeout_s=20,
        what="the broker knows of it",
    )


def _stopped(stand: RelayStand) -> float:
    text = httpx.get(f"http://127.0.0.1:{stand.health_port()}/metrics", timeout=5, trust_env=False).text
    name = "sluicegate_relay_stopped_partitions{"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
