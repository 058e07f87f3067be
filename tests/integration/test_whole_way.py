"""The whole way of an event, as its publisher and its operator see it: G1 to G7, on both brokers.

Events are published by a plain client as bare JSON; workers, relay and provider are processes of the
command line; everything is judged by what stands in Kafka and in the provider's own record of calls.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.kafka import MakeTopics
from tests.integration.deployment import Deployment, Seen, origin
from tests.waiting import wait_until_sync

pytestmark = pytest.mark.slow

Deploy = Callable[..., Deployment]
REQUESTS_PER_MINUTE = 1200
BURST_S = 0.05


@pytest.fixture
def deploy(kafka: str, prefix: str, tmp_path: Path, make_topics: MakeTopics) -> Iterator[Deploy]:
    """Return a function that sets up a deployment with its topics; all of it ends with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Deployment:
            deployment = stack.enter_context(
                Deployment(kafka=kafka, prefix=prefix, folder=tmp_path, **options)
            )
            topics = deployment.topics
            waiting = {name: n for name, n in topics.items() if re.search(r"\.(due|retry\.\d+)$", name)}
            make_topics({name: n for name, n in topics.items() if name not in waiting})
            make_topics(waiting, {"message.timestamp.type": "LogAppendTime"})
            return deployment

        yield make


def conversations(count: int, turns: int) -> list[dict[str, Any]]:
    """Return customers' messages of several conversations, interleaved as they would come in."""
    return [
        {
            "conversation_id": f"c-{number}",
            "turn": turn,
            "speaker": "customer",
            "text": f"Message {turn} of conversation {number}: where is my parcel?",
        }
        for turn in range(turns)
        for number in range(count)
    ]


def out_of_order(results: Sequence[Seen]) -> int:
    """Count first results of one key that stand before a first result of an earlier event of it."""
    highest: dict[bytes | None, int] = {}
    seen: set[str] = set()
    wrong = 0
    for result in results:
        if origin(result) in seen:
            continue
        seen.add(origin(result))
        offset = int(result.header("retry-origin-offset") or -1)
        wrong += offset < highest.get(result.key, -1)
        highest[result.key] = max(offset, highest.get(result.key, -1))
    return wrong


def paid_twice(calls: Iterable[dict[str, Any]]) -> int:
    """Count completed calls beyond the first for one event and step."""
    completed = Counter(
        (call["identity"], call["step"])
        for call in calls
        if call["status"] == 200 and call["completed_at"] is not None
    )
    return sum(count - 1 for count in completed.values())


def most_over_limit(calls: Iterable[dict[str, Any]], per_minute: float, *, burst_s: float = BURST_S) -> float:
    """Return by how many calls the fullest window of 1 or 10 s exceeds what the limit allows, at least 0."""
    sent = sorted(call["received_at"] for call in calls)
    over = 0.0
    for window_s in (1.0, 10.0):
        allowed = per_minute / 60 * (window_s + burst_s) + 1
        first = 0
        for last, at in enumerate(sent):
            while sent[first] < at - window_s:
                first += 1
            over = max(over, last - first + 1 - allowed)
    return over


