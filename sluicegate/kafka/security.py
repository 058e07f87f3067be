"""How our clients prove to Kafka who they are: the one translation of `[kafka]` for both kinds of client.

What the files hold is read here, once for each client that is made. Neither client reads them again: a new
password or certificate needs a restart.
"""

from __future__ import annotations

from typing import Any

from sluicegate.kafka.config import ClientConfig
from sluicegate.secret_files import read_secret
from sluicegate.settings import KafkaSettings
from sluicegate.tls import tls_context


def librdkafka_security(kafka: KafkaSettings) -> ClientConfig:
    """Return librdkafka's settings. Raises ConfigurationError for a file that is of no use."""
    protocol = kafka.security_protocol
    config: ClientConfig = {"security.protocol": protocol.value}
    if protocol.has_tls:
        # Tried here first: librdkafka's own complaints name neither the setting nor always the file.
        tls_context(kafka, section="kafka")
        files = {
            "ssl.ca.location": kafka.ca_file,
            "ssl.certificate.location": kafka.certificate_file,
            "ssl.key.location": kafka.key_file,
        }
        config |= {name: str(file) for name, file in files.items() if file is not None}
        if kafka.key_password_file is not None:
            config["ssl.key.password"] = read_secret(
                kafka.key_password_file, setting="kafka.key_password_file"
            )
    if protocol.has_sasl:
        config |= {
            "sasl.mechanism": kafka.sasl_mechanism.value,
            "sasl.username": kafka.sasl_username,
            "sasl.password": _password(kafka),
        }
    return config


def aiokafka_security(kafka: KafkaSettings) -> dict[str, Any]:
    """Return aiokafka's arguments. Raises ConfigurationError for a file that is of no use."""
    protocol = kafka.security_protocol
    arguments: dict[str, Any] = {"security_protocol": protocol.value}
    if protocol.has_tls:
        arguments["ssl_context"] = tls_context(kafka, section="kafka")
    if protocol.has_sasl:
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism.value,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": _password(kafka),
        }
    return arguments


def _password(kafka: KafkaSettings) -> str:
    if kafka.sasl_password_file is None:
        raise ValueError("the settings let no SASL protocol through without a password file")
    return read_secret(kafka.sasl_password_file, setting="kafka.sasl_password_file")
