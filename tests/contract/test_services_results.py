"""Reading results as another service does: typed, once for each id, committed when handled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import ClassVar

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate import AsyncResultReader, ResultReader
from sluicegate.errors import BadResultError, BrokerError, ConfigurationError
from sluicegate.events.cloudevent import binary_headers
from sluicegate.events.models import ChatReply, Result, write_model
from sluicegate.kafka.admin import KafkaAdmin, Partition
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.llm.outcomes import Usage
from sluicegate.local.broker import EmbeddedBroker, Request
from sluicegate.records import OutgoingRecord, Record
from sluicegate.services.result_source import StartAt
from tests.fixtures.kafka import MakeTopics, create_real_topics
from tests.waiting import wait_until, wait_until_sync

TIMEOUT_S = 15.0


class Urgency(Result):
    """An own stream's result in its first shape."""

    ce_type: ClassVar[str] = "example.tickets.urgency.v1"

    ticket_id: str
    urgency: str


class UrgencyInNumbers(Result):
    """The same in its second shape."""

    ce_type: ClassVar[str] = "example.tickets.urgency.v2"

    ticket_id: str
    urgency: int


def record(topic: str, id: str, result: Result, *, partition: int = 0) -> OutgoingRecord:
    """Return a result as a worker publishes it."""
    headers = binary_headers(
        id=id, source="sluicegate/s", type=result.ce_type, time_ms=0, causation_id=f"of-{id}"
    )
    return OutgoingRecord(
        topic=topic, key=b"k", value=write_model(result), headers=headers, partition=partition
    )


def urgency(topic: str, id: str, *, partition: int = 0) -> OutgoingRecord:
    """Return an own stream's result."""
    return record(topic, id, Urgency(ticket_id=f"t-{id}", urgency="high"), partition=partition)


class Writer:
    """Publishes results as the worker does."""

    def __init__(self, address: str, topic: str) -> None:
        self._publisher = ConfluentPublisher(address, client_id="worker")
        self._topic = topic

    def write(self, *ids: str, partition: int = 0) -> None:
        """Publish a result for each id, confirmed."""
        self.write_records([urgency(self._topic, id, partition=partition) for id in ids])

    def write_records(self, records: Sequence[OutgoingRecord]) -> None:
        """Publish records as they are."""
        assert set(self._publisher.publish_all(records)) == {None}

    def close(self) -> None:
        """Stop."""
        self._publisher.close()


@pytest.fixture
def writer(kafka: str, prefix: str, make_topics: MakeTopics) -> Iterator[Writer]:
    """Return a writer of a results topic with two partitions, whose name is the prefix."""
    make_topics({prefix: 2})
    writer = Writer(kafka, prefix)
    yield writer
    writer.close()


def own_reader(address: str, topic: str, **options: int) -> ResultReader[Urgency]:
    """Return a member of the group that reads the topic."""
    span = options.get("repeat_span", 1000)
    return ResultReader(
        address, topic=topic, group=f"{topic}-g", model=Urgency, repeat_span=span, session_timeout_s=2.0
    )


def take(reader: ResultReader[Urgency], count: int) -> list[str]:
    """Return the ids of the next results, all but the last of them handled."""
    found = []
    for _ in range(count):
        received = reader.next_result(TIMEOUT_S)
        assert received is not None
        found.append(received.id)
    return found


def test_each_id_is_given_once_over_several_lives(kafka: str, prefix: str, writer: Writer) -> None:
    """A repeat is passed over in the life that saw the first one and in the next, which did not."""
    writer.write("a", "b", "a", "c")
    with own_reader(kafka, prefix) as reader:
        assert take(reader, 3) == ["a", "b", "c"]
    writer.write("b", "a", "d", "c", "d", "e")
    with own_reader(kafka, prefix) as reader:
        assert take(reader, 2) == ["d", "e"]
        writer.write("f", "d", "e")
        assert take(reader, 1) == ["f"]
        wait_until_sync(lambda: reader.next_result(0.1) is None, what="the repeats behind the last result")
    place = Partition(topic=prefix, number=0)
    committed = KafkaAdmin(kafka).committed(f"{prefix}-g", [place])[place]
    assert committed is not None
    assert committed.offset == 13, "repeats at the end are no backlog"


