"""What worker and relay write while Kafka is away: something, and not much."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sluicegate.local.broker import EmbeddedBroker
from tests.integration.deployment import Deployment, Process
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

LINES_OF_A_KIND = 5
KINDS = 24
CHAT = {"conversation_id": "c-1", "turn": 0, "speaker": "customer", "text": "Where is my parcel?"}


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Return the process's log; a line that is no JSON fails: whatever writes past our logging can flood."""
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def kind_of(line: dict[str, Any]) -> tuple[str, ...]:
    """Return what makes a line one of a kind: names, and a library's message without its numbers."""
    message = "".join(char for char in str(line.get("message", "")) if not char.isdigit())
    return line["event"], str(line.get("logger")), message[:30], str(line.get("topic"))


def test_an_outage_of_the_broker_is_told_and_floods_no_log(prefix: str, tmp_path: Path) -> None:
    """G1: both stay, with few lines of each kind until the relay has lost its group and longer, and go on."""
    broker = EmbeddedBroker()
    with broker, Deployment(kafka=broker.address, prefix=prefix, folder=tmp_path) as deployment:
        broker.create_topics(deployment.topics)
        worker = deployment.start_worker("support-chat")
        relay = deployment.start_relay()
        deployment.publish("support-chat", [CHAT], key="conversation_id")
        deployment.wait_for_ends("support-chat", 1, timeout_s=30)
        wait_until_sync(
            lambda: "relay.assigned" in relay.log.read_text(), timeout_s=20, what="a relay at work"
        )

        broker.down()
        for process, word in ((relay, "relay.lost"), (worker, "Unable connect")):
            wait_until_sync(
                partial(said, process, word), timeout_s=30, what=f"{process.name} to say that Kafka is away"
            )
        assert worker.is_running
        assert relay.is_running

        for process in (worker, relay):
            kinds = Counter(kind_of(line) for line in lines_of(process) if line["event"] != "delivery.done")
            # The outage may lie across the end of one window.
            assert max(kinds.values()) <= 2 * LINES_OF_A_KIND, kinds
            assert len(kinds) <= KINDS, kinds

        broker.up()
        deployment.publish("support-chat", [{**CHAT, "turn": 1}], key="conversation_id")
        ends = deployment.wait_for_ends("support-chat", 2, timeout_s=60)
        assert [end.topic for end in ends] == [deployment.results("support-chat")] * 2
        assert [process.is_running for process in (worker, relay)] == [True, True]


def said(process: Process, word: str) -> bool:
    """Whether the process's log has the word."""
    return word in process.log.read_text()
