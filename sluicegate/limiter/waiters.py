"""Who waits for a permit in this process, and in which order they book."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from sluicegate.limiter.api import Ask, Blocked, Cost, NeverFits, Permit

_LEAST_SWEEP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A start time that Redis keeps for one call. `start_at` is the event loop's time, never early."""

    generation: int
    number: int
    cost: Cost
    start_at: float
    start_us: int
    wait_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """One ask and the place where its answer goes. `asked_at`, `retry_at` are the event loop's time.

    `blocked_before_s` is how long the scope had been blocked, in all, when it asked; before `retry_at`
    a booking would lie beyond the horizon.
    """

    ask: Ask
    answer: asyncio.Future[Permit | Blocked | NeverFits]
    asked_at: float
    blocked_before_s: float
    retry_at: float = 0.0
    booking: Booking | None = None
    timer: asyncio.TimerHandle | None = None


class WaiterHeap:
    """Waiters without a booking: by lane, retries first, then the older origin, then arrival.

    One that was answered meanwhile (cancelled, blocked, released) is passed over, and swept out once
    such could be half of all: a scope may stay blocked through many rebalances.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, bool, int, int, Waiter]] = []
        self._arrivals = itertools.count()
        self._sweep_at = _LEAST_SWEEP

    def __len__(self) -> int:
        """How many are kept, answered ones included."""
        return len(self._heap)

    def push(self, waiter: Waiter) -> None:
        """Take a waiter in."""
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if not entry[-1].answer.done()]
            heapq.heapify(self._heap)
            self._sweep_at = max(_LEAST_SWEEP, 2 * len(self._heap))
        ask = waiter.ask
        place = (int(ask.lane), not ask.is_retry, ask.origin_timestamp_ms, next(self._arrivals))
        heapq.heappush(self._heap, (*place, waiter))

    def head(self) -> Waiter | None:
        """Return the one whose turn it is, without taking it out."""
        while self._heap and self._heap[0][-1].answer.done():
            heapq.heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def pop(self) -> Waiter | None:
        """Take out the one whose turn it is."""
        head = self.head()
        if head is not None:
            heapq.heappop(self._heap)
        return head

    def __iter__(self) -> Iterator[Waiter]:
        return (entry[-1] for entry in self._heap if not entry[-1].answer.done())


class BlockView:
    """What this process knows of the scope's block, in the event loop's time.

    It also adds up how long the scope has been blocked at all: only that part of a wait counts against
    a waiter's patience.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._until = 0.0
        self._ended_s = 0.0

    def see(self, until: float, now: float) -> None:
        """Learn that the scope is blocked until then; never shortens what is known."""
        if now >= self._until:
            self._ended_s += self._until - self._since
            self._since = self._until = now
        self._until = max(self._until, until)

    def remaining_s(self, now: float) -> float:
        """Return how long the block lasts from now."""
        return max(0.0, self._until - now)

    def total_s(self, now: float) -> float:
        """Return how long the scope has been blocked so far, over all blocks."""
        return self._ended_s + min(now, self._until) - self._since
