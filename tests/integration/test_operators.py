"""What operators do to a running deployment: look, pause, cancel, resume, and widen a stream's topics.

On real Kafka; the commands themselves are tested on the embedded broker, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

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


def command(deployment: Deployment, *arguments: str) -> Mapping[str, Any]:
    """Run a command to its end and return what it prints with `--json`."""
    done = subprocess.run(
        [sys.executable, "-m", "sluicegate", *arguments, "--json", "--config", str(deployment.config)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


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


def test_an_incident_is_seen_paused_cancelled_and_resumed(deployment: Deployment) -> None:
    """Parked events are seen; a pause stops every call and survives a restart; a cancelled event ends at once.

    Its followers, which waited behind it in a tier, are answered in order when they are due.
    """
    deployment.start_relay()
    worker = deployment.start_worker(STREAM)
    wait_until_sync(lambda: is_ready(worker), timeout_s=30, what="a worker that is ready")
    deployment.faults({"kind": "status", "status": 500, "retry_after_s": FAR_S, "calls": 2})
    first = conversations(count=2, turns=1)
    deployment.publish(STREAM, first, key="conversation_id")

    def parked() -> bool:
        return bool(command(deployment, "parked", STREAM)["parked"] == 2)

    wait_until_sync(parked, timeout_s=30, what="two parked events")
    tiers = {tier["tier"]: tier for tier in command(deployment, "parked", STREAM)["tiers"]}
    assert tiers[5]["reasons"] == {"server-error": 2}
    assert tiers[5]["ended"] == 0

    # Paused: nothing is taken, by this worker or by the next one, and both are healthy.
    command(deployment, "pause", STREAM, "--reason", "an incident")
    wait_for_line(worker, "worker.paused")
    calls = len(deployment.calls())
    deployment.publish(STREAM, conversations(count=4, turns=2), key="conversation_id")
    assert worker.stop() == 0
    worker = deployment.start_worker(STREAM)
    wait_for_line(worker, "worker.paused")
    wait_until_sync(lambda: is_ready(worker), timeout_s=30, what="a paused worker that is ready")

    cancelled = command(deployment, "cancel", STREAM, "--key", "c-0")
    assert cancelled["cancelled"] == 1
    status = command(deployment, "status")["streams"][STREAM]
    assert (status["lag"], status["parked"], status["due"]) == (8, 2, 1)
    assert (status["held_by"], status["paused"]["reason"]) == ("pause", "an incident")
    assert len(deployment.calls()) == calls
    assert command(deployment, "dlq", STREAM)["dead_letters"] == 0

    command(deployment, "resume", STREAM)

    # c-0 goes on without its cancelled head; c-1 stands behind its own, which is still parked.
    ends = deployment.wait_for_ends(STREAM, 1 + 2 * 3, timeout_s=60)
    dead = [end for end in ends if end.topic == deployment.internal(STREAM, "dlq")]
    assert [end.header("dlq-reason") for end in dead] == ["cancelled"]
    assert out_of_order([end for end in ends if end not in dead]) == 0
    found = command(deployment, "dlq", STREAM)
    assert {reason: group["dead_letters"] for reason, group in found["reasons"].items()} == {"cancelled": 1}
    shown = command(deployment, "dlq", STREAM, "--show", origin(dead[0]))
    assert shown["now"] == "ended as dead-letter"
    tiers = {tier["tier"]: tier for tier in command(deployment, "parked", STREAM)["tiers"]}
    assert (tiers[5]["parked"], tiers[5]["ended"]) == (4, 1)
    audit = [json.loads(record.value or b"") for record in deployment.read(f"{deployment.group}.audit")]
    assert [entry["action"] for entry in audit] == ["pause", "cancel", "resume"]
