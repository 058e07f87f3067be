"""What a process lives through that is none of Kafka's, Redis's or the provider's doing."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from sluicegate.local.broker import EmbeddedBroker
from tests.integration.deployment import Deployment, Process
from tests.integration.test_whole_way import conversations, most_over_limit, out_of_order, paid_twice
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
REQUESTS_PER_MINUTE = 600
RETRY_AFTER_S = 4.0
SKEW_S = 30


def with_folder(folder: Path) -> dict[str, str]:
    """Return the environment in which Python reads the folder's `sitecustomize` at its start."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def with_clock(ahead_s: int) -> dict[str, str]:
    """Return the environment of a process whose wall clock is wrong."""
    return {**with_folder(TESTS / "chaos" / "skew"), "CHAOS_CLOCK_AHEAD_S": str(ahead_s)}


def test_clocks_that_are_30_s_off_harm_neither_due_times_nor_limits(
    embedded_broker: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """G2, G3: two workers a minute apart agree on when an event is due and on when a call may start."""
    with Deployment(
        kafka=embedded_broker.address,
        prefix=prefix,
        folder=tmp_path,
        limits={"requests_per_minute": REQUESTS_PER_MINUTE, "tokens_per_minute": 10_000_000},
        stream={"max_running": 8},
    ) as deployment:
        embedded_broker.create_topics(deployment.topics)
        events = conversations(count=16, turns=4)
        deployment.start_relay()
        workers = [
            deployment.start_worker(
                "support-chat", "--embedded-broker", environment=with_clock(sign * SKEW_S)
            )
            for sign in (1, -1)
        ]
        deployment.publish("support-chat", events[:48], key="conversation_id")
        wait_until_sync(
            lambda: all("delivery.done" in worker.log.read_text() for worker in workers),
            timeout_s=40,
            what="both have work",
        )
        deployment.faults(
            {
                "kind": "status",
                "status": 429,
                "retry_after_s": RETRY_AFTER_S,
                "retry_after_as": "date",
                "for_s": 1,
            }
        )
        deployment.publish("support-chat", events[48:], key="conversation_id")

        ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)

        calls = deployment.calls()
        parked = [
            record
            for tier in range(1, len(deployment.tiers_s) + 1)
            for record in deployment.read(deployment.internal("support-chat", f"retry.{tier}"))
        ]
        refused_at = [call["received_at"] for call in calls if call["status"] == 429]
        due_at = [int(record.header("retry-due-at-ms") or 0) / 1000 for record in parked]
        assert due_at
        # A date has whole seconds, and the times of those who are released together are spread.
        assert min(due_at) > min(refused_at) + RETRY_AFTER_S - 1
        assert max(due_at) < max(refused_at) + RETRY_AFTER_S + SKEW_S / 2
        released = deployment.read(deployment.internal("support-chat", "due"))
        assert [r for r in released if r.timestamp_ms < int(r.header("retry-due-at-ms") or 0)] == []
        assert most_over_limit(calls, REQUESTS_PER_MINUTE) == 0
        assert {end.topic for end in ends} == {deployment.results("support-chat")}
        assert len(ends) == len(events)
        assert out_of_order(ends) == paid_twice(calls) == 0


def test_worker_and_relay_need_no_disk(embedded_broker: EmbeddedBroker, prefix: str, tmp_path: Path) -> None:
    """A full disk or a read-only one stops nobody: an event is parked, released and answered without any."""
    no_disk = with_folder(TESTS / "fixtures" / "no_disk")
    with Deployment(
        kafka=embedded_broker.address,
        prefix=prefix,
        folder=tmp_path,
        environments={"worker": no_disk, "relay": no_disk},
    ) as deployment:
        embedded_broker.create_topics(deployment.topics)
        relay = deployment.start_relay()
        worker = deployment.start_worker("support-chat")
        deployment.faults({"kind": "status", "status": 429, "retry_after_s": 3, "calls": 1})
        deployment.publish("support-chat", conversations(count=1, turns=2), key="conversation_id")

        ends = deployment.wait_for_ends("support-chat", 2, timeout_s=40)

        assert {end.topic for end in ends} == {deployment.results("support-chat")}
        assert deployment.read(deployment.internal("support-chat", "due")) != []
        assert (worker.stop(), relay.stop()) == (0, 0)


def test_a_kafka_whose_name_does_not_resolve_is_waited_for_and_told(prefix: str, tmp_path: Path) -> None:
    """DNS that fails at the start is an outage like any other: nobody ends, and SIGTERM ends in order."""
    with Deployment(kafka="kafka.invalid:9092", prefix=prefix, folder=tmp_path) as deployment:
        processes = (deployment.start_worker("support-chat"), deployment.start_relay())
        for process in processes:
            wait_until_sync(
                partial(is_told, process), timeout_s=30, what=f"{process.name} to say what it cannot reach"
            )
        assert [process.is_running for process in processes] == [True, True]
        assert [process.stop() for process in processes] == [0, 0]


def is_told(process: Process) -> bool:
    """Whether the process's log names the host that is not there."""
    return "kafka.invalid" in process.log.read_text()