def test_bare_json_from_a_plain_client_is_answered_in_order_and_within_the_limit(deploy: Deploy) -> None:
    """G3 and G4: one result each, a key's results in the order of publishing, no call refused."""
    deployment = deploy(limits={"requests_per_minute": REQUESTS_PER_MINUTE, "tokens_per_minute": 10_000_000})
    events = conversations(count=12, turns=8)
    documents = [
        {
            "document_id": f"d-{number}",
            "title": f"Notes {number}",
            "media_type": "text/plain",
            "text": f"The {number}th note is about queues. It is short. " * 20,
        }
        for number in range(4)
    ]
    deployment.publish("support-chat", events, key="conversation_id")
    deployment.publish("documents", documents, key="document_id")
    deployment.start_worker("support-chat")
    deployment.start_worker("documents")

    chats = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)
    indexed = deployment.wait_for_ends("documents", len(documents), timeout_s=60)

    assert {end.topic for end in chats} == {deployment.results("support-chat")}
    assert {end.header("ce_type") for end in chats} == {"sluicegate.support-chat.reply.v1"}
    assert len(chats) == len({end.header("ce_id") for end in chats}) == len(events)
    assert out_of_order(chats) == 0
    reply = chats[0].json()
    assert set(reply) == {"conversation_id", "turn", "reply", "model", "usage", "route"}
    assert chats[0].header("ce_causationid") == origin(chats[0])
    assert {end.header("ce_type") for end in indexed} == {"sluicegate.documents.index.v1"}
    assert all(end.json()["summary"] and end.json()["chunks"] for end in indexed)
    calls = deployment.calls()
    assert most_over_limit(calls, REQUESTS_PER_MINUTE) == 0
    assert [call["status"] for call in calls if call["status"] != 200] == []
    assert paid_twice(calls) == 0


def test_a_worker_killed_in_the_middle_loses_nothing_and_keeps_the_order(deploy: Deploy) -> None:
    """G1, G4, G5: kill -9 repeats at most what was in flight, under the same id."""
    max_running = 20
    deployment = deploy(
        stream={"max_running": max_running}, provider_arguments=("--latency-ms", "150", "--jitter-ms", "50")
    )
    events = conversations(count=30, turns=8)
    deployment.publish("support-chat", events, key="conversation_id")
    first = deployment.start_worker("support-chat")
    deployment.wait_for_ends("support-chat", 60, timeout_s=60)
    first.kill()
    killed_ms = time.time() * 1000
    deployment.start_worker("support-chat")

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=90)

    assert {origin(end) for end in ends} == expected_origins(deployment, "support-chat")
    ids_of = {origin(end): {e.header("ce_id") for e in ends if origin(e) == origin(end)} for end in ends}
    assert all(len(ids) == 1 for ids in ids_of.values())
    assert len(ends) - len(ids_of) <= max_running
    # After the session of 6 s; the rest is for a machine that is busy with other tests.
    assert min(end.timestamp_ms for end in ends if end.timestamp_ms > killed_ms + 1000) < killed_ms + 20_000
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) <= max_running


def test_what_the_provider_refuses_is_parked_and_comes_back_when_it_is_due(deploy: Deploy) -> None:
    """G1, G2, G4: a quota that is gone for seconds parks what was in flight; nothing is early or lost."""
    deployment = deploy(stream={"max_running": 16})
    events = conversations(count=16, turns=8)
    deployment.start_relay()
    deployment.start_worker("support-chat")
    deployment.publish("support-chat", events[:64], key="conversation_id")
    deployment.wait_for_ends("support-chat", 16, timeout_s=60)
    deployment.faults({"kind": "cut", "for_s": 4, "retry_after_s": 4})
    deployment.publish("support-chat", events[64:], key="conversation_id")

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=90)

    tiers = range(1, len(deployment.tiers_s) + 1)
    parked = [
        record
        for tier in tiers
        for record in deployment.read(deployment.internal("support-chat", f"retry.{tier}"))
    ]
    released = deployment.read(deployment.internal("support-chat", "due"))
    assert parked
    assert {record.header("retry-copy") for record in released} == {
        record.header("retry-copy") for record in parked
    }
    early = [r for r in released if r.timestamp_ms < int(r.header("retry-due-at-ms") or 0)]
    assert early == []
    assert {end.topic for end in ends} == {deployment.results("support-chat")}
    assert len(ends) == len(events)
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) == 0


