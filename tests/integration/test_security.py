"""Behind locked doors: TLS, accounts and the rights we ship, on a real Kafka and a real Redis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sluicegate import Envelope, Publisher, ResultReader
from sluicegate.events.models import ChatReply, Speaker, SupportChat
from sluicegate.kafka.security import librdkafka_security
from sluicegate.rights import Resource, Role, kafka_rights
from sluicegate.settings import KafkaSettings
from tests.fixtures.certificates import OpensslUnavailableError
from tests.fixtures.kafka import create_real_topics, no_kafka
from tests.fixtures.kafka_jars import KafkaJarsUnavailableError
from tests.integration.deployment import Deployment, Process
from tests.integration.secure_stand import SecureDeploymentPlan, SecureKafka, password_of
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

TEXT = "canary-4711-text, where is my parcel?"
KEY = "canary-key-0815"
OPERATING: tuple[tuple[str, ...], ...] = (
    ("status", "--json"),
    ("parked", "support-chat"),
    ("dlq", "support-chat"),
    ("limits", "--json"),
    ("pause", "support-chat", "--reason", "test"),
    ("resume", "support-chat"),
    ("replay", "dlq", "support-chat", "--run"),
    ("forget", "support-chat", "--key", "c-0"),
    ("doctor",),
)
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def locked_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """Return a broker that checks who comes in and what they may."""
    try:
        with SecureKafka(tmp_path_factory.mktemp("secure")) as kafka:
            yield kafka
    except KafkaJarsUnavailableError as exc:
        no_kafka(str(exc))
    except OpensslUnavailableError:
        no_kafka("openssl, which makes the certificates, is not installed")


def make_topics(kafka: SecureKafka, deployment: Deployment) -> None:
    """Make the deployment's topics."""
    waiting = {name: n for name, n in deployment.topics.items() if re.search(r"\.(due|retry\.\d+)$", name)}
    create_real_topics(kafka.address, {n: c for n, c in deployment.topics.items() if n not in waiting})
    create_real_topics(kafka.address, waiting, {"message.timestamp.type": "LogAppendTime"})


def operate(
    deployment: Deployment,
    plan: SecureDeploymentPlan,
    *arguments: str,
    role: Role = Role.OPERATOR,
) -> str:
    """Run an operator's command to its end and return all that it said."""
    process = Process(
        deployment.folder,
        [*arguments, "--config", str(deployment.config)],
        plan.environment(role, plan.kafka.mtls),
    )
    code = process.process.wait(TIMEOUT_S)
    assert code == 0, (arguments, process.tail())
    return process.log.read_text()


def test_the_whole_way_needs_no_more_than_the_rights_we_ship(
    locked_kafka: SecureKafka, prefix: str, tmp_path: Path
) -> None:
    """G7: publish, park, release, answer, read and operate, each as its own account, and nothing leaks."""
    plan = SecureDeploymentPlan(locked_kafka, prefix, tmp_path)
    key_file = tmp_path / "api-key"
    key_file.write_text(KEY)
    with Deployment(
        kafka=locked_kafka.address,
        prefix=prefix,
        folder=tmp_path,
        locked_redis=plan.redis,
        environments=plan.environments(),
        provider={"api_key_file": str(key_file)},
        stream={"max_attempts": 1},
    ) as deployment:
        operate(deployment, plan, "topics", "--create", "--check", role=Role.TOPICS)
        worker, indexer = deployment.start_worker("support-chat"), deployment.start_worker("documents")
        relay = deployment.start_relay()
        wait_until_sync(
            lambda: all(is_ready(each) for each in (worker, indexer, relay)),
            timeout_s=TIMEOUT_S,
            what="two workers and a relay",
        )
        deployment.faults({"kind": "cut", "for_s": 3, "retry_after_s": 3})
        chats = [
            SupportChat(conversation_id=f"c-{n}", turn=0, speaker=Speaker.CUSTOMER, text=TEXT)
            for n in range(4)
        ]
        with Publisher(
            locked_kafka.scram.address,
            topic=deployment.input("support-chat"),
            model=SupportChat,
            source="/shop",
            security=security(plan, Role.PUBLISHER),
        ) as publisher:
            publisher.publish_all([Envelope(event=chat, id=f"m-{chat.conversation_id}") for chat in chats])
        ends = deployment.wait_for_ends("support-chat", len(chats), timeout_s=TIMEOUT_S)
        assert {end.topic for end in ends} == {deployment.results("support-chat")}
        document = {"document_id": "d", "title": "T", "media_type": "text/plain", "text": TEXT}
        deployment.publish("documents", [document], key="document_id")
        (indexed,) = deployment.wait_for_ends("documents", 1, timeout_s=TIMEOUT_S)
        assert indexed.topic == deployment.results("documents")
        due = deployment.read(deployment.internal("support-chat", "due"))
        assert due, "nothing was parked and released"

        with ResultReader(
            locked_kafka.scram.address,
            topic=deployment.results("support-chat"),
            group=f"{deployment.results('support-chat')}-shop",
            model=ChatReply,
            security=security(plan, Role.READER),
        ) as reader:
            replies = [reader.next_result(TIMEOUT_S) for _ in chats]
        assert {each.result.conversation_id for each in replies if each} == {c.conversation_id for c in chats}

        # One more dies, for the commands that look at dead letters.
        deployment.faults({"kind": "status", "status": 400, "calls": 1})
        deployment.publish_raw("support-chat", json.dumps({"text": TEXT}).encode(), key=b"c-9")
        deployment.wait_for_ends("support-chat", len(chats) + 1, timeout_s=TIMEOUT_S)
        told = [operate(deployment, plan, *arguments) for arguments in OPERATING]
        metrics = [
            httpx.get(f"http://127.0.0.1:{port_of(each)}/metrics", timeout=5, trust_env=False).text
            for each in (worker, indexer, relay)
        ]
        assert [each.stop() for each in (worker, indexer, relay)] == [0, 0, 0]
        headers = [str(record.headers) for topic in deployment.topics for record in deployment.read(topic)]
        replied = {end.json()["reply"] for end in ends}
        logs = [each.log.read_text() for each in (worker, indexer, relay)]
        secrets = {TEXT[:16], KEY, *replied, *(password_of(role) for role in Role)}
        assert [
            (secret, text)
            for secret in secrets
            for text in (*told, *metrics, *headers, *logs)
            if secret in text
        ] == []


