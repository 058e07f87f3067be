"""What a worker lives through: a hand-over, a stop longer than its session, a Redis that comes back empty.

On real Kafka only: the embedded broker's groups are not the ones that production has.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, Seen, origin
from tests.integration.test_whole_way import conversations, expected_origins, out_of_order, paid_twice
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

MAX_RUNNING = 20


@pytest.fixture
def deployment(real_kafka: str, prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment whose provider takes 100 ms for an answer."""
    with Deployment(
        kafka=real_kafka,
        prefix=prefix,
        folder=tmp_path,
        # Slow enough that work is left when the fault strikes.
        limits={"requests_per_minute": 1200, "tokens_per_minute": 10_000_000},
        stream={"max_running": MAX_RUNNING},
        provider_arguments=("--latency-ms", "100", "--jitter-ms", "50"),
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        yield deployment


def ends_of(ends: list[Seen]) -> set[tuple[str, str | None]]:
    """Return every end by origin and id: more than one for an origin would be a second end."""
    return {(origin(end), end.header("ce_id")) for end in ends}


def test_workers_that_come_and_go_under_load_lose_nothing_and_pay_once(deployment: Deployment) -> None:
    """G1, G4, G5: a second worker joins, the first leaves on SIGTERM, a third takes its place."""
    events = conversations(count=40, turns=10)
    deployment.publish("support-chat", events, key="conversation_id")
    first = deployment.start_worker("support-chat")
    deployment.wait_for_ends("support-chat", 40, timeout_s=60)
    second = deployment.start_worker("support-chat")
    wait_until_sync(lambda: "delivery.done" in second.log.read_text(), timeout_s=40, what="second has work")
    assert first.stop() == 0
    third = deployment.start_worker("support-chat")

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=90)

    assert {origin(end) for end in ends} == expected_origins(deployment, "support-chat")
    assert len(ends_of(ends)) == len(events)
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) == 0
    assert (second.stop(), third.stop()) == (0, 0)


def test_scaling_out_and_in_with_hundreds_in_flight_pays_for_no_call_twice(
    real_kafka: str, prefix: str, tmp_path: Path
) -> None:
    """G1, G4, G5: from one worker to three and back; who takes over waits for the answers on the wire."""
    with Deployment(
        kafka=real_kafka,
        prefix=prefix,
        folder=tmp_path,
        partitions=6,
        limits={"requests_per_minute": 600_000, "tokens_per_minute": 1_000_000_000},
        stream={"max_running": 300},
        # 150 ms to 1 s for a call.
        provider_arguments=("--latency-ms", "150", "--jitter-ms", "850"),
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        events = conversations(count=300, turns=24)
        deployment.publish("support-chat", events, key="conversation_id")
        workers = [deployment.start_worker("support-chat")]
        deployment.wait_for_ends("support-chat", 600, timeout_s=60)
        in_flight = [sum(call["completed_at"] is None for call in deployment.calls())]
        workers += [deployment.start_worker("support-chat") for _ in range(2)]
        wait_until_sync(
            lambda: all("delivery.done" in worker.log.read_text() for worker in workers),
            timeout_s=40,
            what="everybody has work",
        )
        for leaving in workers[:2]:
            in_flight.append(sum(call["completed_at"] is None for call in deployment.calls()))
            assert leaving.stop() == 0

        ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=90)

        assert min(in_flight) >= 100, f"a hand-over of nothing shows nothing: {in_flight}"
        assert paid_twice(deployment.calls()) == 0
        assert len(ends) == len(ends_of(ends)) == len(events)
        assert out_of_order(ends) == 0


def test_a_worker_stopped_longer_than_its_session_makes_no_second_end(deployment: Deployment) -> None:
    """A zombie that wakes up finds its events ended by others, and rejoins."""
    events = conversations(count=40, turns=8)
    zombie = deployment.start_worker("support-chat")
    deployment.publish("support-chat", events, key="conversation_id")
    deployment.wait_for_ends("support-chat", 60, timeout_s=60)
    zombie.process.send_signal(signal.SIGSTOP)
    deployment.start_worker("support-chat")
    deployment.wait_for_ends("support-chat", 200, timeout_s=60)
    zombie.process.send_signal(signal.SIGCONT)

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)

    assert len(ends_of(ends)) == len(events)
    assert len(ends) - len(events) <= MAX_RUNNING
    assert out_of_order(ends) == 0
    assert zombie.is_running
    assert zombie.stop() == 0


def test_a_redis_that_is_killed_pauses_the_worker_and_lets_it_go_on(deployment: Deployment) -> None:
    """G1, G3: nothing is called while Redis is away; with its data back everything goes on."""
    events = conversations(count=40, turns=6)
    deployment.start_worker("support-chat")
    deployment.publish("support-chat", events, key="conversation_id")
    deployment.wait_for_ends("support-chat", 60, timeout_s=60)
    deployment.redis.kill()
    wait_until_sync(
        lambda: all(call["completed_at"] is not None for call in deployment.calls()),
        timeout_s=20,
        what="calls on the wire have ended",
    )
    calls_before, looked_at = len(deployment.calls()), deployment.provider_now()
    wait_until_sync(lambda: deployment.provider_now() > looked_at + 2, what="two seconds of silence")
    assert len(deployment.calls()) == calls_before
    ends_before = len(deployment.read(deployment.results("support-chat")))
    deployment.redis.start()

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)

    assert len(ends) > ends_before
    assert len(ends_of(ends)) == len(events)
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) <= MAX_RUNNING