def test_what_was_in_hand_when_an_error_left_the_context_is_given_again(
    kafka: str, prefix: str, writer: Writer
) -> None:
    """Committed is what was handled, and nothing else: the one that failed comes first in the next life."""
    writer.write("a", "b", "c")
    with suppress(KeyError), own_reader(kafka, prefix) as reader:
        assert take(reader, 2) == ["a", "b"]
        raise KeyError
    with own_reader(kafka, prefix) as reader:
        assert take(reader, 2) == ["b", "c"]


async def test_asyncio_gives_the_same_and_a_cancelled_wait_loses_nothing(
    kafka: str, prefix: str, writer: Writer
) -> None:
    """A result that arrives while its waiter is cancelled is the next one's."""
    async with AsyncResultReader(kafka, topic=prefix, group=f"{prefix}-g", model=Urgency) as reader:
        waiting = asyncio.create_task(reader.next_result(TIMEOUT_S))
        writer.write("a")
        first = await waiting
        assert first is not None
        found = [first.id]
        for id in ("b", "c", "d"):
            waiting = asyncio.create_task(reader.next_result(TIMEOUT_S))
            await asyncio.sleep(0)
            await asyncio.to_thread(writer.write, id, "a")
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                if (received := await waiting) is not None:
                    found.append(received.id)
        async for received in reader:
            found.append(received.id)
            if received.id == "d":
                break
    assert found == ["a", "b", "c", "d"]


@pytest.mark.real_kafka
async def test_members_share_the_partitions_and_a_leaver_hands_its_place_on(
    real_kafka: str, prefix: str
) -> None:
    """Over two rebalances each id is given once, whichever member is asked: places and repeats are known."""
    create_real_topics(real_kafka, {prefix: 2})
    writer = Writer(real_kafka, prefix)
    given: dict[str, list[str]] = {"stays": [], "leaves": []}

    async def collect(reader: AsyncResultReader[Urgency], into: list[str]) -> None:
        async for received in reader:
            into.append(received.id)  # noqa: PERF401 - what is given is seen while more is waited for

    def member() -> AsyncResultReader[Urgency]:
        return AsyncResultReader(
            real_kafka, topic=prefix, group=f"{prefix}-g", model=Urgency, session_timeout_s=2.0
        )

    written: dict[str, int] = {}

    async def write(id: str, partition: int) -> None:
        written[id] = partition
        await asyncio.to_thread(writer.write, id, partition=partition)

    async with member() as stays:
        staying = asyncio.create_task(collect(stays, given["stays"]))
        await write("a0", 0)
        await write("a1", 1)
        await wait_until(lambda: len(given["stays"]) == 2, timeout_s=TIMEOUT_S, what="both partitions")
        async with member() as leaves:
            leaving = asyncio.create_task(collect(leaves, given["leaves"]))
            while len(given["leaves"]) < 3:
                await write(f"b{len(written)}", len(written) % 2)
            leaving.cancel()
            await asyncio.wait([leaving])
        for id, partition in [*written.items(), ("end0", 0), ("end1", 1)]:
            await write(id, partition)
        await wait_until(
            lambda: {"end0", "end1"} <= set(given["stays"]), timeout_s=TIMEOUT_S, what="the ends"
        )
        staying.cancel()
        await asyncio.wait([staying])
    writer.close()
    assert sorted(given["stays"] + given["leaves"]) == sorted(written)


def test_a_result_says_what_it_answers(kafka: str, prefix: str, writer: Writer) -> None:
    """The model, the event's own id, key, time and place come typed."""
    reply = ChatReply(
        conversation_id="c", turn=1, reply="Here.", model="m", usage=Usage(input_tokens=3, output_tokens=2)
    )
    writer.write_records([record(prefix, "r-1", reply)])
    with ResultReader(kafka, topic=prefix, group="g", model=ChatReply) as reader:
        received = next(iter(reader))
    assert received.result == reply
    assert (received.id, received.event_id, received.key, received.time_ms) == ("r-1", "of-r-1", "k", 0)
    assert (received.place.topic, received.place.partition, received.place.offset) == (prefix, 0, 0)
    assert "Here" not in repr(received)


