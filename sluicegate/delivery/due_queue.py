"""What waits for its due time in memory: a bounded heap that never hands anything out early."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueEntry(Generic[P, T]):
    """One record and the moment from which it may be handed on. `due_ms` is absolute."""

    due_ms: int
    partition: P
    offset: int
    size_bytes: int
    payload: T = field(compare=False)


class DueQueue(Generic[P, T]):
    """A heap by due time, bounded in items and bytes. `partition` may be a number or (topic, number).

    The byte bound is looked at before a push, so the last entry may reach over it.
    """

    __slots__ = ("_bytes", "_heap", "_max_bytes", "_max_items", "_pushed")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._heap: list[tuple[int, int, DueEntry[P, T]]] = []
        self._bytes = 0
        self._pushed = 0  # breaks ties: equal due times leave in the order of their arrival

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def bytes(self) -> int:
        """The sum of the entries' sizes."""
        return self._bytes

    @property
    def room(self) -> int:
        """How many more entries may be pushed; 0 as soon as either bound is reached."""
        if self._bytes >= self._max_bytes:
            return 0
        return max(0, self._max_items - len(self._heap))

    @property
    def next_due_ms(self) -> int | None:
        """The earliest due time; None when nothing waits."""
        return self._heap[0][0] if self._heap else None

    def push(self, entry: DueEntry[P, T]) -> None:
        """Add an entry; raises OverflowError when there is no `room`, which intake has to ask for first."""
        if not self.room:
            raise OverflowError("the due queue is full: ask for room before taking a record")
        self._pushed += 1
        heapq.heappush(self._heap, (entry.due_ms, self._pushed, entry))
        self._bytes += entry.size_bytes

    def pop_due(self, now_ms: int) -> DueEntry[P, T] | None:
        """Return the entry that is due the longest, None while none is; never one before its time."""
        if not self._heap or self._heap[0][0] > now_ms:
            return None
        _, _, entry = heapq.heappop(self._heap)
        self._bytes -= entry.size_bytes
        return entry

    def drop_partitions(self, partitions: Collection[P]) -> int:
        """Forget what came from partitions that were taken away; returns how many entries that were.

        O(n) once, however many partitions go: in a rebalance all of them do.
        """
        gone = frozenset(partitions)
        kept = [item for item in self._heap if item[2].partition not in gone]
        dropped = len(self._heap) - len(kept)
        heapq.heapify(kept)
        self._heap = kept
        self._bytes = sum(item[2].size_bytes for item in kept)
        return dropped

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._bytes = 0