def test_bad_input_goes_to_the_dlq_whole_and_its_neighbours_are_answered(deploy: Deploy) -> None:
    """G6: unreadable records end as dead letters with reason, bytes and headers; nobody waits for them."""
    deployment = deploy()
    bad: dict[str, bytes | None] = {
        "not-json": b'{"conversation_id": ',
        "not-utf8": b"\xff\xfe{}",
        "tombstone": None,
        "wrong-schema": b'{"conversation_id": "x", "turn": "three", "speaker": "customer", "text": "t"}',
        "too-large": json.dumps({"conversation_id": "x", "text": "y" * 950_000}).encode(),
    }
    good = conversations(count=4, turns=2)
    for value in bad.values():
        deployment.publish_raw("support-chat", value, key=b"k", headers=[("trace", b"\x00\x01")])
    deployment.publish("support-chat", good, key="conversation_id")
    deployment.start_worker("support-chat")

    deployment.wait_for_ends("support-chat", len(bad) + len(good), timeout_s=60)

    letters = deployment.read(deployment.internal("support-chat", "dlq"))
    assert {letter.header("dlq-reason"): letter.value for letter in letters} == bad
    assert all(letter.header("trace") == "\x00\x01" and letter.key == b"k" for letter in letters)
    assert len(deployment.read(deployment.results("support-chat"))) == len(good)


def test_no_prompt_reply_or_key_leaves_by_logs_metrics_or_headers(deploy: Deploy, tmp_path: Path) -> None:
    """G7: canary strings in the text and the key are found nowhere but in the values."""
    canary, key = "canary-4711-text", "canary-key-0815"
    key_file = tmp_path / "key"
    key_file.write_text(key)
    deployment = deploy(provider={"api_key_file": str(key_file)}, stream={"max_attempts": 2})
    worker = deployment.start_worker("support-chat")
    relay = deployment.start_relay()
    event = {"conversation_id": "c", "turn": 0, "speaker": "customer", "text": f"{canary} where is it?"}
    deployment.faults({"kind": "status", "status": 500, "calls": 1})
    deployment.publish("support-chat", [event], key="conversation_id")
    deployment.publish_raw("support-chat", f'{{"text": "{canary}", "turn": 1}}'.encode(), key=b"c")
    ends = deployment.wait_for_ends("support-chat", 2, timeout_s=60)

    port = re.search(r'"port": ?(\d+)', worker.log.read_text())
    assert port is not None
    metrics = httpx.get(f"http://127.0.0.1:{port[1]}/metrics", timeout=5, trust_env=False).text
    assert worker.stop() == 0
    assert relay.stop() == 0
    places = {
        "worker log": worker.log.read_text(),
        "relay log": relay.log.read_text(),
        "metrics": metrics,
        "headers": repr([end.headers for end in ends]),
    }
    assert "sluicegate_events_taken_total" in metrics
    assert [name for name, text in places.items() if canary in text or key in text] == []


def test_sigterm_finishes_what_is_in_flight_and_exits_with_0(deploy: Deploy) -> None:
    """A drained worker hands over without paying for anything twice."""
    deployment = deploy(stream={"max_running": 20}, provider_arguments=("--latency-ms", "200"))
    events = conversations(count=20, turns=6)
    deployment.publish("support-chat", events, key="conversation_id")
    first = deployment.start_worker("support-chat")
    deployment.wait_for_ends("support-chat", 30, timeout_s=60)
    assert first.stop() == 0
    deployment.start_worker("support-chat")

    ends = deployment.wait_for_ends("support-chat", len(events), timeout_s=60)

    assert len(ends) == len(events)
    assert out_of_order(ends) == 0
    assert paid_twice(deployment.calls()) == 0


def test_a_worker_that_cannot_work_exits_with_1(deploy: Deploy) -> None:
    """A handler that does not exist is an error at the start, not a silent worker."""
    deployment = deploy(stream={"agent": "streams.support_chat:no_such_handler"})
    worker = deployment.start_worker("support-chat")
    wait_until_sync(lambda: not worker.is_running, timeout_s=30, what="the worker gave up")
    assert worker.process.returncode == 1
    assert "no_such_handler" in worker.tail()


def expected_origins(deployment: Deployment, stream: str) -> set[str]:
    """Return the origins of everything that was published."""
    return {f"{r.topic}/{r.partition}/{r.offset}" for r in deployment.read(deployment.input(stream))}