def test_a_topic_whose_results_changed_their_shape_is_read_by_type(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """Each record is read by the model of its ce_type; one that has none is an error, or `on_bad`'s."""
    embedded_broker.create_topics({prefix: 1})
    writer = Writer(embedded_broker.address, prefix)
    writer.write("a")
    writer.write_records([record(prefix, "b", UrgencyInNumbers(ticket_id="t", urgency=3))])
    writer.write_records([OutgoingRecord(topic=prefix, key=None, value=b"secret", partition=0)])
    writer.write("c")
    writer.close()
    address = embedded_broker.address
    with ResultReader(address, topic=prefix, group="both", model=(Urgency, UrgencyInNumbers)) as reader:
        first, second = (reader.next_result(TIMEOUT_S) for _ in range(2))
        assert first is not None
        assert isinstance(first.result, Urgency)
        assert second is not None
        assert isinstance(second.result, UrgencyInNumbers)
        with pytest.raises(BadResultError, match=f"{prefix}/0/2 is no result: not-json") as caught:
            reader.next_result(TIMEOUT_S)
    assert "secret" not in repr(caught.value.__context__) + repr(caught.value.__cause__) + str(caught.value)
    bad: list[tuple[Record, str]] = []
    with ResultReader(
        address, topic=prefix, group="old", model=Urgency, on_bad=lambda r, e: bad.append((r, e.where))
    ) as old:
        assert [received.id for received in (next(iter(old)), next(iter(old)))] == ["a", "c"]
    assert [(record.offset, where) for record, where in bad] == [(1, "ce_type"), (2, "")]


def test_a_repeat_beyond_the_span_is_given_again(embedded_broker: EmbeddedBroker, prefix: str) -> None:
    """The bound is exact, and the same whether the reader saw the first one itself or looked back for it."""
    embedded_broker.create_topics({prefix: 1})
    writer = Writer(embedded_broker.address, prefix)
    writer.write("a", "b", "c", "b", "a")  # b again after 2 offsets, a after 4
    with own_reader(embedded_broker.address, prefix, repeat_span=3) as reader:
        assert take(reader, 4) == ["a", "b", "c", "a"]
    writer.write("b", "c", "d")  # b again after 2 offsets, c after 4
    writer.close()
    with own_reader(embedded_broker.address, prefix, repeat_span=3) as reader:
        assert take(reader, 2) == ["c", "d"]


def test_a_group_that_starts_late_gets_only_what_comes_after(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """`latest` gives nothing of before, but knows it; what comes while nobody reads is the next reader's."""
    embedded_broker.create_topics({prefix: 1})
    writer = Writer(embedded_broker.address, prefix)
    writer.write("a", "b")

    def late_reader() -> ResultReader[Urgency]:
        return ResultReader(
            embedded_broker.address,
            topic=prefix,
            group="late",
            model=Urgency,
            start_at=StartAt.LATEST,
            session_timeout_s=2.0,
        )

    with late_reader() as reader:
        assert reader.next_result(2.0) is None
    writer.write("a", "c")
    with late_reader() as reader:
        assert take(reader, 1) == ["c"]
    writer.close()


def test_a_place_beyond_the_end_is_one_of_an_earlier_topic(
    embedded_broker: EmbeddedBroker, prefix: str
) -> None:
    """When a topic was made anew under its name, its first records are given and not skipped."""
    embedded_broker.create_topics({prefix: 1})
    writer = Writer(embedded_broker.address, prefix)
    writer.write("a", "b")
    writer.close()
    group = {"bootstrap.servers": embedded_broker.address, "group.id": f"{prefix}-g"}
    earlier = Consumer(group)
    earlier.commit(offsets=[TopicPartition(prefix, 0, 100)], asynchronous=False)
    earlier.close()
    with own_reader(embedded_broker.address, prefix) as reader:
        assert take(reader, 2) == ["a", "b"]


def test_a_span_that_is_none_is_refused() -> None:
    """An option that cannot be kept is a configuration error before anything is joined."""
    with pytest.raises(ConfigurationError, match="repeat_span"):
        own_reader("127.0.0.1:1", "t", repeat_span=-1)


@pytest.mark.parametrize(
    ("request_kind", "code", "said"), [(Request.OFFSET_FETCH, 30, "where to begin"), (Request.FETCH, 29, "")]
)
def test_what_kafka_refuses_is_raised_and_not_waited_for(request_kind: Request, code: int, said: str) -> None:
    """A reader that may not read says so instead of waiting for results that never come."""
    with EmbeddedBroker({"r": 1}) as broker:
        broker.fail(request_kind, [code] * 5)
        reader = own_reader(broker.address, "r")
        with pytest.raises(BrokerError, match=f"{said}.*authorization failed"):
            while reader.next_result(TIMEOUT_S) is not None:
                pass
        reader.close()
