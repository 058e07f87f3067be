"""What a broker's outage does to a worker, as one small story: the storm of seeds has it among others."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from tests.chaos.stand import Broker
from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment
from tests.integration.test_whole_way import conversations, expected_origins, out_of_order, paid_twice
from tests.integration.test_worker_faults import ends_of
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka, pytest.mark.timeout(180)]

OUTAGE_S = 3


def answers(deployment: Deployment) -> bool:
    """Whether somebody leads the results' partitions: a broker that was restarted takes its time."""
    try:
        deployment.read(deployment.results("support-chat"))
    except KafkaException:
        return False
    return True


def test_a_broker_that_falls_silent_and_then_restarts_delays_and_loses_nothing(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """G1, G4, G5: a publish of unknown outcome counts once, and a worker goes on by itself."""
    with Deployment(
        kafka=broker.address,
        prefix=prefix,
        folder=tmp_path,
        limits={"requests_per_minute": 1200, "tokens_per_minute": 10_000_000},
        stream={"max_running": 20},
        provider_arguments=("--latency-ms", "100", "--jitter-ms", "50"),
    ) as deployment:
        create_real_topics(broker.direct_address, deployment.topics)
        events = conversations(count=40, turns=5)

        def outage() -> None:
            began_at = deployment.provider_now()
            wait_until_sync(lambda: deployment.provider_now() > began_at + OUTAGE_S, what="an outage")

        worker = deployment.start_worker("support-chat")
        deployment.publish("support-chat", events, key="conversation_id")
        deployment.wait_for_ends("support-chat", 30, timeout_s=60)
        broker.proxies.do(broker.proxy.silence)
        outage()
        broker.proxies.do(broker.proxy.speak)
        deployment.wait_for_ends("support-chat", 90, timeout_s=60)
        broker.kafka.stop()
        outage()
        broker.kafka.start()
        wait_until_sync(
            lambda: answers(deployment), timeout_s=60, what="the broker leads its partitions again"
        )

        ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)

        assert {origin for origin, _ in ends_of(ends)} == expected_origins(deployment, "support-chat")
        assert len(ends_of(ends)) == len(events)
        assert out_of_order(ends) == 0
        assert paid_twice(deployment.calls()) == 0
        assert worker.stop() == 0
