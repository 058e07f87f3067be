"""The due queue: never early, in order of due times, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.delivery.due_queue import DueEntry, DueQueue

Place = tuple[str, int]


def _entry(due_ms: int, partition: int = 0, offset: int = 0, size_bytes: int = 1) -> DueEntry[Place, str]:
    return DueEntry(
        due_ms=due_ms, partition=("t", partition), offset=offset, size_bytes=size_bytes, payload="p"
    )


def _queue(max_items: int = 1_000, max_bytes: int = 1_000_000) -> DueQueue[Place, str]:
    return DueQueue(max_items=max_items, max_bytes=max_bytes)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 3), st.integers(0, 9)), max_size=60), st.data()
)
def test_it_gives_out_what_is_due_by_time_and_nothing_else(
    pushed: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Against a sorted list: at any time exactly the entries whose time has come leave, oldest first."""
    queue = _queue()
    model: list[DueEntry[Place, str]] = []
    for offset, (due_ms, partition, size_bytes) in enumerate(pushed):
        entry = _entry(due_ms, partition, offset, size_bytes)
        queue.push(entry)
        model.append(entry)
    for now_ms in data.draw(st.lists(st.integers(-60, 60), max_size=5)):
        if data.draw(st.booleans()):
            lost = {("t", number) for number in data.draw(st.sets(st.integers(0, 3)))}
            kept = [entry for entry in model if entry.partition not in lost]
            assert queue.drop_partitions(lost) == len(model) - len(kept)
            model = kept
        expected = sorted((entry for entry in model if entry.due_ms <= now_ms), key=lambda e: e.due_ms)
        released = []
        while (entry_out := queue.pop_due(now_ms)) is not None:
            released.append(entry_out)
        model = [entry for entry in model if entry.due_ms > now_ms]
        assert released == expected
        assert len(queue) == len(model)
        assert queue.bytes == sum(entry.size_bytes for entry in model)
        assert queue.next_due_ms == min((entry.due_ms for entry in model), default=None)


def test_one_millisecond_before_its_time_an_entry_stays() -> None:
    """The bound is exact: due at 100 leaves at 100, not at 99."""
    queue = _queue()
    queue.push(_entry(100))

    assert queue.pop_due(99) is None
    assert queue.pop_due(100) is not None


def test_equal_due_times_leave_in_the_order_of_arrival() -> None:
    """A tie keeps the order of the partition."""
    queue = _queue()
    for offset in (5, 6, 7):
        queue.push(_entry(10, offset=offset))

    released = [queue.pop_due(10) for _ in range(3)]

    assert [entry.offset for entry in released if entry is not None] == [5, 6, 7]


def test_a_full_queue_says_so_and_refuses() -> None:
    """The bound in items holds even against an intake that forgot to ask."""
    queue = _queue(max_items=2)
    queue.push(_entry(1))
    assert queue.room == 1
    queue.push(_entry(2))
    assert queue.room == 0

    with pytest.raises(OverflowError):
        queue.push(_entry(3))
    queue.pop_due(1)
    assert queue.room == 1


def test_bytes_bound_the_queue_as_items_do() -> None:
    """Few large records fill it too."""
    queue = _queue(max_bytes=10)
    queue.push(_entry(1, size_bytes=9))
    assert queue.room > 0
    queue.push(_entry(1, size_bytes=9))

    assert queue.room == 0


def test_clearing_leaves_nothing_behind() -> None:
    """After a lost assignment neither entries nor bytes remain."""
    queue = _queue()
    queue.push(_entry(1, size_bytes=9))

    queue.clear()

    assert (len(queue), queue.bytes, queue.next_due_ms) == (0, 0, None)
