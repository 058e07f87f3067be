"""Publishing as another service does it, from threads and from asyncio, on both brokers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from sluicegate import AsyncPublisher, Envelope, Publisher, ResultReader
from sluicegate.errors import (
    BadEventError,
    ConfigurationError,
    PublishError,
    PublishRefusedError,
    RecordTooLargeError,
    UnconfirmedError,
)
from sluicegate.events.models import ChatReply, Event, Speaker, SupportChat
from sluicegate.kafka.reading import record_of
from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.services.outlet import MAX_EVENT_BYTES
from sluicegate.settings import StreamSettings
from tests.fixtures.kafka import MakeTopics
from tests.waiting import wait_until_sync

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNCHECKED: Any = SupportChat  # its `model_construct` takes anything, and this one may say so
NO_TURN = {"conversation_id": "c", "turn": "secret", "speaker": "agent", "text": "x"}
_MSG_SIZE_TOO_LARGE = 10


class Ticket(Event):
    """An own stream's event."""

    ce_type: ClassVar[str] = "example.tickets.ticket.v1"
    id_field: ClassVar[str] = "ticket_id"

    ticket_id: str
    text: str


def chat(number: int = 0, conversation: str = "c-1") -> SupportChat:
    """Return a customer's message."""
    return SupportChat(
        conversation_id=conversation, turn=number, speaker=Speaker.CUSTOMER, text=f"Where is parcel {number}?"
    )


def sync_publisher(address: str, topic: str, **options: float) -> Publisher[SupportChat]:
    """Return a publisher of chats."""
    options = {"timeout_s": 20.0, **options}
    return Publisher(address, topic=topic, model=SupportChat, source="/shop", **options)  # type: ignore[arg-type]  # int options come as float


def read(address: str, topic: str, partitions: int, count: int) -> list[Message]:
    """Return the topic's first records, by partition and offset."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found = consumer.consume(count, timeout=10)
    consumer.close()
    return sorted(found, key=lambda message: (message.partition() or 0, message.offset() or 0))


def headers(message: Message) -> dict[str, str]:
    """Return the record's headers as text."""
    return {name: value.decode() for name, value in record_of(message).headers}


@pytest.fixture
def lonely_broker() -> Iterator[EmbeddedBroker]:
    """Return an embedded broker that a test may take away."""
    with EmbeddedBroker({"chats": 1}) as broker:
        yield broker


def test_an_event_becomes_a_confirmed_cloud_event(kafka: str, make_topics: MakeTopics, prefix: str) -> None:
    """Key, envelope, trace and value are what the worker and everybody else read, and the receipt is true."""
    make_topics({prefix: 12})
    with sync_publisher(kafka, prefix) as publisher:
        receipt = publisher.publish(
            chat(3), id="m-3", time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), traceparent=TRACE
        )
    (message,) = read(kafka, prefix, 12, 1)
    assert (message.topic(), message.partition(), message.offset()) == (
        receipt.place.topic,
        receipt.place.partition,
        receipt.place.offset,
    )
    assert message.key() == b"c-1"
    assert SupportChat.model_validate_json(message.value() or b"") == chat(3)
    assert headers(message) == {
        "ce_specversion": "1.0",
        "ce_id": receipt.id,
        "ce_source": "/shop",
        "ce_type": "sluicegate.support-chat.message.v1",
        "ce_time": "2026-01-02T03:04:05.000Z",
        "content-type": "application/json",
        "traceparent": TRACE,
    }
    assert receipt.id == "m-3"


async def test_both_publishers_write_the_same_records(
    kafka: str, make_topics: MakeTopics, prefix: str
) -> None:
    """Models, fields, JSON and envelopes become the same records from asyncio and from a thread."""
    made = datetime(2026, 1, 2, tzinfo=UTC)
    fields = {"ticket_id": "t-1", "text": "a", "for_others": [1, None]}
    events = [
        Envelope(event=Ticket(ticket_id="t-1", text="a"), time=made),
        Envelope(event=fields, time=made, id="own", traceparent="nonsense"),
        Envelope(event=orjson.dumps(fields), time=made),
    ]
    names = f"{prefix}a", f"{prefix}b"
    make_topics(dict.fromkeys(names, 1))
    with Publisher(kafka, topic=names[0], model=Ticket, source="/s") as publisher:
        receipts = publisher.publish_all(events)
    async with AsyncPublisher(kafka, topic=names[1], model=Ticket, source="/s") as other:
        assert [receipt.id for receipt in await other.publish_all(events)] == [each.id for each in receipts]
    one, two = ([(m.key(), m.value(), headers(m)) for m in read(kafka, name, 1, 3)] for name in names)
    assert one == two
    assert [head["ce_type"] for _, _, head in one] == ["example.tickets.ticket.v1"] * 3
    assert orjson.loads(one[1][1] or b"")["for_others"] == [1, None]
    assert "traceparent" not in one[1][2]


