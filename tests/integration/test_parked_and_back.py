"""What is parked comes back once and when it may, whatever is killed meanwhile; on real Kafka."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import httpx
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, Process, Seen, origin
from tests.integration.test_whole_way import conversations, most_over_limit, out_of_order, paid_twice
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

STREAM = "support-chat"
REQUESTS_PER_MINUTE = 1200
BURST_S = 1.0
WAIT_S = 9.0
_SPREAD_S = max(1.0, WAIT_S / 10)
FRESH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened in a deployment whose provider said: wait 9 s. Processes still run."""

    deployment: Deployment
    events: int
    refused: list[dict[str, Any]]
    ends: list[Seen]
    clock_ahead_s: float
    relay: Process
    worker: Process


@pytest.fixture(scope="module")
def story(real_kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Let calls be refused with a Retry-After, kill worker, relay and Redis, start them, wait for the end."""
    with Deployment(
        kafka=real_kafka,
        prefix=f"t{token_hex(4)}",
        folder=tmp_path_factory.mktemp("parked"),
        # A second's calls may go at once, so that several are on the wire when the quota is cut.
        limits={
            "requests_per_minute": REQUESTS_PER_MINUTE,
            "tokens_per_minute": 10_000_000,
            "burst_s": BURST_S,
        },
        provider_arguments=("--burst-s", "2"),
        stream={"max_running": 16},
        retry={"in_place_max_s": 1, "tiers_s": [2, 6, 30]},
        session_timeout_s=3,
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics, {"message.timestamp.type": "LogAppendTime"})
        yield _happened(deployment)


def _happened(deployment: Deployment) -> Story:
    killed = deployment.start_relay(), deployment.start_worker(STREAM)
    events = conversations(count=16, turns=2)
    fresh = [{**events[0], "conversation_id": f"fresh-{number}"} for number in range(FRESH)]
    deployment.publish(STREAM, events[:16], key="conversation_id")
    deployment.wait_for_ends(STREAM, 16, timeout_s=60)
    deployment.faults({"kind": "cut", "for_s": WAIT_S, "retry_after_s": WAIT_S, "fixed": True})
    deployment.publish(STREAM, events[16:], key="conversation_id")
    refused = _settled_refusals(deployment)
    deployment.publish(STREAM, fresh, key="conversation_id")
    for process in killed:
        process.kill()
    deployment.redis.kill()
    deployment.redis.start()
    relay, worker = deployment.start_relay(), deployment.start_worker(STREAM)
    ends = deployment.wait_for_ends(STREAM, len(events) + FRESH, timeout_s=60)
    return Story(
        deployment=deployment,
        events=len(events) + FRESH,
        refused=refused,
        ends=ends,
        clock_ahead_s=time.time() - deployment.provider_now(),
        relay=relay,
        worker=worker,
    )


def _tier_topics(deployment: Deployment) -> list[str]:
    return [deployment.internal(STREAM, f"retry.{tier}") for tier in range(1, len(deployment.tiers_s) + 1)]


def _parked(deployment: Deployment) -> list[Seen]:
    return [record for topic in _tier_topics(deployment) for record in deployment.read(topic)]


def _released(deployment: Deployment) -> list[Seen]:
    return deployment.read(deployment.internal(STREAM, "due"))


def _copies(records: list[Seen]) -> Counter[str | None]:
    return Counter(record.header("retry-copy") for record in records)


def _take_commits_back(deployment: Deployment) -> None:
    """Leave the dead relay's group as if it had been killed before it committed anything."""
    group = f"{deployment.group}.relay"
    start = [
        TopicPartition(topic, number, 0)
        for topic in _tier_topics(deployment)
        for number in range(deployment.partitions)
    ]
    admin = AdminClient({"bootstrap.servers": deployment.kafka})

    def taken_back() -> bool:
        (future,) = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, start)]).values()
        try:
            return all(place.error is None for place in future.result(10).topic_partitions)
        except KafkaException:
            return False  # the dead member is in the group until its session is over

    wait_until_sync(taken_back, timeout_s=20, what="the dead relay's group is empty")


