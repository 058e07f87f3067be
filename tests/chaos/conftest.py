"""A broker that tests may stop, kill and cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.stand import Broker
from tests.fixtures.kafka import no_kafka
from tests.fixtures.kafka_jars import KafkaJarsUnavailableError


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Return a broker of our own: one that a container or an address stands for cannot be killed."""
    broker = Broker()
    try:
        broker.__enter__()
    except KafkaJarsUnavailableError as exc:
        no_kafka(str(exc))
    yield broker
    broker.__exit__(None, None, None)
