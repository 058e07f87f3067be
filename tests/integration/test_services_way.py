"""The way of an event as another service sees it: published, answered by a worker, read once."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate import AsyncPublisher, AsyncResultReader, Envelope, Publisher
from sluicegate.events.cloudevent import read_event
from sluicegate.events.models import ChatReply, Speaker, SupportChat, read_model
from sluicegate.kafka.reading import record_of
from tests.fixtures.kafka import create_real_topics
from tests.integration.deployment import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "node-publisher"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVENTS = 40
TIMEOUT_S = 40.0


def chat(number: int, turn: int = 0) -> SupportChat:
    """Return a customer's message in a conversation whose name is not ASCII."""
    return SupportChat(
        conversation_id=f"c-{number}-ä", turn=turn, speaker=Speaker.CUSTOMER, text="Where is my parcel?"
    )


def stored_partitions(address: str, topic: str) -> dict[tuple[str, str], int]:
    """Return where the events of each source and conversation lie, checked as the worker checks them."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": f"{topic}-r", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(12)])
    records = [record_of(message) for message in consumer.consume(2 * EVENTS, timeout=10)]
    consumer.close()
    found: dict[tuple[str, str], int] = {}
    for record in records:
        envelope = read_event(record, max_event_bytes=10_000)
        event = read_model(SupportChat, envelope.data)
        assert (record.key or b"").decode() == event.conversation_id
        found[envelope.source or "", event.conversation_id] = record.partition
    return found


async def test_an_event_is_published_answered_and_read_once(
    real_kafka: str, prefix: str, tmp_path: Path
) -> None:
    """Ids and trace come back with the typed answer; an event published twice gives one result."""
    with Deployment(kafka=real_kafka, prefix=prefix, folder=tmp_path) as deployment:
        create_real_topics(real_kafka, deployment.topics)
        worker = deployment.start_worker("support-chat")
        events = [Envelope(event=chat(n), id=f"m-{n}", traceparent=TRACE) for n in range(EVENTS)]
        topic, results = deployment.input("support-chat"), deployment.results("support-chat")
        async with AsyncPublisher(
            real_kafka, topic=topic, model=SupportChat, source="/shop", max_pending_records=7
        ) as publisher:
            await publisher.publish_all(events)
            await publisher.publish_all(events[:10])
            await publisher.publish(chat(0, turn=1), id="last")
        found: dict[str, str] = {}
        async with AsyncResultReader(
            real_kafka, topic=results, group=f"{prefix}-shop", model=ChatReply
        ) as reader:
            while len(found) < EVENTS + 1:
                received = await reader.next_result(TIMEOUT_S)
                assert received is not None, worker.tail()
                assert received.id not in found.values()
                assert received.traceparent == (None if received.event_id == "last" else TRACE)
                assert received.key == received.result.conversation_id
                found[received.event_id or ""] = received.id
            assert await reader.next_result(0.5) is None
    assert set(found) == {"last", *(f"m-{n}" for n in range(EVENTS))}


def test_the_node_example_puts_a_key_where_we_do(real_kafka: str, prefix: str) -> None:
    """Its events fit the schema, carry the envelope, and share the partition of their key's other events."""
    if shutil.which("node") is None or not (EXAMPLE / "node_modules").is_dir():
        pytest.skip("npm install in examples/node-publisher brings what this needs")
    create_real_topics(real_kafka, {prefix: 12})
    events = [chat(number) for number in range(EVENTS)]
    done = subprocess.run(
        [
            *("node", "publish.js", real_kafka, prefix),
            *(str(ROOT / "contract/support-chat.event.json"), "conversation_id"),
        ],
        input="\n".join(event.model_dump_json(exclude_none=True) for event in events).encode(),
        capture_output=True,
        cwd=EXAMPLE,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = [json.loads(line)["partition"] for line in done.stdout.splitlines()]
    with Publisher(real_kafka, topic=prefix, model=SupportChat, source="/shop") as publisher:
        ours = [receipt.place.partition for receipt in publisher.publish_all(events)]
    assert said == ours
    assert stored_partitions(real_kafka, prefix) == {
        (source, event.conversation_id): partition
        for source in ("/shop", "/example/node-publisher")
        for event, partition in zip(events, ours, strict=True)
    }
    assert len(set(ours)) > 6
