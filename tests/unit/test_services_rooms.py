"""The bounds of what is on its way, what a reader remembers, and the account of what was sent."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import PublishError, UnconfirmedError
from sluicegate.services.recent_ids import RecentIds
from sluicegate.services.room import LoopRoom, Room, ThreadRoom
from sluicegate.services.sendings import Sendings
from tests.waiting import wait_until_sync


def test_a_room_is_full_in_records_or_in_bytes() -> None:
    """Either bound holds; a record above all bytes goes when it is alone."""
    room = Room(records=2, size_bytes=10)
    assert room.fits(11)
    room.take(6)
    assert (room.fits(4), room.fits(5)) == (True, False)
    room.take(4)
    assert not room.fits(0)
    room.give(6)
    assert (room.fits(6), room.fits(7)) == (True, False)
    with pytest.raises(ValueError, match="room for one record"):
        Room(records=0, size_bytes=1)


def test_a_thread_waits_its_turn_and_gives_up_in_time() -> None:
    """A large record is not overtaken by a small one that came later, and one that gave up blocks nobody."""
    room = ThreadRoom(Room(records=10, size_bytes=10))
    assert room.take(8, 1)
    order: list[int] = []
    gone = threading.Barrier(2)

    def large() -> None:
        gone.wait()
        order.append(9 if room.take(9, 10) else 0)

    thread = threading.Thread(target=large)
    thread.start()
    gone.wait()

    def is_queued() -> bool:
        if taken := room.take(1, 0.0):
            room.give(1)
        return not taken

    wait_until_sync(is_queued, what="the large one in the queue")
    room.give(8)
    thread.join(10)
    assert order == [9]
    assert not room.take(2, 0.01)
    assert room.take(1, 1)


async def test_a_coroutine_waits_its_turn_and_takes_nothing_when_it_is_cancelled() -> None:
    """Cancelled or late waiters leave; one that was let in at that very moment gives its room back."""
    room = Room(records=10, size_bytes=10)
    loop_room = LoopRoom(room)
    assert await loop_room.take(8, 1)
    large = asyncio.create_task(loop_room.take(9, 10))
    small = asyncio.create_task(loop_room.take(1, 10))
    await asyncio.sleep(0)
    assert (large.done(), small.done(), room.records) == (False, False, 1)
    large.cancel()
    await asyncio.wait([large])
    assert await small
    assert not await loop_room.take(9, 0.01)
    late = asyncio.create_task(loop_room.take(9, 10))
    await asyncio.sleep(0)
    loop_room.give(8)
    loop_room.give(1)
    late.cancel()  # after it was let in, before it could know
    await asyncio.wait([late])
    assert room.records == 0


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 6), st.integers(0, 40))
def test_what_is_a_repeat_follows_from_the_records_before_it(ids: list[str], span: int, start: int) -> None:
    """By definition: one of the `span` records before has the id; whoever read those first decides alike."""
    recent, later = RecentIds(span), RecentIds(span)
    for offset, id in enumerate(ids):
        expected = id in ids[max(0, offset - span) : offset]
        assert recent.is_repeat(id, offset) == expected
        if offset >= start - span:
            found = later.is_repeat(id, offset)
            assert found == expected or offset < start


def test_a_flush_settles_what_failed_and_what_is_late() -> None:
    """Each failure is told once; what was given up does not come back when it ends after all."""
    sendings = Sendings()
    first, second, third = (sendings.start(id) for id in ("a", "b", "c"))
    sendings.end(first, None)
    sendings.end(second, PublishError("refused"))
    assert sendings.under_way == 1
    error = sendings.settle()
    assert isinstance(error, UnconfirmedError)
    assert [(event.id, str(event.error)) for event in error.events] == [
        ("b", "refused"),
        ("c", "no confirmation in time"),
    ]
    sendings.end(third, PublishError("late"))
    assert sendings.settle() is None


def test_failures_are_kept_up_to_a_bound_and_counted_beyond() -> None:
    """A broker that is away for a day does not fill the memory."""
    sendings = Sendings()
    for number in range(1500):
        sendings.end(sendings.start(str(number)), PublishError("away"))
    error = sendings.settle()
    assert error is not None
    assert (len(error.events), error.count) == (1000, 1500)
    assert str(error) == "1500 events were not confirmed: away"