def _stale(worker: Process) -> float:
    port = worker.log.read_text().partition('"port":')[2].partition(",")[0].strip()
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, trust_env=False).text
    name = "sluicegate_stale_copies_total{"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_a_retry_after_outlives_restarts_of_everything_and_the_parked_go_first(story: Story) -> None:
    """A 429 that says wait parks what was on the wire that long: nobody calls before, whoever is killed.

    Meanwhile fresh events stay in their topic; when the scope opens, a parked one that is due goes ahead
    of them, and all of them at the limiter's rate.
    """
    deployment, refused, ends = story.deployment, story.refused, story.ends
    calls = deployment.calls()
    cut_at = refused[0]["received_at"]
    after = [call for call in calls if call["received_at"] > cut_at and call["status"] == 200]
    assert [call for call in calls if call["status"] == 429] == refused
    assert min(call["received_at"] for call in after) >= cut_at + WAIT_S
    assert most_over_limit(after, REQUESTS_PER_MINUTE, burst_s=BURST_S) == 0
    told = [record for record in _parked(deployment) if record.header("retry-source") == "retry-after"]
    assert {_identity(record, ends) for record in told} == {call["identity"] for call in refused}
    for record in told:
        waits_s = int(record.header("retry-due-at-ms") or 0) / 1000 - story.clock_ahead_s - cut_at
        assert WAIT_S - 0.1 <= waits_s <= WAIT_S + _SPREAD_S + 1, "a second for a refusal that was slow"
    released = _released(deployment)
    assert [r for r in released if r.timestamp_ms < int(r.header("retry-due-at-ms") or 0)] == []
    assert max(_overtaken(record, story, after) for record in released) < FRESH / 2
    assert len(ends) == story.events
    assert {end.topic for end in ends} == {deployment.results(STREAM)}
    assert out_of_order(ends) == 0
    assert paid_twice(calls) == 0


def test_what_a_dead_relay_released_without_a_commit_is_released_again_and_dropped(story: Story) -> None:
    """G1: killed between the confirmed publish and the commit; Take knows the repeats by their copy."""
    deployment = story.deployment
    story.relay.kill()
    first = _copies(_released(deployment))
    stale_before = _stale(story.worker)
    calls_before = len(deployment.calls())
    _take_commits_back(deployment)

    deployment.start_relay()
    wait_until_sync(
        lambda: len(_released(deployment)) >= 2 * first.total(), timeout_s=30, what="released again"
    )
    wait_until_sync(
        lambda: _stale(story.worker) >= stale_before + first.total(), timeout_s=20, what="dropped"
    )

    assert first.total() > 0
    assert _copies(_released(deployment)) == first + first
    assert len(deployment.read(deployment.results(STREAM))) == story.events
    assert deployment.read(deployment.internal(STREAM, "dlq")) == []
    assert len(deployment.calls()) == calls_before


def _identity(record: Seen, ends: list[Seen]) -> str | None:
    """Return the identity of a parked record's event: its result's id."""
    (found,) = {end.header("ce_id") for end in ends if origin(end) == origin(record)}
    return found


def _overtaken(released: Seen, story: Story, calls: list[dict[str, Any]]) -> int:
    """Count the calls that others made between a record's release and its own call."""
    identity = _identity(released, story.ends)
    since = released.timestamp_ms / 1000 - story.clock_ahead_s
    (own,) = (call["received_at"] for call in calls if call["identity"] == identity)
    return sum(since < call["received_at"] < own for call in calls)


def _settled_refusals(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the calls that were refused, once no call is on the wire and none follows for a second."""
    found: list[dict[str, Any]] = []

    def settled() -> bool:
        calls = deployment.calls()
        found[:] = sorted(
            (call for call in calls if call["status"] == 429), key=lambda call: call["received_at"]
        )
        is_over = all(call["completed_at"] is not None for call in calls if call["status"] == 200)
        return bool(found) and is_over and deployment.provider_now() > found[-1]["received_at"] + 1

    wait_until_sync(settled, timeout_s=20, what="the refusals are over")
    return found
