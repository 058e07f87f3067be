"""What a worker lives through: a hand-over, a stop longer than its session, a Redis that comes back empty.

On real Kafka only: the embedded broker's groups are not the ones that production has.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, Seen, origin
from tests.integration.test_whole_way import conversations, expected_origins, out_of_order, paid_twice
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

MAX_RUNNING = 20
DRAIN_S = 10  # as the deployment sets it
SESSION_S = 6  # so, too


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


def ends_of(ends: list[Seen]) -> set[tuple[str, tuple[str, str | None]]]:
    """Return every end by origin, kind and id: more than one for an origin would be a second end."""
    return {(origin(end), (end.topic, end.header("ce_id"))) for end in ends}


def members_at_work(deployment: Deployment, stream: str) -> int:
    """Return how many members of the stream's group own partitions."""
    group = f"{deployment.group}.{stream}"
    admin = AdminClient({"bootstrap.servers": deployment.kafka})
    found = admin.describe_consumer_groups([group])[group].result(20)
    return sum(bool(member.assignment.topic_partitions) for member in found.members)


def are_at_work(deployment: Deployment, stream: str, count: int) -> bool:
    """Whether just so many members of the stream's group own partitions."""
    return members_at_work(deployment, stream) == count


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
        events = conversations(count=300, turns=14)
        deployment.publish("support-chat", events, key="conversation_id")

        def hundreds_are_on_the_wire() -> bool:
            return sum(call["completed_at"] is None for call in deployment.calls()) >= 100

        workers = [deployment.start_worker("support-chat")]
        wait_until_sync(hundreds_are_on_the_wire, timeout_s=60, what="a hand-over of something")
        workers += [deployment.start_worker("support-chat") for _ in range(2)]
        wait_until_sync(
            lambda: all("delivery.done" in worker.log.read_text() for worker in workers),
            timeout_s=40,
            what="everybody has work",
        )
        for leaving in workers[:2]:
            wait_until_sync(hundreds_are_on_the_wire, timeout_s=20, what="a hand-over of something")
            before = members_at_work(deployment, "support-chat")
            assert leaving.stop() == 0
            # It said that it left: nobody has to wait for its session to end.
            wait_until_sync(
                partial(are_at_work, deployment, "support-chat", before - 1),
                timeout_s=SESSION_S / 2,
                what="the group without the one who left",
            )

        ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=90)

        assert paid_twice(deployment.calls()) == 0
        assert {origin(end) for end in ends} == expected_origins(deployment, "support-chat")
        assert len(ends) == len(ends_of(ends)) == len(events)
        assert out_of_order(ends) == 0


def test_sigterm_lets_mere_waiters_go_at_once(real_kafka: str, prefix: str, tmp_path: Path) -> None:
    """G5: what only waits for its permit goes back unpaid; a drain takes as long as the calls on the wire."""
    with Deployment(
        kafka=real_kafka,
        prefix=prefix,
        folder=tmp_path,
        limits={"requests_per_minute": 30, "tokens_per_minute": 10_000_000},
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        deployment.publish("support-chat", conversations(count=20, turns=1), key="conversation_id")
        worker = deployment.start_worker("support-chat")
        deployment.wait_for_ends("support-chat", 1, timeout_s=30)
        began_s = time.monotonic()

        assert worker.stop() == 0

        assert time.monotonic() - began_s < DRAIN_S / 2
        ends = deployment.read(deployment.results("support-chat"))
        assert len(ends) == len(deployment.calls()) < 20


def test_a_worker_stopped_longer_than_its_session_makes_no_second_end(deployment: Deployment) -> None:
    """G1: a zombie that wakes up finds its events ended by others, publishes none again, and rejoins."""
    events = conversations(count=40, turns=8)
    zombie = deployment.start_worker("support-chat")
    deployment.publish("support-chat", events, key="conversation_id")
    deployment.wait_for_ends("support-chat", 60, timeout_s=60)
    zombie.process.send_signal(signal.SIGSTOP)
    deployment.start_worker("support-chat")
    deployment.wait_for_ends("support-chat", 200, timeout_s=60)
    zombie.process.send_signal(signal.SIGCONT)
    # Only when the session was over could another one have taken its partitions.
    assert members_at_work(deployment, "support-chat") == 1
    wait_until_sync(
        partial(are_at_work, deployment, "support-chat", 2), timeout_s=40, what="the zombie rejoins"
    )
    more = [{**event, "turn": 100} for event in events[:40]]
    deployment.publish("support-chat", more, key="conversation_id")

    ends = deployment.wait_for_ends("support-chat", len(events) + len(more), timeout_s=60)

    assert len(ends_of(ends)) == len(events) + len(more)
    # What was on its way to the broker at the stop may come again; what was called or queued may not.
    assert len(ends) - len(ends_of(ends)) <= MAX_RUNNING // 4
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
