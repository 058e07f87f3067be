"""The keyed dispatcher: many events at work, one at a time per lane, a bounded number in hand.

What it promises. Items of one lane run one at a time, lowest order first, those from the input and from
`due` alike. An item is acked only when its work says so, and never after it was forgotten. A quarter of the
slots and of the places is `due`'s alone, so that a full input never holds back a due retry; `due` may use
all of both and goes first.

How it pauses. While it is held nothing more is started; what runs goes on, what waits keeps its place.

How it stops. `drain` takes nothing more, forgets what waits and lets run what runs. `forget` is for a
rebalance: everything is cancelled but a publish under way. What was not acked is delivered again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Generic, TypeVar, assert_never

from sluicegate.delivery.lanes import Item, Lanes

T = TypeVar("T")

__all__ = ["Item", "KeyedDispatcher", "Slot", "Verdict"]

_DUE_PART = 4  # one in four slots and places is kept for due


class Verdict(StrEnum):
    """What is to become of an item whose work has returned."""

    ACK = "ack"
    SET_ASIDE = "set-aside"  # a predecessor waits in this lane: back into it, the lowest order goes next
    LEFT = "left"  # not acked; delivered again after the drain or rebalance that caused it


class Slot(Generic[T]):
    """A running item's hold on one of the slots, in the hands of its work."""

    __slots__ = ("_is_live", "_publishing", "_stops_after_publish", "_task", "item")

    def __init__(self, item: Item[T]) -> None:
        self.item = item
        self._task: asyncio.Task[None] | None = None
        self._is_live = True  # False once forgotten: nothing it still does counts
        self._publishing = 0
        self._stops_after_publish = False

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Enter the section that a rebalance lets finish (bounded): publish, confirm, mark, nothing slow.

        Raises CancelledError when the item was forgotten already: then another worker has the event.
        """
        if not self._is_live:
            raise asyncio.CancelledError
        self._publishing += 1
        try:
            yield
        finally:
            self._publishing -= 1
            if self._stops_after_publish and not self._publishing and self._task is not None:
                # Work that returns its verdict right away is still acked; its next await ends it.
                self._task.cancel()


class KeyedDispatcher(Generic[T]):
    """Runs items under bounds. All methods belong to one event loop; `submit` never blocks.

    It starts its own tasks, since they come and go with deliveries and not with a block of code; it keeps
    every one of them until it ended, and `forget` and `drain` are their bounds.
    """

    def __init__(
        self,
        work: Callable[[Item[T], Slot[T]], Awaitable[Verdict]],
        *,
        max_running: int,
        max_admitted: int,
        max_admitted_bytes: int,
        max_waiting_per_lane: int = 32,
        serial: bool,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """`on_crash` learns of an exception of `work`: its lane stays shut and the process has to end."""
        self._work = work
        self._max_running = max_running
        self._max_running_input = max(1, max_running - max_running // _DUE_PART)
        self._max_admitted = max_admitted
        self._max_admitted_input = max(1, max_admitted - max_admitted // _DUE_PART)
        self._max_bytes = max_admitted_bytes
        self._max_bytes_input = max_admitted_bytes - max_admitted_bytes // _DUE_PART
        self._max_waiting_per_lane = max_waiting_per_lane
        self._on_crash = on_crash
        self._serial = serial
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._is_held = False
        self._forgetting = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._room_made = asyncio.Event()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._lanes: Lanes[T] = Lanes(serial=self._serial)
        self._running: dict[Slot[T], None] = {}  # in the order of their start, so that runs can be replayed
        self._shut: set[Hashable] = set()
        # By [False] input and [True] due.
        self._running_of = [0, 0]
        self._admitted_of = [0, 0]
        self._bytes_of = [0, 0]

    @property
    def running(self) -> int:
        """How many items hold a slot."""
        return len(self._running)

    @property
    def admitted(self) -> int:
        """How many items are in hand."""
        return sum(self._admitted_of)

    @property
    def admitted_bytes(self) -> int:
        """How large the items in hand are together."""
        return sum(self._bytes_of)

    @property
    def waiting(self) -> int:
        """How many items wait for their lane or for a slot."""
        return len(self._lanes)

    def in_hand(self) -> Iterator[Item[T]]:
        """Yield every item that was taken and not finished."""
        yield from (slot.item for slot in self._running)
        yield from self._lanes.waiting()

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self.admitted

    def room(self, topic: str, partition: int, is_due: bool) -> int:
        """Return how many records intake may take from there now; 0: pause it.

        The item and lane bounds hold even if all of them are submitted at once. The byte bound knows only
        what was submitted: ask again before each large record.
        """
        items_left = self.room_in_all(is_due)
        if self._serial:
            lane_left = self._max_waiting_per_lane - self._lanes.fullest((topic, partition))
            items_left = min(items_left, lane_left)
        return max(0, items_left)

    def room_in_all(self, is_due: bool) -> int:
        """Return how many records intake may take now from all partitions of the kind together.

        Input and due share it: both together may not take more than due alone.
        """
        if self._is_draining or self._forgetting:
            return 0
        bytes_left = self._max_bytes - self.admitted_bytes
        items_left = self._max_admitted - self.admitted
        if not is_due:
            bytes_left = min(bytes_left, self._max_bytes_input - self._bytes_of[False])
            items_left = min(items_left, self._max_admitted_input - self._admitted_of[False])
        return max(0, items_left) if bytes_left > 0 else 0

    async def room_made(self) -> None:
        """Return when an item has left since the last call: `room` may say more now."""
        await self._room_made.wait()
        self._room_made.clear()

    def submit(self, item: Item[T]) -> None:
        """Take an item. While draining or forgetting it is ignored: un-acked, it will be delivered again."""
        if self._is_draining or self._forgetting or item.lane in self._shut:
            return
        self._admitted_of[item.is_due] += 1
        self._bytes_of[item.is_due] += item.size_bytes
        self._lanes.put(item)
        self._start_ready()

    def waits_here(self, lane: Hashable, order: int) -> bool:
        """Whether an item of exactly that origin offset waits in this lane."""
        return self._serial and self._lanes.waits_here(lane, order)

    def hold(self, is_held: bool) -> None:
        """Start nothing more while held, whatever is submitted; let go, what waits is started."""
        self._is_held = is_held
        self._start_ready()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more, forget what waits, and wait for what runs; whether all of it ended in time.

        Final: nothing is taken afterwards. What still runs goes on; `forget` ends it.
        """
        self._is_draining = True
        self._drop_waiting()
        return await self._until_quiet(timeout_s)

    async def forget(self, publish_timeout_s: float) -> None:
        """Cancel and drop everything; only publishes under way may still finish and ack, within the timeout.

        Afterwards nothing of before can ack, and items of the next assignment may be submitted.
        """
        self._forgetting += 1
        try:
            self._drop_waiting()
            for slot in list(self._running):
                if slot._publishing:
                    slot._stops_after_publish = True
                else:
                    self._abandon(slot)
            await self._until_quiet(publish_timeout_s)
        finally:
            for slot in list(self._running):
                self._abandon(slot)
            self._start_epoch()
            self._forgetting -= 1
            self._room_made.set()

    async def _until_quiet(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def _start_ready(self) -> None:
        while len(self._running) < self._max_running and not self._is_held:
            input_too = self._running_of[False] < self._max_running_input
            item = self._lanes.take(input_too=input_too)
            if item is None:
                return
            slot = Slot(item)
            self._running[slot] = None
            self._running_of[item.is_due] += 1
            self._quiet.clear()
            task = asyncio.get_running_loop().create_task(self._run(slot))
            slot._task = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, slot: Slot[T]) -> None:
        try:
            verdict = await self._work(slot.item, slot)
            if slot._is_live:
                self._conclude(slot, verdict)
        except asyncio.CancelledError as exc:
            if not slot._is_live:
                return
            if slot._stops_after_publish:
                self._abandon(slot)
            else:
                self._on_crash(exc)  # nobody here cancelled it: the work let a foreign cancellation out
        except Exception as exc:  # noqa: BLE001 - the process's one loop for work; the lane stays held
            self._on_crash(exc)

    def _conclude(self, slot: Slot[T], verdict: Verdict) -> None:
        item = slot.item
        match verdict:
            case Verdict.ACK:
                item.ack()
                self._leave(slot)
                self._lanes.release(item)
            case Verdict.SET_ASIDE:
                self._free(slot)
                if self._is_draining or self._forgetting:
                    self._unadmit(item)
                else:
                    self._lanes.put(item)
                    self._lanes.release(item)
            case Verdict.LEFT:
                self._leave(slot)
                self._shut_lane(item)
            case _:
                assert_never(verdict)
        self._start_ready()

    def _shut_lane(self, item: Item[T]) -> None:
        """Keep what follows in the lane from overtaking an item that will be delivered again."""
        if not self._serial:
            self._lanes.release(item)
            return
        self._shut.add(item.lane)
        for follower in self._lanes.drop_lane(item):
            self._unadmit(follower)

    def _abandon(self, slot: Slot[T]) -> None:
        slot._is_live = False
        self._leave(slot)
        if slot._task is not None:
            slot._task.cancel()

    def _leave(self, slot: Slot[T]) -> None:
        self._free(slot)
        self._unadmit(slot.item)

    def _free(self, slot: Slot[T]) -> None:
        del self._running[slot]
        self._running_of[slot.item.is_due] -= 1
        if not self._running:
            self._quiet.set()

    def _unadmit(self, item: Item[T]) -> None:
        self._admitted_of[item.is_due] -= 1
        self._bytes_of[item.is_due] -= item.size_bytes
        self._room_made.set()

    def _drop_waiting(self) -> None:
        for item in self._lanes.drop_waiting():
            self._unadmit(item)
