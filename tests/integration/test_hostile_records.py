"""The corpus of hostile records amid good ones, on real Kafka and through real processes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.corpus import HOSTILE
from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment, Seen
from tests.integration.test_whole_way import out_of_order
from tests.unit.test_hostile_records import strangers
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

LONGEST_DELAY_MS = 100
INPUT = "support-chat"


@pytest.fixture
def deployment(real_kafka: str, prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    """Return a deployment whose provider answers at once and whose limit is far away."""
    with Deployment(
        kafka=real_kafka,
        prefix=prefix,
        folder=tmp_path,
        limits={"requests_per_minute": 600_000, "tokens_per_minute": 1_000_000_000},
    ) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        yield deployment


def test_hostile_records_are_dead_letters_and_hold_up_no_neighbour(deployment: Deployment) -> None:
    """G6: each ends whole with its reason; a good event right behind one is not 100 ms later than others."""
    deployment.start_worker(INPUT)
    producer = Producer(
        {"bootstrap.servers": deployment.kafka, "message.max.bytes": 8_000_000, "linger.ms": 0}
    )
    topic = deployment.input(INPUT)
    alone: list[float] = []
    behind: list[float] = []

    def answered_ms(number: int) -> float:
        """Publish one good event and return how long its answer took."""
        value = {"conversation_id": "c-1", "turn": number, "speaker": "customer", "text": "hi"}
        producer.produce(topic, key=b"c-1", value=json.dumps(value).encode(), partition=0)
        assert producer.flush(20) == 0
        results: list[Seen] = []

        def is_there() -> bool:
            results[:] = deployment.read(deployment.results(INPUT))
            return len(results) > number

        wait_until_sync(is_there, timeout_s=30, what="an answer")
        last = max(results, key=lambda seen: int(str(seen.header("retry-origin-offset"))))
        published_ms = next(
            seen.timestamp_ms
            for seen in deployment.read(topic)
            if f"{seen.offset}" == last.header("retry-origin-offset")
        )
        return last.timestamp_ms - published_ms

    answered_ms(0)  # the first one waits for the worker's start
    number = 1
    for start in range(0, len(HOSTILE), 4):
        alone.append(answered_ms(number))
        for hostile in HOSTILE[start : start + 4]:
            producer.produce(
                topic, key=hostile.key, value=hostile.value, headers=list(hostile.headers), partition=0
            )
        behind.append(answered_ms(number + 1))
        number += 2

    ends = deployment.wait_for_ends(INPUT, number + len(HOSTILE), timeout_s=30)

    letters = deployment.read(deployment.internal(INPUT, "dlq"))
    assert len(letters) == len(HOSTILE)
    published = {seen.offset: seen for seen in deployment.read(topic)}
    reasons = {(hostile.key, hostile.value, hostile.headers): hostile.reason for hostile in HOSTILE}
    for letter in letters:
        record = published[int(_last(letter, "retry-origin-offset"))]
        assert (letter.key, letter.value) == (record.key, record.value)
        assert strangers(letter.headers) == strangers(record.headers)
        assert _last(letter, "dlq-reason") == reasons[(record.key, record.value, record.headers)]
    assert out_of_order([end for end in ends if end.topic == deployment.results(INPUT)]) == 0
    assert statistics.median(behind) - statistics.median(alone) < LONGEST_DELAY_MS, (alone, behind)


def test_hostile_records_in_a_tier_are_dead_letters_and_the_relay_goes_on(deployment: Deployment) -> None:
    """G6 on the relay's side: what names no origin ends whole in the DLQ, however it got into a tier."""
    producer = Producer({"bootstrap.servers": deployment.kafka, "message.max.bytes": 8_000_000})
    tier = deployment.internal(INPUT, "retry.1")
    for hostile in HOSTILE:
        producer.produce(
            tier, key=hostile.key, value=hostile.value, headers=list(hostile.headers), partition=0
        )
    assert producer.flush(20) == 0
    relay = deployment.start_relay()
    letters: list[Seen] = []

    def all_there() -> bool:
        letters[:] = deployment.read(deployment.internal(INPUT, "dlq"))
        return len(letters) >= len(HOSTILE)

    wait_until_sync(all_there, timeout_s=40, what="a dead letter of each")
    assert [(letter.key, letter.value) for letter in letters] == [(h.key, h.value) for h in HOSTILE]
    assert {_last(letter, "dlq-reason") for letter in letters} == {"bad-retry-headers"}
    assert relay.stop() == 0


def _last(letter: Seen, name: str) -> str:
    return [value.decode() for header, value in letter.headers if header == name][-1]
