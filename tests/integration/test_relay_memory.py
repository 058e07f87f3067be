"""A relay that may hold a megabyte, with eight waiting: in this process, so that every turn is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from secrets import token_hex

import pytest

from consumers.relay.plan import Tier, tiers_of
from consumers.relay.relay import Relay, RelayLimits
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, with_retry_headers
from sluicegate.settings import load_settings
from sluicegate.state.api import Copy
from sluicegate.telemetry.metrics import Metrics

pytestmark = pytest.mark.slow

_MAX_BYTES = 1024 * 1024
_RECORD_BYTES = 2_000
_AT_ONCE = 201  # a turn takes in no more


class _MachineClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@pytest.fixture
def tiers(embedded_broker: EmbeddedBroker) -> tuple[Tier, ...]:
    """Return two tiers of one stream whose topics are there."""
    group = f"t{token_hex(4)}"
    first, second, *_ = tiers_of(load_settings(None, {"SLUICEGATE_KAFKA__GROUP": group}))
    embedded_broker.create_topics(
        dict.fromkeys((first.due_topic, first.dlq_topic, first.topic, second.topic), 2)
    )
    return first, second


@pytest.fixture
def publisher(embedded_kafka: str) -> Iterator[ConfluentPublisher]:
    """Return a publisher."""
    with ConfluentPublisher(embedded_kafka, client_id="test") as publisher:
        yield publisher


def _parked(tier: Tier, number: int, due_at_ms: int) -> OutgoingRecord:
    retry = RetryHeaders(
        origin=Origin(topic="support-chat", partition=number % 2, offset=number),
        origin_timestamp_ms=1,
        copy=Copy(id=f"1-{tier.number}x{number}", replaces="input"),
        due_at_ms=due_at_ms,
    )
    return OutgoingRecord(
        topic=tier.topic,
        partition=number % 2,
        key=None,
        value=b"v" * (_RECORD_BYTES - 900),
        headers=with_retry_headers((), retry),
    )


def test_memory_is_bounded_and_a_full_tier_keeps_no_other_out(
    embedded_kafka: str, tiers: tuple[Tier, ...], publisher: ConfluentPublisher
) -> None:
    """However much waits, the relay holds what it may, and a tier that comes later has its sure share."""
    first, second = tiers
    metrics, admin = Metrics(), KafkaAdmin(embedded_kafka)
    now_ms = _MachineClock().now_ms()
    waiting = [_parked(second, number, now_ms + 25_000) for number in range(4_000)]
    assert not any(publisher.publish_all(waiting))
    relay = Relay(
        tiers=tiers,
        consumer_config=consumer_config(
            embedded_kafka,
            client_id="relay",
            group=token_hex(4),
            session_timeout_s=6,
            prefetch_records=500,
            prefetch_kbytes=1024,
        ),
        publisher=publisher,
        clock=_MachineClock(),
        metrics=metrics,
        partition_counts=admin.partition_counts,
        limits=replace(RelayLimits(), max_bytes=_MAX_BYTES, look_interval_s=0.0),
    )
    seen: list[float] = []
    published: list[None] = []

    def stopping() -> bool:
        values = _values(metrics)
        seen.append(values["held 1"] + values["held 2"])
        if values["held back 2"] and not published:
            soon = [_parked(first, number, now_ms + 1_000) for number in range(50)]
            published.extend(error for error in publisher.publish_all(soon) if error is None)
        assert time.monotonic() < deadline, values
        return values["released 1"] == 50

    deadline = time.monotonic() + 20
    relay.run(stopping)

    assert len(published) == 50
    assert _MAX_BYTES / 2 < max(seen) <= _MAX_BYTES + _AT_ONCE * _RECORD_BYTES
    assert _values(metrics)["released 2"] == 0


def _values(metrics: Metrics) -> Mapping[str, float]:
    def value(name: str, tier: int, **labels: str) -> float:
        found = metrics.registry.get_sample_value(
            f"sluicegate_relay_{name}", {"stream": "support-chat", "tier": str(tier), **labels}
        )
        return found or 0.0

    return {
        **{f"held {tier}": value("waiting_bytes", tier) for tier in (1, 2)},
        **{f"released {tier}": value("released_total", tier) for tier in (1, 2)},
        "held back 2": value("held_back_partitions", 2, bound="memory"),
    }
