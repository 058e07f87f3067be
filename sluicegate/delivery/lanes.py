"""Who may run next: lanes that run one item at a time, lowest order first, and the queue of ready lanes.

Pure bookkeeping, no asyncio. Every operation is O(1) or O(log n) in what waits in one lane.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item(Generic[T]):
    """One delivered record on its way through the dispatcher.

    `lane` names whatever has to be run one at a time: (partition number, key), the same for a key's
    records from the input and from `due`. `order` is the origin's offset. `ack` is called once, when the
    work says so, and never after the item was forgotten.
    """

    topic: str
    partition: int
    offset: int
    lane: Hashable
    order: int
    size_bytes: int
    is_due: bool
    payload: T
    ack: Callable[[], None]

    @property
    def source(self) -> tuple[str, int]:
        """The partition that the record itself was read from."""
        return self.topic, self.partition


class _Fill:
    """How many items wait in the fullest lane of one source partition."""

    __slots__ = ("_lanes_with", "fullest")

    def __init__(self) -> None:
        self._lanes_with: Counter[int] = Counter()
        self.fullest = 0

    def grow(self, waiting: int) -> None:
        """One lane went from `waiting` - 1 to `waiting`."""
        self._move(waiting - 1, waiting)
        self.fullest = max(self.fullest, waiting)

    def shrink(self, waiting: int) -> None:
        """One lane went from `waiting` + 1 to `waiting`."""
        self._move(waiting + 1, waiting)
        if self.fullest == waiting + 1 and not self._lanes_with[self.fullest]:
            self.fullest = waiting

    def _move(self, old: int, new: int) -> None:
        if old:
            self._lanes_with[old] -= 1
        if new:
            self._lanes_with[new] += 1


@dataclass(slots=True, eq=False)
class _Lane(Generic[T]):
    key: Hashable
    waiting: list[tuple[int, int, Item[T]]] = field(default_factory=list)
    waiting_from: dict[tuple[str, int], int] = field(default_factory=dict)
    is_held: bool = False  # an item of it runs, or a crash or a LEFT shut it
    queued_as_due: bool | None = None  # which ready queue counts; an entry in the other one is out of date


class Lanes(Generic[T]):
    """All lanes of one dispatcher. With `serial` off every item is a lane of its own."""

    def __init__(self, *, serial: bool) -> None:
        self._serial = serial
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._fills: dict[tuple[str, int], _Fill] = {}
        self._ready: dict[bool, deque[_Lane[T]]] = {True: deque(), False: deque()}
        self._count = 0
        self._arrivals = 0

    def __len__(self) -> int:
        """How many items wait."""
        return self._count

    def put(self, item: Item[T]) -> None:
        """Add an item that waits for its lane and for a slot."""
        self._arrivals += 1
        key = self._key(item)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        heapq.heappush(lane.waiting, (item.order, self._arrivals, item))
        self._count += 1
        if self._serial:
            source = item.source
            waiting = lane.waiting_from[source] = lane.waiting_from.get(source, 0) + 1
            self._fill(source).grow(waiting)
        self._queue(lane)

    def take(self, *, input_too: bool) -> Item[T] | None:
        """Return the next item to run and hold its lane; due items go first."""
        lane = self._next_ready(due=True)
        if lane is None and input_too:
            lane = self._next_ready(due=False)
        if lane is None:
            return None
        lane.is_held = True
        return self._pop(lane)

    def release(self, item: Item[T]) -> None:
        """Let the item's lane go on with its next one."""
        lane = self._lanes[self._key(item)]
        lane.is_held = False
        if lane.waiting:
            self._queue(lane)
        else:
            del self._lanes[lane.key]

    def drop_lane(self, item: Item[T]) -> list[Item[T]]:
        """Forget what waits in the item's lane, which stays held for good."""
        lane = self._lanes[self._key(item)]
        return [self._pop(lane) for _ in range(len(lane.waiting))]

    def drop_waiting(self) -> list[Item[T]]:
        """Forget all that waits; held lanes stay held."""
        dropped = [item for lane in self._lanes.values() for _, _, item in lane.waiting]
        self._lanes = {
            lane.key: _Lane(lane.key, is_held=True) for lane in self._lanes.values() if lane.is_held
        }
        self._fills.clear()
        for ready in self._ready.values():
            ready.clear()
        self._count = 0
        return dropped

    def waiting(self) -> Iterator[Item[T]]:
        """Yield all that waits."""
        return (item for lane in self._lanes.values() for _, _, item in lane.waiting)

    def fullest(self, source: tuple[str, int]) -> int:
        """How many items of this source partition wait in its fullest lane."""
        fill = self._fills.get(source)
        return fill.fullest if fill is not None else 0

    def waits_here(self, lane: Hashable, order: int) -> bool:
        """Whether an item of exactly this order waits in the lane. O(what waits there), which is bounded."""
        found = self._lanes.get(lane)
        return found is not None and any(waiting == order for waiting, _, _ in found.waiting)

    def _key(self, item: Item[T]) -> Hashable:
        return item.lane if self._serial else id(item)

    def _pop(self, lane: _Lane[T]) -> Item[T]:
        _, _, item = heapq.heappop(lane.waiting)
        self._count -= 1
        if self._serial:
            source = item.source
            lane.waiting_from[source] -= 1
            self._fill(source).shrink(lane.waiting_from[source])
        return item

    def _fill(self, source: tuple[str, int]) -> _Fill:
        fill = self._fills.get(source)
        if fill is None:
            fill = self._fills[source] = _Fill()
        return fill

    def _queue(self, lane: _Lane[T]) -> None:
        head_is_due = lane.waiting[0][2].is_due
        if not lane.is_held and lane.queued_as_due is not head_is_due:
            lane.queued_as_due = head_is_due
            self._ready[head_is_due].append(lane)

    def _next_ready(self, *, due: bool) -> _Lane[T] | None:
        ready = self._ready[due]
        while ready:
            lane = ready.popleft()
            if lane.queued_as_due is due and not lane.is_held:
                lane.queued_as_due = None
                return lane
        return None
