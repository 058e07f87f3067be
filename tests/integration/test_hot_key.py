"""A key with far more events than the others, whose first one comes back seconds later, on real Kafka."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, origin
from tests.integration.test_whole_way import conversations, expected_origins, out_of_order, paid_twice
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

HOT_EVENTS = 200
RETRY_AFTER_S = 6.0


@pytest.fixture
def deployment(real_kafka: str, prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment whose provider has quota for everything."""
    with Deployment(
        kafka=real_kafka,
        prefix=prefix,
        folder=tmp_path,
        partitions=6,
        limits={"requests_per_minute": 12_000, "tokens_per_minute": 10_000_000},
        stream={"max_running": 16},
        provider_arguments=("--latency-ms", "5", "--jitter-ms", "0"),
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        yield deployment


def test_a_hot_key_waits_for_its_parked_head_in_order_and_others_do_not(deployment: Deployment) -> None:
    """G4: two workers, 200 events behind one that is refused for 6 s; each is parked a few times at most."""
    hot = [
        {"conversation_id": "hot", "turn": turn, "speaker": "customer", "text": f"{turn}: and now?"}
        for turn in range(HOT_EVENTS)
    ]
    others = conversations(count=24, turns=3)
    deployment.start_relay()
    for _ in range(2):
        deployment.start_worker("support-chat")
    # One event's own failure: a 429 would rightly stop the others as well.
    deployment.faults({"kind": "status", "status": 500, "retry_after_s": RETRY_AFTER_S, "calls": 1})
    deployment.publish("support-chat", hot[:1], key="conversation_id")
    wait_until_sync(lambda: len(deployment.calls()) == 1, timeout_s=40, what="the head was refused")
    deployment.publish("support-chat", others + hot[1:], key="conversation_id")

    ends = deployment.wait_for_ends("support-chat", HOT_EVENTS + len(others), timeout_s=60)

    assert {end.topic for end in ends} == {deployment.results("support-chat")}
    assert {origin(end) for end in ends} == expected_origins(deployment, "support-chat")
    assert len({(origin(end), end.header("ce_id")) for end in ends}) == len(ends)
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) == 0
    hot_ends = [end for end in ends if end.key == b"hot"]
    hot_partition = hot_ends[0].header("retry-origin-partition")
    elsewhere = [end for end in ends if end.header("retry-origin-partition") != hot_partition]
    assert elsewhere
    assert max(end.timestamp_ms for end in elsewhere) < hot_ends[0].timestamp_ms
    parked = [
        record
        for tier in range(1, len(deployment.tiers_s) + 1)
        for record in deployment.read(deployment.internal("support-chat", f"retry.{tier}"))
    ]
    assert len({origin(record) for record in parked}) > HOT_EVENTS / 2, "the followers stood behind it"
    deferrals = max(int(record.header("retry-deferrals") or 0) for record in parked)
    assert deferrals <= math.log2(HOT_EVENTS)
    took_s = (hot_ends[-1].timestamp_ms - hot_ends[0].timestamp_ms) / 1000
    print(f"{len(parked)} copies, at most {deferrals} deferrals, {took_s:.1f} s from first to last")
