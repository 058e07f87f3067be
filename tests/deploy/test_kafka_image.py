"""The variables of the Kafka image, without the image: its own start-up class and broker read them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.topic_check import create_missing, differences
from sluicegate.settings import load_settings
from tests.deploy.manifests import environment
from tests.deploy.rendering import ROOT
from tests.fixtures.kafka_jars import KafkaJarsUnavailableError, _free_port, jars
from tests.waiting import wait_until_sync

_SETUP_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 40.0
_CLUSTER_ID = "c2x1aWNlZ2F0ZS1pbWFnZQ"


def of_compose() -> Mapping[str, str]:
    """The variables of the compose file's Kafka."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: Mapping[str, str] = compose["services"]["kafka"]["environment"]
    return found


def of_overlay() -> Mapping[str, str]:
    """The variables of the development cluster's Kafka."""
    documents = yaml.safe_load_all((ROOT / "k8s/overlays/dev/kafka.yaml").read_text(encoding="utf-8"))
    deployment = next(one for one in documents if one["kind"] == "Deployment")
    return environment(deployment)


def configured(variables: Mapping[str, str], folder: Path) -> tuple[Path, int]:
    """Let the image's start-up class write the broker's configuration and format its disk.

    Only what cannot be had outside a container is exchanged: names of hosts, ports, and the data's folder.
    Returns the configuration and the port that the services inside use.
    """
    try:
        classpath = f"{jars()}/*"
    except KafkaJarsUnavailableError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    inside, own = _free_port(), dict(variables)
    for old, new in (
        ("kafka.sluicegate.svc", "127.0.0.1"),
        ("INSIDE://kafka", "INSIDE://127.0.0.1"),
        ("OUTSIDE://localhost", "OUTSIDE://127.0.0.1"),
        (":19092", f":{inside}"),
        ("INSIDE://:9092", f"INSIDE://:{inside}"),
        ("INSIDE://127.0.0.1:9092", f"INSIDE://127.0.0.1:{inside}"),
        (":9092", f":{_free_port()}"),
        (":9093", f":{_free_port()}"),
    ):
        own = {name: value.replace(old, new) for name, value in own.items()}
    own["KAFKA_LOG_DIRS"] = str(folder / "data")
    defaults, final = folder / "defaults", folder / "final"
    for made in (defaults, final, folder / "mounted"):
        made.mkdir(parents=True)
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (defaults / name).touch()
    done = subprocess.run(
        [
            *("java", "-cp", classpath, "kafka.docker.KafkaDockerWrapper", "setup"),
            *("--default-configs-dir", str(defaults)),
            *("--mounted-configs-dir", str(folder / "mounted")),
            *("--final-configs-dir", str(final)),
        ],
        env={"PATH": os.environ["PATH"], "CLUSTER_ID": _CLUSTER_ID, **own},
        capture_output=True,
        text=True,
        timeout=_SETUP_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return final / "server.properties", inside


@pytest.mark.slow
@pytest.mark.real_kafka
def test_the_broker_of_the_compose_file_starts_and_takes_every_topic(tmp_path: Path) -> None:
    """One broker with these variables is whole: internal topics, ours, and none that nobody asked for."""
    properties, port = configured(of_compose(), tmp_path)
    with (tmp_path / "log").open("wb") as log:
        broker = subprocess.Popen(
            [
                *("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *("-cp", f"{jars()}/*", "kafka.Kafka", str(properties)),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            address = f"127.0.0.1:{port}"
            asking = AdminClient({"bootstrap.servers": address, "log_level": 0})
            wait_until_sync(lambda: _answers(asking), timeout_s=_START_TIMEOUT_S, what="the broker")
            settings = load_settings(None, {"SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": address})
            admin = KafkaAdmin(address)
            create_missing(settings, admin)
            assert differences(settings, admin) == ()
            assert "misspelt" not in asking.list_topics("misspelt", timeout=10).topics or (
                asking.list_topics("misspelt", timeout=10).topics["misspelt"].error is not None
            )
        finally:
            broker.kill()
            broker.wait()


@pytest.mark.slow
@pytest.mark.real_kafka
def test_the_broker_of_the_development_cluster_is_configured(tmp_path: Path) -> None:
    """The same for Kubernetes, up to the formatted disk; its broker is the same one."""
    properties, _ = configured(of_overlay(), tmp_path)
    assert "auto.create.topics.enable=false" in properties.read_text(encoding="utf-8")
    assert (tmp_path / "data" / "meta.properties").is_file()
    differing = {"KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"}
    same = {name: value for name, value in of_overlay().items() if name not in differing}
    assert same == {name: value for name, value in of_compose().items() if name not in differing}


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
