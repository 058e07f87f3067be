"""What worker and relay write while Kafka and then Redis are away: something, and not much."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sluicegate.local.broker import EmbeddedBroker
from tests.integration.deployment import Deployment, Process
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

OUTAGE_LINES = 5  # the first that a client writes of an outage show that it has begun
LINES_OF_A_KIND = 5
KINDS = 24


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Return the process's log; a line that is no JSON fails: whatever writes past our logging can flood."""
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def kind_of(line: dict[str, Any]) -> tuple[str, ...]:
    """Return what makes a line one of a kind: names, and a library's message without its numbers."""
    message = "".join(char for char in str(line.get("message", "")) if not char.isdigit())
    return line["event"], str(line.get("logger")), message.split(":")[0][:40], str(line.get("topic"))


def test_an_outage_of_the_broker_or_of_redis_is_told_and_floods_no_log(prefix: str, tmp_path: Path) -> None:
    """Per process at most a few lines of each kind in half a minute, those of every library included."""
    broker = EmbeddedBroker()
    with broker, Deployment(kafka=broker.address, prefix=prefix, folder=tmp_path) as deployment:
        broker.create_topics(deployment.topics)
        worker = deployment.start_worker("support-chat")
        relay = deployment.start_relay()
        deployment.publish("support-chat", [chat(0)], key="conversation_id")
        deployment.wait_for_ends("support-chat", 1, timeout_s=30)
        before = {process: len(lines_of(process)) for process in (worker, relay)}

        broker.down()
        for process in (worker, relay):
            wait_until_sync(
                lambda process=process: len(lines_of(process)) >= before[process] + OUTAGE_LINES,  # type: ignore[misc]  # bound early
                timeout_s=25,
                what=f"{process.name} to say that Kafka is away",
            )
        broker.up()
        deployment.publish("support-chat", [chat(1)], key="conversation_id")
        deployment.wait_for_ends("support-chat", 2, timeout_s=60)

        for process in (worker, relay):
            said = Counter(kind_of(line) for line in lines_of(process) if line["event"] != "delivery.done")
            assert max(said.values()) <= 2 * LINES_OF_A_KIND, said
            assert len(said) <= KINDS, said


def chat(turn: int) -> dict[str, Any]:
    """Return a customer's message."""
    return {"conversation_id": "c-1", "turn": turn, "speaker": "customer", "text": "Where is my parcel?"}