async def test_what_is_sent_is_confirmed_when_the_context_is_left(
    kafka: str, make_topics: MakeTopics, prefix: str
) -> None:
    """Sending waits for nothing but room; leaving waits for all, in the order of sending for each key."""
    make_topics({prefix: 1})
    with sync_publisher(kafka, prefix, max_pending_records=7) as publisher:
        for number in range(100):
            publisher.send(chat(number))
    async with AsyncPublisher(
        kafka, topic=prefix, model=SupportChat, source="/shop", max_pending_bytes=2000
    ) as other:
        for number in range(100, 200):
            await other.send(chat(number))
    found = [SupportChat.model_validate_json(m.value() or b"").turn for m in read(kafka, prefix, 1, 200)]
    assert found == list(range(200))


def test_threads_share_a_publisher(embedded_broker: EmbeddedBroker, prefix: str) -> None:
    """Each call returns the receipt of its own event, whichever thread it is made from."""
    embedded_broker.create_topics({prefix: 3})
    publisher = sync_publisher(embedded_broker.address, prefix, max_pending_records=5)
    with publisher, ThreadPoolExecutor(8) as pool:
        events = [chat(number, f"c-{number % 5}") for number in range(200)]
        receipts = list(pool.map(lambda event: publisher.publish(event, id=f"m-{event.turn}"), events))
    assert [receipt.id for receipt in receipts] == [f"m-{number}" for number in range(200)]
    assert len({receipt.place for receipt in receipts}) == 200


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"conversation_id": "c", "turn": "secret", "speaker": "agent", "text": "x"}, "wrong-schema at turn"),
        ({"turn": 1, "speaker": "agent", "text": "secret"}, "wrong-schema at conversation_id"),
        ({"conversation_id": "c", "turn": 1, "speaker": "agent", "text": object()}, "not-json"),
        ({"conversation_id": "c", "turn": 1, "speaker": "agent", "text": "\ud800secret"}, "not-json"),
        (b"secret", "not-json"),
        (b'"secret"', "wrong-schema"),
        (b'{"a": "' + b"secret" * 20 + b'"}', "too-large"),
        (
            UNCHECKED.model_construct(**NO_TURN),
            "wrong-schema at turn",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_wrong_event_is_refused_with_its_field_and_without_its_value(event: object, error: str) -> None:
    """Nothing is sent, and neither the error, its causes nor a warning quote what the event holds."""
    with sync_publisher("127.0.0.1:1", "chats", max_event_bytes=120) as publisher:
        with pytest.raises(BadEventError) as caught:
            publisher.publish(event)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(BadEventError) as in_batch:
            publisher.publish_all([chat(), event])  # type: ignore[list-item]  # the same
    assert str(caught.value) == error
    assert str(in_batch.value).startswith(error.partition(" ")[0] + " at events[1]")
    for exc in (caught.value, in_batch.value):
        chain = [repr(link) for link in (exc, exc.__cause__, exc.__context__)]
        assert not any("secret" in text for text in chain)


def test_what_can_never_be_published_is_said_at_once(embedded_broker: EmbeddedBroker) -> None:
    """Another stream's model, a time of no zone, an unreadable id, no source, a foreign setting."""
    with sync_publisher(embedded_broker.address, "chats") as publisher:
        with pytest.raises(TypeError, match="takes SupportChat, not Ticket"):
            publisher.publish(Ticket(ticket_id="t", text="x"))
        with pytest.raises(ValueError, match="time zone"):
            publisher.publish(chat(), time=datetime(2026, 1, 1))
        with pytest.raises(BadEventError, match="bad-envelope at ce_id"):
            publisher.publish(chat(), id="a\nb")
    with pytest.raises(ConfigurationError, match="source"):
        Publisher("x", topic="chats", model=SupportChat, source="")
    with pytest.raises(ConfigurationError, match="acks"):
        Publisher("x", topic="chats", model=SupportChat, source="/s", security={"acks": "0"})
    for make in (Publisher, AsyncPublisher):
        with pytest.raises(ConfigurationError, match=r"ssl\.nonsense"):
            make("x", topic="chats", model=SupportChat, source="/s", security={"ssl.nonsense": "0"})
    with pytest.raises(ConfigurationError, match=r"sasl\.nonsense"):
        ResultReader("x", topic="r", group="g", model=ChatReply, security={"sasl.nonsense": "0"})
    with pytest.raises(PublishError, match="closed"):
        publisher.publish(chat())


def test_the_size_allowed_is_the_streams_default() -> None:
    """A publisher that is told nothing refuses exactly what a worker that is told nothing would."""
    assert StreamSettings.model_fields["max_event_bytes"].default == MAX_EVENT_BYTES


def test_a_full_buffer_makes_the_sender_wait_and_not_the_memory_grow(lonely_broker: EmbeddedBroker) -> None:
    """With the broker away a fourth event waits while three are on their way, and goes when it is back."""
    with sync_publisher(lonely_broker.address, "chats", max_pending_records=3) as publisher:
        publisher.publish(chat(0))
        lonely_broker.down()
        sent: list[str] = []
        thread = threading.Thread(target=lambda: sent.extend(publisher.send(chat(n)) for n in range(1, 6)))
        thread.start()
        wait_until_sync(lambda: publisher.pending_records == 3, what="a full buffer")
        thread.join(0.3)
        assert publisher.pending_records == 3
        assert thread.is_alive()
        lonely_broker.up()
        thread.join(20)
        assert not thread.is_alive()
    assert len(sent) == 5
    assert len(read(lonely_broker.address, "chats", 1, 6)) == 6


def test_what_was_not_confirmed_is_named_when_the_context_is_left(lonely_broker: EmbeddedBroker) -> None:
    """A broker that stays away shows as one error with the ids, within the bound in time."""
    with pytest.raises(UnconfirmedError) as caught:  # noqa: SIM117 - what leaves the inner context is the point
        with sync_publisher(lonely_broker.address, "chats", timeout_s=1.0) as publisher:
            lonely_broker.down()
            publisher.send(chat(1), id="m-1")
            publisher.send(chat(2), id="m-2")
    lonely_broker.up()
    assert caught.value.count == 2
    assert {event.id for event in caught.value.events} == {"m-1", "m-2"}
    assert "parcel" not in str(caught.value)


def test_an_error_of_the_caller_is_not_hidden_by_ours(lonely_broker: EmbeddedBroker) -> None:
    """The exception that leaves the context is the caller's, with a note of what was not confirmed."""
    with pytest.raises(KeyError) as caught:  # noqa: SIM117 - what leaves the inner context is the point
        with sync_publisher(lonely_broker.address, "chats", timeout_s=1.0) as publisher:
            lonely_broker.down()
            publisher.send(chat(1))
            raise KeyError
    lonely_broker.up()
    assert any("1 event was not confirmed" in note for note in caught.value.__notes__)


async def test_asyncio_names_what_was_not_confirmed(lonely_broker: EmbeddedBroker) -> None:
    """The same from an event loop: an error of ours when all went well otherwise, else a note."""
    options: dict[str, Any] = {"topic": "chats", "model": SupportChat, "source": "/s", "timeout_s": 1.0}
    lonely_broker.down()
    with pytest.raises(UnconfirmedError) as caught:
        async with AsyncPublisher(lonely_broker.address, **options) as publisher:
            await publisher.send(chat(1), id="m-1")
    with pytest.raises(KeyError) as theirs:
        async with AsyncPublisher(lonely_broker.address, **options) as publisher:
            await publisher.send(chat(1))
            raise KeyError
    lonely_broker.up()
    assert [event.id for event in caught.value.events] == ["m-1"]
    assert any("1 event was not confirmed" in note for note in theirs.value.__notes__)


async def test_asyncio_waits_for_room_without_blocking_the_loop(lonely_broker: EmbeddedBroker) -> None:
    """A coroutine that waits for room can be cancelled, takes none then, and holds up nobody behind it."""
    async with AsyncPublisher(
        lonely_broker.address, topic="chats", model=SupportChat, source="/s", max_pending_records=2
    ) as publisher:
        await publisher.publish(chat(0))
        lonely_broker.down()
        await publisher.send(chat(1))
        await publisher.send(chat(2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await publisher.send(chat(3))
        waiting = asyncio.create_task(publisher.publish(chat(4)))
        lonely_broker.up()
        await waiting
        assert publisher.pending_records == 0
    found = read(lonely_broker.address, "chats", 1, 4)
    assert [SupportChat.model_validate_json(m.value() or b"").turn for m in found] == [0, 1, 2, 4]


async def test_one_refused_event_of_a_batch_does_not_hide_the_others(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """The error names the event that the broker refused; its neighbours are stored."""
    embedded_broker.create_topics({prefix: 1})
    async with AsyncPublisher(
        embedded_broker.address, topic=prefix, model=SupportChat, source="/s", linger_ms=0
    ) as publisher:
        await publisher.publish(chat(0))
        embedded_broker.fail(Request.PRODUCE, [_MSG_SIZE_TOO_LARGE])
        with pytest.raises(RecordTooLargeError):
            await publisher.publish(chat(1))
        with pytest.raises(UnconfirmedError) as caught:
            embedded_broker.fail(Request.PRODUCE, [_MSG_SIZE_TOO_LARGE])
            await publisher.publish_all([Envelope(event=chat(2), id="m-2")])
        await publisher.publish(chat(3))
    (failed,) = caught.value.events
    assert failed.id == "m-2"
    assert isinstance(failed.error, PublishRefusedError)
    found = read(embedded_broker.address, prefix, 1, 2)
    assert [SupportChat.model_validate_json(m.value() or b"").turn for m in found] == [0, 3]
