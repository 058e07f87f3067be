"""Asking and changing a cluster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from sluicegate.cli.main import build_app, run
from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Bounds, Committed, KafkaAdmin, Partition
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.topic_check import create_missing, differences, uneven_topics
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.records import OutgoingRecord
from sluicegate.settings import Settings, load_settings
from sluicegate.topics import topic_table
from tests.fixtures.kafka import MakeTopics, create_real_topics


def _settings(address: str, prefix: str) -> Settings:
    return load_settings(None, _environment(address, prefix))


def _environment(address: str, prefix: str) -> dict[str, str]:
    return {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": address,
        "SLUICEGATE_KAFKA__GROUP": prefix,
        "SLUICEGATE_TOPICS__PARTITIONS": "3",
        "SLUICEGATE_RETRY__TIERS_S": "[5, 30]",
        "SLUICEGATE_STREAMS__SUPPORT_CHAT__TOPIC": f"in-{prefix}.chat",
        "SLUICEGATE_STREAMS__SUPPORT_CHAT__RESULTS_TOPIC": f"in-{prefix}.chat.results",
        "SLUICEGATE_STREAMS__DOCUMENTS__TOPIC": f"in-{prefix}.documents",
        "SLUICEGATE_STREAMS__DOCUMENTS__RESULTS_TOPIC": f"in-{prefix}.documents.results",
    }


def test_bounds_and_commits_are_read_without_joining(
    kafka: str, make_topics: MakeTopics, prefix: str
) -> None:
    """A group's place and its metadata come back; a partition without a commit has none."""
    make_topics({prefix: 2})
    with ConfluentPublisher(kafka, client_id="test") as publisher:
        publisher.publish_all([OutgoingRecord(topic=prefix, key=None, value=b"v", partition=1)] * 3)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": prefix, "enable.auto.commit": False})
    consumer.commit(offsets=[TopicPartition(prefix, 1, 2, "map")], asynchronous=False)
    consumer.close()
    places = [Partition(topic=prefix, number=number) for number in range(2)]
    admin = KafkaAdmin(kafka)
    assert admin.bounds(places) == {places[0]: Bounds(low=0, high=0), places[1]: Bounds(low=0, high=3)}
    assert admin.committed(prefix, places) == {
        places[0]: None,
        places[1]: Committed(offset=2, metadata="map"),
    }


@pytest.mark.real_kafka
def test_the_time_of_the_oldest_record_is_told_without_reading_it(real_kafka: str, prefix: str) -> None:
    """By the record's own timestamp, which retention counts by; an empty partition has none."""
    create_real_topics(real_kafka, {prefix: 2})
    oldest_ms = time.time_ns() // 1_000_000 - 3_600_000
    producer = Producer({"bootstrap.servers": real_kafka})
    for number in range(3):
        producer.produce(prefix, value=b"v", partition=1, timestamp=oldest_ms + number)
    assert producer.flush(10) == 0
    places = [Partition(topic=prefix, number=number) for number in range(2)]
    assert KafkaAdmin(real_kafka).oldest_ms(places) == {places[1]: oldest_ms}


@pytest.mark.real_kafka
def test_create_makes_what_is_missing_and_nothing_else(real_kafka: str, prefix: str) -> None:
    """An input that is there keeps its width, and the stream's internal topics take it."""
    create_real_topics(real_kafka, {f"in-{prefix}.chat": 5})
    settings, admin = _settings(real_kafka, prefix), KafkaAdmin(real_kafka)
    made = create_missing(settings, admin)
    assert set(made) == {spec.name for spec in topic_table(settings)} - {f"in-{prefix}.chat"}
    counts = admin.partition_counts()
    assert counts[f"in-{prefix}.chat"] == counts[f"{prefix}.support-chat.retry.2"] == 5
    assert counts[f"{prefix}.documents.due"] == 3
    assert create_missing(settings, admin) == ()
    assert differences(settings, admin) == ()
    admin.delete(made)


@pytest.mark.real_kafka
def test_check_names_every_difference(
    real_kafka: str, prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tier of another width, one without append time and a missing topic are each told, with exit 1."""
    create_real_topics(real_kafka, {f"in-{prefix}.chat": 3, f"{prefix}.support-chat.retry.1": 2})
    for name, value in _environment(real_kafka, prefix).items():
        monkeypatch.setenv(name, value)
    assert run(build_app(), ["topics", "--check"]) == 1
    told = capsys.readouterr().err
    assert f"{prefix}.support-chat.retry.1 has 2 partitions and in-{prefix}.chat has 3" in told
    assert f"{prefix}.support-chat.retry.1 has message.timestamp.type=CreateTime" in told
    assert f"{prefix}.documents.due is missing" in told
    assert run(build_app(), ["topics", "--create"]) == 0
    assert uneven_topics(_settings(real_kafka, prefix), KafkaAdmin(real_kafka).partition_counts())


def test_embedded_broker_refuses_to_make_topics(embedded_broker: EmbeddedBroker, prefix: str) -> None:
    """Asked for topics over the wire, the embedded broker is an error at once, not a wait."""
    settings, admin = _settings(embedded_broker.address, prefix), KafkaAdmin(embedded_broker.address)
    with pytest.raises(BrokerError, match="not supported"):
        create_missing(settings, admin)
    embedded_broker.create_topics({spec.name: spec.partitions for spec in topic_table(settings)})
    assert create_missing(settings, admin) == ()


def test_a_broker_that_is_away_is_an_error_in_time() -> None:
    """Every question is bounded."""
    with EmbeddedBroker({"a": 1}) as broker:
        admin = KafkaAdmin(broker.address, timeout_s=0.3)
        broker.down()
        with pytest.raises(BrokerError):
            admin.partition_counts()
        with pytest.raises(BrokerError):
            admin.bounds([Partition(topic="a", number=0)])
        with pytest.raises(BrokerError):
            admin.committed("g", [Partition(topic="a", number=0)])


def test_table_is_printed_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --create or --check nothing is asked of a cluster, and data go to stdout."""
    config = tmp_path / "sluicegate.toml"
    config.write_text('[topics]\nreplication_factor = 3\n[kafka]\ngroup = "Team_A"\n')
    assert run(build_app(), ["topics", "--config", str(config), "--format", "strimzi"]) == 0
    manifest = capsys.readouterr().out
    assert manifest.count("apiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\n") == 19
    assert '  name: "team-a.support-chat.due"\n' in manifest
    assert '  topicName: "Team_A.support-chat.due"\n  partitions: 12\n  replicas: 3\n' in manifest
    assert run(build_app(), ["topics", "--config", str(config), "--format", "json"]) == 0
    assert '"name": "Team_A.support-chat.retry.5"' in capsys.readouterr().out
    assert run(build_app(), ["topics", "--config", str(config)]) == 0
    assert "message.timestamp.type=LogAppendTime" in capsys.readouterr().out
