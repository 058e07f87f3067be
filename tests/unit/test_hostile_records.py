"""The corpus of hostile records against the processing of a worker and of a relay, without Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.relay.plan import Move, hold, move, tiers_of
from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict
from sluicegate.processing.reading import BadDelivery, Delivered
from sluicegate.records import Headers, Origin, OutgoingRecord, Record
from sluicegate.retry.headers import (
    BAD_HEADERS_REASON,
    RETRY_HEADER_NAMES,
    RetryHeaders,
    with_retry_headers,
)
from sluicegate.state.api import Copy
from tests.corpus import HOSTILE, Hostile
from tests.unit.processing_world import World
from tests.waiting import wait_until

LONGEST_S = 0.1
CORPUS = pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)


@contextmanager
def held_up() -> Iterator[list[float]]:
    """Measure for how long the block kept the thread, and with it every neighbour, from anything else."""
    seconds: list[float] = []
    began = time.thread_time()
    yield seconds
    seconds.append(time.thread_time() - began)


def strangers(headers: Headers) -> Headers:
    """Leave out what is ours to write."""
    own = RETRY_HEADER_NAMES | {"dlq-reason", "dlq-where", "dlq-ended-at-ms", "ce_causationid"}
    return tuple(header for header in headers if header[0] not in own)


def check_letter(letter: OutgoingRecord, record: Record) -> None:
    """A dead letter is the record as it came, with a reason from the closed set."""
    assert (letter.value, letter.key) == (record.value, record.key)
    assert strangers(letter.headers) == strangers(record.headers)


@CORPUS
async def test_a_hostile_record_is_a_dead_letter_with_its_bytes_and_takes_no_time(hostile: Hostile) -> None:
    """G6: nothing raises, the letter holds every byte, key and header, and the thread is free at once."""
    world = World()
    record = world.record(hostile.value, key=hostile.key, headers=hostile.headers)

    with held_up() as seconds:
        verdict = await world.deliver(record)

    assert verdict is Verdict.ACK
    (letter,) = world.letters
    check_letter(letter, record)
    assert [value for name, value in letter.headers if name == "dlq-reason"] == [hostile.reason.encode()]
    assert seconds[0] < LONGEST_S
    assert world.crashes == []


async def test_neighbours_do_not_wait_for_letters_that_nobody_takes() -> None:
    """A whole corpus whose dead letters are stuck holds up no event of the same key and partition."""
    world = World()
    may_publish = asyncio.Event()
    publish = world.publisher.publish

    async def publish_but_letters(record: OutgoingRecord) -> None:
        if record.topic == world.topics.dlq:
            await may_publish.wait()
        await publish(record)

    world.publisher.publish = publish_but_letters  # type: ignore[method-assign]  # a broker that is slow
    crashes: list[BaseException] = []

    async def work(item: Item[Delivered], slot: Slot[Delivered]) -> Verdict:
        return await world.processor.work(item, slot)

    dispatcher: KeyedDispatcher[Delivered] = KeyedDispatcher(
        work,
        max_running=4 * len(HOSTILE),
        max_admitted=4 * len(HOSTILE),
        max_admitted_bytes=64 * 1024 * 1024,
        serial=True,
        on_crash=crashes.append,
    )
    # The same key, one good event behind each hostile record.
    for turn, hostile in enumerate(HOSTILE):
        dispatcher.submit(world.item(world.record(hostile.value, key=b"c-1", headers=hostile.headers)))
        dispatcher.submit(world.item(world.chat(turn=turn)))

    await wait_until(lambda: len(world.results) == len(HOSTILE), timeout_s=20)
    assert world.letters == []
    may_publish.set()
    await wait_until(lambda: dispatcher.idle, timeout_s=20)
    assert len(world.letters) == len(HOSTILE)
    assert crashes == []


header_lists = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(
                ["ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion", "content-type", "traceparent"]
            ),
            st.sampled_from(sorted(RETRY_HEADER_NAMES)),
            st.text(max_size=20),
        ),
        st.one_of(st.binary(max_size=30), st.sampled_from([b"application/cloudevents+json", b"1.0", b"-1"])),
    ),
    max_size=8,
).map(tuple)
values = st.one_of(
    st.none(),
    st.binary(max_size=200),
    st.sampled_from([hostile.value for hostile in HOSTILE if len(hostile.value or b"") < 10_000]),
)


@settings(max_examples=150)
@given(
    value=values, key=st.one_of(st.none(), st.binary(max_size=40)), headers=header_lists, is_due=st.booleans()
)
def test_whatever_is_published_ends_and_breaks_nothing(
    value: bytes | None, key: bytes | None, headers: Headers, is_due: bool
) -> None:
    """Any bytes, any key, any headers, on the input or on `due`: an end, and no exception."""
    world = World()
    record = world.record(value, key=key, headers=headers, topic=world.topics.due if is_due else None)
    if not isinstance(world.reader.read(record), BadDelivery):
        return
    assert asyncio.run(world.deliver(record)) is Verdict.ACK
    (letter,) = world.letters
    # aiokafka takes no record without key and value: of such a tombstone an empty value is kept.
    assert (letter.value, letter.key) == (value if key is not None else value or b"", key)
    assert world.crashes == []


@CORPUS
def test_a_hostile_record_in_a_tier_is_a_dead_letter_with_its_bytes(hostile: Hostile) -> None:
    """The relay has no use for what names no origin; it looks at no value and takes no time."""
    world = World()
    tier = tiers_of(world.settings)[0]
    record = world.record(hostile.value, key=hostile.key, headers=hostile.headers, topic=tier.topic)

    with held_up() as seconds:
        moved = move(hold(record, tier, partitions=12, now_ms=world.clock.ms), now_ms=world.clock.ms)

    assert moved.move is Move.DEAD_LETTERED
    assert (moved.record.value, moved.record.key) == (record.value, record.key)
    others = tuple(header for header in moved.record.headers if header[0] != "dlq-reason")
    assert others == tuple(header for header in record.headers if header[0] != "dlq-reason")
    assert ("dlq-reason", BAD_HEADERS_REASON.encode()) in moved.record.headers
    assert seconds[0] < LONGEST_S


@CORPUS
def test_a_hostile_record_with_our_headers_comes_back_from_its_tier_as_it_went(hostile: Hostile) -> None:
    """The relay is no judge of values: what we parked is released with every byte, whatever it holds."""
    world = World()
    tier = tiers_of(world.settings)[0]
    retry = RetryHeaders(
        origin=Origin(topic=world.topics.input, partition=3, offset=1),
        origin_timestamp_ms=world.clock.ms,
        copy=Copy(id="1-a", replaces="input"),
        due_at_ms=world.clock.ms,
        attempt=1,
    )
    record = world.record(hostile.value, key=hostile.key, headers=hostile.headers, topic=tier.topic)
    record = replace(record, headers=with_retry_headers(record.headers, retry))

    moved = move(hold(record, tier, partitions=12, now_ms=world.clock.ms), now_ms=world.clock.ms)

    assert moved.move is Move.RELEASED
    assert (moved.record.value, moved.record.key, moved.record.headers) == (
        record.value,
        record.key,
        record.headers,
    )
