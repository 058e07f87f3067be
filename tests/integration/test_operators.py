"""What operators do to a running deployment: look, pause, cancel, resume, and widen a stream's topics.

On real Kafka; the commands themselves are tested on the embedded broker, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sluicegate.kafka.admin import KafkaAdmin
from tests.contract.inspection_stand import Commands
from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, Process, origin
from tests.integration.test_whole_way import conversations, out_of_order
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

STREAM = "support-chat"
FAR_S = 300  # far beyond this test's end: nothing comes back by itself


@pytest.fixture
def deployment(real_kafka: str, prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment with topics as `topics --create` makes them."""
    with Deployment(
        kafka=real_kafka, prefix=prefix, folder=tmp_path, partitions=2, retry={"in_place_max_s": 0.5}
    ) as deployment:
        topics = deployment.topics
        waiting = {name: n for name, n in topics.items() if re.search(r"\.(due|retry\.\d+)$", name)}
        create_real_topics(real_kafka, {name: n for name, n in topics.items() if name not in waiting})
        create_real_topics(real_kafka, waiting, {"message.timestamp.type": "LogAppendTime"})
        yield deployment


@pytest.fixture
def commands(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Return the command line beside it."""
    return Commands(deployment.config, capsys)


def wait_for_line(process: Process, event: str, *, count: int = 1) -> None:
    """Return when a process has logged an event so often."""
    wait_until_sync(
        lambda: process.log.read_text(errors="replace").count(f'"{event}"') >= count,
        timeout_s=30,
        what=f"{event} of {process.name}",
    )


def is_ready(process: Process) -> bool:
    """Whether a worker says that it is ready, and alive."""
    port = re.search(r'"port": ?(\d+)', process.log.read_text(errors="replace"))
    if port is None:
        return False
    address = f"http://127.0.0.1:{port[1]}"
    try:
        answers = [httpx.get(f"{address}/{path}", timeout=5, trust_env=False) for path in ("readyz", "livez")]
    except httpx.HTTPError:
        return False
    return [answer.status_code for answer in answers] == [200, 200]


def test_an_incident_is_seen_paused_cancelled_and_resumed(deployment: Deployment, commands: Commands) -> None:
    """Parked events are seen; a pause stops all calls and survives a restart; a cancelled event ends at once.

    Then what stood behind it goes on, while another conversation stands behind its own parked head.
    """
    deployment.start_relay()
    worker = deployment.start_worker(STREAM)
    wait_until_sync(lambda: is_ready(worker), timeout_s=30, what="a worker that is ready")
    deployment.faults({"kind": "status", "status": 500, "retry_after_s": FAR_S, "calls": 2})
    first = conversations(count=2, turns=1)
    deployment.publish(STREAM, first, key="conversation_id")

    def parked() -> bool:
        return bool(commands.json("parked", STREAM)["parked"] == 2)

    wait_until_sync(parked, timeout_s=30, what="two parked events")
    (head,) = (record for record in deployment.read(deployment.input(STREAM)) if record.key == b"c-0")
    later = conversations(count=4, turns=3)[4:]
    followers = [event for event in later if event["conversation_id"] == "c-0"]
    deployment.publish(STREAM, followers[:1], key="conversation_id")
    wait_until_sync(
        lambda: commands.json("parked", STREAM)["parked"] == 3, timeout_s=30, what="a follower behind it"
    )
    tiers = {tier["tier"]: tier for tier in commands.json("parked", STREAM)["tiers"]}
    assert tiers[5]["reasons"] == {"server-error": 2, "predecessor": 1}
    assert tiers[5]["ended"] == 0

    # Paused: nothing is taken, by this worker or by the next one, and both are healthy.
    commands.json("pause", STREAM, "--reason", "an incident")
    wait_for_line(worker, "worker.paused")
    calls = len(deployment.calls())
    others = [event for event in later if event not in followers]
    deployment.publish(STREAM, others, key="conversation_id")
    assert worker.stop() == 0
    worker = deployment.start_worker(STREAM)
    wait_for_line(worker, "worker.paused")
    wait_until_sync(lambda: is_ready(worker), timeout_s=30, what="a paused worker that is ready")

    cancelled = commands.json("cancel", STREAM, "--id", f"{head.topic}/{head.partition}/{head.offset}")
    assert (cancelled["cancelled"], cancelled["followers"]) == (1, 1)
    status = commands.json("status")["streams"][STREAM]
    assert (status["lag"], status["parked"], status["due"]) == (len(others), 3, 2)
    assert (status["held_by"], status["paused"]["reason"]) == ("pause", "an incident")
    assert len(deployment.calls()) == calls
    assert commands.json("dlq", STREAM)["dead_letters"] == 0

    commands.json("resume", STREAM)

    # Two conversations are answered, and what followed in c-0; c-1 stands behind its parked head.
    ends = deployment.wait_for_ends(STREAM, 2 + 2 * 2, timeout_s=60)
    dead = [end for end in ends if end.topic == deployment.internal(STREAM, "dlq")]
    assert [end.header("dlq-reason") for end in dead] == ["cancelled"]
    deployment.publish(STREAM, followers[1:], key="conversation_id")
    ends = deployment.wait_for_ends(STREAM, 1 + 2 * 3, timeout_s=60)
    assert out_of_order([end for end in ends if end not in dead]) == 0
    found = commands.json("dlq", STREAM)
    assert {reason: group["dead_letters"] for reason, group in found["reasons"].items()} == {"cancelled": 1}
    shown = commands.json("dlq", STREAM, "--show", origin(dead[0]))
    assert shown["now"] == "ended as dead-letter"
    tiers = {tier["tier"]: tier for tier in commands.json("parked", STREAM)["tiers"]}
    assert (tiers[5]["parked"], tiers[5]["ended"]) == (5, 2)
    audit = [json.loads(record.value or b"") for record in deployment.read(f"{deployment.group}.audit")]
    assert [entry["kind"] for entry in audit] == ["paused", "cancelled", "resumed"]


def gives_up(deployment: Deployment, process: Process, says: str) -> None:
    """Check that a process ends with exit code 1 and says why."""
    wait_until_sync(lambda: not process.is_running, timeout_s=30, what=f"{process.name} gave up")
    assert process.process.returncode == 1
    assert says in process.tail()
    deployment.processes.remove(process)


def test_a_stream_is_widened_as_documented_and_never_runs_unevenly(
    deployment: Deployment, commands: Commands
) -> None:
    """Neither too early nor by half: order holds before and after, and parking works on a new partition."""
    before, after = conversations(count=6, turns=2), conversations(count=12, turns=4)[24:]
    deployment.publish(STREAM, before, key="conversation_id")
    assert (commands.run("topics", "--grow", STREAM, "--partitions", "5"), commands.code) == ("", 1)
    assert "is not drained (12 in" in commands.err
    worker, relay = deployment.start_worker(STREAM), deployment.start_relay()
    deployment.wait_for_ends(STREAM, len(before), timeout_s=60)
    wait_until_sync(
        lambda: commands.json("status")["streams"][STREAM]["lag"] == 0, timeout_s=30, what="a drained input"
    )
    commands.run("topics", "--grow", STREAM, "--partitions", "5")
    assert (commands.code, commands.err) == (
        1,
        f"sluicegate: workers of {STREAM} are running (1 in its group): stop them first\n",
    )
    assert (worker.stop(), relay.stop()) == (0, 0)

    # By hand, and only the input: nothing starts before the rest has followed.
    KafkaAdmin(deployment.kafka).grow(deployment.input(STREAM), 5)
    says = f"run `sluicegate topics --grow {STREAM}`"
    gives_up(deployment, deployment.start_worker(STREAM), says)
    gives_up(deployment, deployment.start_relay(), says)
    commands.run("topics", "--grow", STREAM)
    assert (commands.code, commands.err.count("has 5 partitions now")) == (0, len(deployment.tiers_s) + 1)
    commands.run("topics", "--grow", STREAM)
    assert (commands.code, "already" in commands.err) == (0, True)

    deployment.widened |= KafkaAdmin(deployment.kafka).partition_counts()
    deployment.start_worker(STREAM)
    deployment.start_relay()
    deployment.faults({"kind": "status", "status": 500, "retry_after_s": 1, "calls": 6})
    deployment.publish(STREAM, after, key="conversation_id")
    ends = deployment.wait_for_ends(STREAM, len(before) + len(after), timeout_s=60)
    assert {end.topic for end in ends} == {deployment.results(STREAM)}
    later = [end for end in ends if end.json()["turn"] >= 2]
    assert len(later) == len(after)
    assert out_of_order(later) == 0
    released = deployment.read(deployment.internal(STREAM, "due"))
    assert max(record.partition for record in released) >= deployment.partitions
