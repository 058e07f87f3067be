"""A replay as its operator runs it: the provider breaks, the DLQ fills, and all of it is answered once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.inspection.backlog import unfinished
from sluicegate.kafka.admin import KafkaAdmin, Partition
from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, origin
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

DOCUMENTS = 16
CANARY = "canary-0815-text"
TEXT = f"The {CANARY} is about queues and about what waits in them. " * 8
_TIMEOUT_S = 60


@pytest.fixture
def deployment(real_kafka: str, prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment whose documents take several calls each."""
    with Deployment(
        kafka=real_kafka, prefix=prefix, folder=tmp_path, stream={"chunk_tokens": 50}
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        yield deployment


class Command:
    """`sluicegate replay dlq documents`, as a process."""

    def __init__(self, deployment: Deployment, *options: str) -> None:
        arguments = ("replay", "dlq", "documents", *options, "--config", str(deployment.config))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sluicegate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def output(self, *, exit_code: int = 0) -> Any:
        """Return what it printed as JSON once it has ended; none of it may hold an event's text."""
        out, errors = self.process.communicate(timeout=_TIMEOUT_S)
        assert self.process.returncode == exit_code, errors.decode()
        assert CANARY.encode() not in out + errors
        return json.loads(out or b"null")


def test_a_dlq_that_a_broken_provider_filled_is_answered_once_and_no_step_is_paid_twice(
    deployment: Deployment,
) -> None:
    """G1 and G5: planned, run, killed in the middle, run again; judged by Kafka and the provider's log."""
    documents = [
        {"document_id": f"d-{number}", "title": "Notes", "media_type": "text/plain", "text": TEXT}
        for number in range(DOCUMENTS)
    ]
    # Their pieces are answered and paid for; what joins them is refused, so every document dies.
    deployment.faults({"kind": "status", "status": 400, "match": "/join/", "for_s": 600})
    deployment.publish("documents", documents, key="document_id")
    deployment.start_worker("documents")
    deployment.wait_for_ends("documents", DOCUMENTS, timeout_s=_TIMEOUT_S)
    assert deployment.read(deployment.results("documents")) == []
    paid_before = completed(deployment)
    deployment.mend_provider()

    planned = Command(deployment, "--json").output()
    assert (planned["send"], planned["by_reason"]) == (DOCUMENTS, {"bad-request": DOCUMENTS})
    assert deployment.read(deployment.internal("documents", "due")) == []
    assert deployment.read(f"{deployment.group}.audit") == []

    killed = Command(deployment, "--run", "--rate", "2")
    due = deployment.internal("documents", "due")
    wait_until_sync(
        lambda: len(deployment.read(due)) >= 4, timeout_s=_TIMEOUT_S, what="the first copies in due"
    )
    killed.process.kill()
    killed.process.communicate()
    assert len(deployment.read(due)) < DOCUMENTS

    ran = Command(deployment, "--run", "--rate", "1000", "--json").output()

    assert (ran["replay_id"], ran["resumes"]) == (planned["replay_id"], True)
    assert (ran["outcome"]["sent"], ran["outcome"]["left_out"]) == (DOCUMENTS, {})
    wait_until_sync(
        lambda: is_handled(deployment, due), timeout_s=_TIMEOUT_S, what="every copy, sent twice or not"
    )
    after = Command(deployment, "--json").output()
    assert (after["send"], after["left_out"]) == (0, {})
    assert after["already_sent"] == DOCUMENTS
    results = deployment.read(deployment.results("documents"))
    assert len(results) == len({result.header("ce_id") for result in results}) == DOCUMENTS
    assert {origin(result) for result in results} == {
        f"{r.topic}/{r.partition}/{r.offset}" for r in deployment.read(deployment.input("documents"))
    }
    paid = completed(deployment)
    assert max(paid.values()) == 1
    assert sum(paid.values()) - sum(paid_before.values()) == DOCUMENTS  # what joins them, and nothing else
    told = [record.json() for record in deployment.read(f"{deployment.group}.audit")]
    assert [(each["kind"], each.get("is_resumed")) for each in told] == [
        ("replay-started", False),
        ("replay-started", True),
        ("replay-ended", None),
    ]
    assert told[-1]["tally"] == {"sent": DOCUMENTS}
    assert all("@" in each["who"] for each in told)
    assert CANARY not in repr(told)


def is_handled(deployment: Deployment, topic: str) -> bool:
    """Whether the workers have committed all that the topic holds."""
    admin = KafkaAdmin(deployment.kafka)
    places = [Partition(topic=topic, number=number) for number in range(deployment.partitions)]
    committed = admin.committed(f"{deployment.group}.documents", places)
    return all(
        unfinished(bounds, committed[place]).count == 0 for place, bounds in admin.bounds(places).items()
    )


def completed(deployment: Deployment) -> Counter[tuple[str, str]]:
    """Count the completed calls by event and step, from the provider's own record."""
    return Counter(
        (call["identity"], call["step"])
        for call in deployment.calls()
        if call["status"] == 200 and call["completed_at"] is not None
    )
