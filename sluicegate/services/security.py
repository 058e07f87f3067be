"""The settings by which a service proves to Kafka who it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from confluent_kafka import KafkaException

from sluicegate.errors import ConfigurationError

_SECURITY: Final = ("security.", "sasl.", "ssl.")

ClientT = TypeVar("ClientT")


def checked_security(security: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the settings; ConfigurationError for one that has nothing to do with security."""
    for name in security or {}:
        if not name.startswith(_SECURITY):
            raise ConfigurationError(f"security: {name} is none of {', '.join(f'{s}*' for s in _SECURITY)}")
    return security or {}


def configured(make: Callable[[], ClientT]) -> ClientT:
    """Return the client; ConfigurationError when it does not take its settings, such as an unknown one."""
    try:
        return make()
    except KafkaException as exc:
        raise ConfigurationError(f"security: {exc.args[0].str()}") from exc
