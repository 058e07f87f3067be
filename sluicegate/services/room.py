"""How much may be on its way unconfirmed: a bound in records and in bytes, and who waits for room next.

`Room` is the bound alone. `ThreadRoom` lets threads wait for it, `LoopRoom` coroutines; both serve whoever
asked first, so that a large record is not overtaken for ever by small ones.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class Room:
    """A bound on records and bytes. A record larger than all bytes allowed goes alone."""

    def __init__(self, *, records: int, size_bytes: int) -> None:
        if records < 1 or size_bytes < 1:
            raise ValueError("there must be room for one record and one byte")
        self._most_records = records
        self._most_bytes = size_bytes
        self._records = 0
        self._bytes = 0

    @property
    def records(self) -> int:
        """How many records are on their way."""
        return self._records

    def fits(self, size_bytes: int) -> bool:
        """Return whether one more record of this size may go."""
        is_full = self._records >= self._most_records or self._bytes + size_bytes > self._most_bytes
        return self._records == 0 or not is_full

    def take(self, size_bytes: int) -> None:
        """Count a record that goes."""
        self._records += 1
        self._bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Count a record that is confirmed or has failed."""
        self._records -= 1
        self._bytes -= size_bytes


class ThreadRoom:
    """A room that threads wait for."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def take(self, size_bytes: int, timeout_s: float) -> bool:
        """Wait for room and take it; False when there was none in time."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                found = self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and self._room.fits(size_bytes), timeout_s
                )
                if found:
                    self._room.take(size_bytes)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return found

    def give(self, size_bytes: int) -> None:
        """Give back what a record took, from any thread."""
        with self._changed:
            self._room.give(size_bytes)
            self._changed.notify_all()


class LoopRoom:
    """A room that coroutines of one event loop wait for."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int, timeout_s: float) -> bool:
        """Wait for room and take it; False when there was none in time. Takes nothing when cancelled."""
        if not self._waiting and self._room.fits(size_bytes):
            self._room.take(size_bytes)
            return True
        entry = size_bytes, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await entry[1]
        except TimeoutError:
            return self._leave(entry)
        except BaseException:
            if self._leave(entry):
                self.give(size_bytes)
            raise
        return True

    def give(self, size_bytes: int) -> None:
        """Give back what a record took, from within the loop."""
        self._room.give(size_bytes)
        self._let_in()

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> bool:
        """Return whether the room was given in the very moment in which the waiting ended."""
        if entry not in self._waiting:
            return True
        self._waiting.remove(entry)
        self._let_in()  # it may have been the one that did not fit
        return False

    def _let_in(self) -> None:
        while self._waiting and self._room.fits(self._waiting[0][0]):
            size_bytes, waiter = self._waiting.popleft()
            self._room.take(size_bytes)
            if not waiter.done():
                waiter.set_result(None)
