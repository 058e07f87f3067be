"""The topic table: names, shapes, and what rests on them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import ConfigurationError
from sluicegate.settings import Settings, load_settings
from sluicegate.topics import TopicSpec, audit_topic, relay_group, stream_topics, topic_table


def settings(**variables: str) -> Settings:
    """Settings from variables given without their prefix."""
    return load_settings(None, {f"SLUICEGATE_{name}": value for name, value in variables.items()})


def table(**variables: str) -> dict[str, TopicSpec]:
    """The table by name."""
    return {spec.name: spec for spec in topic_table(settings(**variables))}


def test_a_streams_topics_have_the_documented_names() -> None:
    """Others subscribe to these names, so they never change by accident."""
    names = stream_topics(settings(), "support-chat")
    assert names.input == "support-chat"
    assert names.due == "sluicegate.support-chat.due"
    assert names.tiers == tuple(f"sluicegate.support-chat.retry.{n}" for n in range(1, 6))
    assert names.results == "support-chat.results"
    assert names.dlq == "sluicegate.support-chat.dlq"
    assert names.group == "sluicegate.support-chat"
    assert relay_group(settings()) == "sluicegate.relay"
    assert audit_topic(settings()) == "sluicegate.audit"


def test_only_public_names_can_be_set() -> None:
    """Input and results go where they are told; internal names follow the group and the stream."""
    own = settings(
        KAFKA__GROUP="team", STREAMS__DOCUMENTS__TOPIC="in.put", STREAMS__DOCUMENTS__RESULTS_TOPIC="out"
    )
    names = stream_topics(own, "documents")
    assert (names.input, names.results, names.due) == ("in.put", "out", "team.documents.due")


def test_an_unknown_stream_has_no_topics() -> None:
    """A misspelt stream is an error, not a set of new names."""
    with pytest.raises(ConfigurationError, match="did you mean documents"):
        stream_topics(settings(), "document")


def test_the_table_holds_every_topic_once() -> None:
    """Input, due, five tiers, results and dead letters of two streams, and the audit's."""
    names = [spec.name for spec in topic_table(settings())]
    assert len(names) == len(set(names)) == 2 * 9 + 1
    assert names[-1] == "sluicegate.audit"


def test_tiers_and_due_have_the_inputs_partitions_and_append_time() -> None:
    """Parking writes to the origin's partition number, and the relay reads ahead by append time."""
    specs = table(TOPICS__PARTITIONS="7")
    waiting = [spec for name, spec in specs.items() if ".retry." in name or name.endswith(".due")]
    assert len(waiting) == 12
    for spec in waiting:
        assert spec.partitions == specs["documents"].partitions == 7
        assert spec.config["message.timestamp.type"] == "LogAppendTime"
    assert "message.timestamp.type" not in specs["documents"].config


def test_nothing_internal_is_kept_shorter_than_it_must_wait() -> None:
    """Tiers, due and dead letters carry their own retention, inputs and results the broker's."""
    specs = table(TOPICS__RETRY_RETENTION_S="700000", TOPICS__DLQ_RETENTION_S="5")
    assert specs["sluicegate.documents.retry.1"].config["retention.ms"] == "700000000"
    assert specs["sluicegate.documents.due"].config["retention.ms"] == "700000000"
    assert specs["sluicegate.documents.dlq"].config["retention.ms"] == "5000"
    assert "retention.ms" not in specs["documents"].config
    assert {spec.config["cleanup.policy"] for spec in specs.values()} == {"delete"}


@pytest.mark.parametrize(("event_bytes", "input_bytes"), [("900000", 1_048_588), ("3000000", 3_065_536)])
def test_internal_topics_take_what_the_input_takes_and_its_headers(
    event_bytes: str, input_bytes: int
) -> None:
    """The largest event still fits a tier and the dead letters, with our headers on it."""
    specs = table(STREAMS__DOCUMENTS__MAX_EVENT_BYTES=event_bytes)
    assert specs["documents"].config["max.message.bytes"] == str(input_bytes)
    for name in ("due", "retry.3", "dlq"):
        assert specs[f"sluicegate.documents.{name}"].config["max.message.bytes"] == str(input_bytes + 65_536)


def test_the_table_says_who_writes_and_who_reads() -> None:
    """Access lists are made of these columns."""
    specs = table()
    assert (specs["documents"].writers, specs["documents"].readers) == (("other services",), ("worker",))
    tier = specs["sluicegate.documents.retry.2"]
    assert (tier.writers, tier.readers) == (("worker", "relay"), ("relay", "replay"))
    assert specs["sluicegate.documents.due"].readers == ("worker",)


def test_a_topic_between_two_streams_stands_once_with_both_demands() -> None:
    """One stream's results may be another's input."""
    specs = table(
        STREAMS__SUPPORT_CHAT__RESULTS_TOPIC="chain",
        STREAMS__DOCUMENTS__TOPIC="chain",
        STREAMS__DOCUMENTS__MAX_EVENT_BYTES="2000000",
    )
    chain = specs["chain"]
    assert set(chain.writers) == set(chain.readers) == {"worker", "other services"}
    assert chain.config["max.message.bytes"] == "2065536"


@given(group=st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True), tiers=st.integers(1, 20))
def test_every_name_is_one_that_kafka_takes(group: str, tiers: int) -> None:
    """Whatever the group and the number of tiers, names are legal and distinct."""
    bounds = str([n + 1 for n in range(tiers)])
    specs = topic_table(settings(KAFKA__GROUP=group, RETRY__TIERS_S=bounds))
    assert len({spec.name for spec in specs}) == len(specs) == 2 * (4 + tiers) + 1
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", spec.name) for spec in specs)