def security(plan: SecureDeploymentPlan, role: Role) -> dict[str, str]:
    """Return what a service gives to its client as `security`."""
    keys = plan.kafka.settings_of(plan.name(role), role, plan.kafka.scram)
    return {key: str(value) for key, value in librdkafka_security(KafkaSettings(**keys)).items()}


def is_ready(process: Process) -> bool:
    """Say whether the process has its partitions."""
    assert process.is_running, process.tail()
    if '"port"' not in process.log.read_text():
        return False
    url = f"http://127.0.0.1:{port_of(process)}/readyz"
    return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK


def port_of(process: Process) -> str:
    """Return the port that a process serves health and metrics on."""
    found = re.search(r'"port": ?(\d+)', process.log.read_text())
    assert found is not None
    return found[1]


def test_one_right_less_is_told_and_nothing_goes_on_without_it(
    locked_kafka: SecureKafka, prefix: str, tmp_path: Path
) -> None:
    """Without its group a worker stops with exit code 1; without a tier a relay waits and names it."""
    plan = SecureDeploymentPlan(locked_kafka, prefix, tmp_path)
    with Deployment(
        kafka=locked_kafka.address,
        prefix=prefix,
        folder=tmp_path,
        locked_redis=plan.redis,
        environments=plan.environments(),
    ) as deployment:
        make_topics(locked_kafka, deployment)
        tier = deployment.internal("support-chat", "retry.1")
        for right in kafka_rights(plan.settings):
            is_group = right.role is Role.WORKER and right.resource is Resource.GROUP
            if is_group or (right.role is Role.RELAY and right.name == tier):
                locked_kafka.take_away(plan.settings, right)
        worker, relay = deployment.start_worker("support-chat"), deployment.start_relay()

        assert worker.process.wait(TIMEOUT_S) == 1
        assert "GroupAuthorizationFailed" in worker.log.read_text()
        wait_until_sync(
            lambda: tier in relay.log.read_text(), timeout_s=TIMEOUT_S, what="the missing topic's name"
        )
        assert relay.is_running


def test_a_wrong_password_is_told_by_the_doctor_without_a_secret(
    locked_kafka: SecureKafka, prefix: str, tmp_path: Path
) -> None:
    """The doctor says that Kafka and Redis turn us away, and quotes neither the password nor the file."""
    plan = SecureDeploymentPlan(locked_kafka, prefix, tmp_path)
    wrong = tmp_path / "wrong-password"
    wrong.write_text("canary-wrong-password")
    environment = plan.environment(Role.OPERATOR, locked_kafka.scram) | {
        "SLUICEGATE_KAFKA__SASL_PASSWORD_FILE": str(wrong),
        "SLUICEGATE_REDIS__PASSWORD_FILE": str(wrong),
    }
    with plan.redis:
        done = subprocess.run(
            [sys.executable, "-m", "sluicegate", "doctor"],
            env=environment | {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=tmp_path,
        )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "SASL authentication error" in said
    assert "AuthenticationError" in said
    assert "canary" not in said
