"""`[kafka]` as both kinds of client take it: one translation, the same doors."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.kafka.config import consumer_config, producer_config
from sluicegate.kafka.security import aiokafka_security, librdkafka_security
from sluicegate.settings import KafkaSettings
from streams.runtime.app import AppPlan
from tests.fixtures.certificates import Authority, OpensslUnavailableError, encrypted


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Return `[kafka]` with a password and an encrypted key."""
    try:
        authority = Authority(tmp_path)
    except OpensslUnavailableError:
        pytest.skip("openssl, which makes the certificates, is not installed")
    pair = encrypted(authority.client("me"), "canary-key-password")
    (tmp_path / "password").write_text("canary password \r\n")
    (tmp_path / "key-password").write_text("canary-key-password\n")
    return {
        "security_protocol": "SASL_SSL",
        "sasl_username": "me",
        "sasl_password_file": tmp_path / "password",
        "ca_file": authority.certificate,
        "certificate_file": pair.certificate,
        "key_file": pair.key,
        "key_password_file": tmp_path / "key-password",
    }


def test_both_clients_are_told_the_same(files: dict[str, Any]) -> None:
    """Protocol, mechanism, user, password and files; of the password only the line end is left out."""
    kafka = KafkaSettings(**files)
    told = librdkafka_security(kafka)
    assert told == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "canary password ",
        "ssl.ca.location": str(files["ca_file"]),
        "ssl.certificate.location": str(files["certificate_file"]),
        "ssl.key.location": str(files["key_file"]),
        "ssl.key.password": "canary-key-password",
    }
    arguments = aiokafka_security(kafka)
    context = arguments.pop("ssl_context")
    assert arguments == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "canary password ",
    }
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1  # ours, and not the system's beside it


def test_without_security_nothing_of_it_is_said() -> None:
    """The defaults are those of a broker without locks."""
    assert librdkafka_security(KafkaSettings()) == {"security.protocol": "PLAINTEXT"}
    assert aiokafka_security(KafkaSettings()) == {"security_protocol": "PLAINTEXT"}


def test_security_changes_nothing_that_delivery_rests_on() -> None:
    """What a client sets for us counts above what is given as security."""
    given = {"enable.auto.commit": True, "acks": "0", "security.protocol": "SSL"}
    consumer = consumer_config(
        *("x:1",),
        client_id="c",
        group="g",
        session_timeout_s=6,
        prefetch_records=1,
        prefetch_kbytes=1,
        security=given,
    )
    producer = producer_config("x:1", client_id="c", timeout_s=1, security=given)
    assert (consumer["enable.auto.commit"], producer["acks"]) == (False, "all")
    assert consumer["security.protocol"] == producer["security.protocol"] == "SSL"


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("sasl_password_file", ""),
        ("key_password_file", "canary-wrong"),
        ("ca_file", "canary"),
        ("key_file", "canary"),
    ],
)
def test_a_file_of_no_use_is_told_by_its_setting_and_without_its_content(
    files: dict[str, Any], tmp_path: Path, key: str, content: str
) -> None:
    """The one who mends it is told where, by both translations, before a broker is asked."""
    (tmp_path / "bad").write_text(content)
    kafka = KafkaSettings(**(files | {key: tmp_path / "bad"}))
    for translate in (librdkafka_security, aiokafka_security):
        with pytest.raises(ConfigurationError, match=r"kafka\.") as caught:
            translate(kafka)
        story = "".join(traceback.format_exception(caught.value))
        assert "canary" not in story.replace(str(tmp_path), "")


def test_an_apps_plan_shows_no_password(files: dict[str, Any]) -> None:
    """G7: whoever prints the plan of a worker prints no credential."""
    plan = AppPlan(
        bootstrap_servers="x:1",
        group="g",
        input_topic="i",
        due_topic="d",
        session_timeout_s=6,
        rebalance_timeout_s=6,
        publish_timeout_s=6,
        max_request_bytes=1,
        security=aiokafka_security(KafkaSettings(**files)),
    )
    assert "canary" not in repr(plan)
