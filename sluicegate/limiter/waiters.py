"""Who waits for a permit in this process, and in which order they book."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sluicegate.limiter.api import Ask, Blocked, Cost, Dimension, Lane, NeverFits, Permit
from sluicegate.limiter.booking import BookingRef

_LEAST_SWEEP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A start time that Redis keeps for one call. `start_at` is the event loop's time, never early.

    `is_leased`: the call has a place among the concurrent ones. `raised_us` is how much debt had been
    raised on each dimension when it was made.
    """

    ref: BookingRef
    cost: Cost
    lane: Lane
    start_at: float
    wait_s: float
    is_leased: bool = False
    is_probe: bool = False
    raised_us: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """One ask and the place where its answer goes. `asked_at` is the event loop's time.

    `blocked_before_s` is how long the scope had been blocked, in all, when it asked.
    """

    ask: Ask
    answer: asyncio.Future[Permit | Blocked | NeverFits]
    asked_at: float
    blocked_before_s: float
    booking: Booking | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Tenant:
    """One tenant's waiters, the oldest origin first, and what it was served so far."""

    served: float
    waiters: list[tuple[int, int, Waiter]] = field(default_factory=list)
    is_in_turn: bool = False


class TenantTurns:
    """Waiters of many tenants who take turns by cost: whoever was served least is next.

    Start-time fair queueing (Goyal, Vin and Cheng, 1996): a tenant that comes back after a pause starts
    level with those being served, with neither credit nor debt, so a turn never waits for more than one
    call of each other tenant. O(log tenants + log waiters) a waiter.
    """

    def __init__(self, weigh: Callable[[Cost], float]) -> None:
        self._weigh = weigh
        self._tenants: dict[str | None, _Tenant] = {}
        self._turns: list[tuple[float, int, _Tenant]] = []
        self._ticks = itertools.count()
        self._level = 0.0
        self._count = 0
        self._sweep_at = _LEAST_SWEEP

    def __len__(self) -> int:
        """How many are kept, answered ones included."""
        return self._count

    def push(self, waiter: Waiter) -> None:
        """Take a waiter in."""
        if self._count >= self._sweep_at:
            self._sweep()
        tenant = self._tenants.get(waiter.ask.tenant)
        if tenant is None:
            tenant = self._tenants[waiter.ask.tenant] = _Tenant(self._level)
        heapq.heappush(tenant.waiters, (waiter.ask.origin_timestamp_ms, next(self._ticks), waiter))
        self._count += 1
        if not tenant.is_in_turn:
            tenant.served = max(tenant.served, self._level)
            self._line_up(tenant)

    def put_back(self, waiter: Waiter) -> None:
        """Take in again one that was popped and got nothing: its turn was none."""
        self.push(waiter)
        tenant = self._tenants[waiter.ask.tenant]
        tenant.served -= self._weigh(waiter.ask.cost)
        self._line_up(tenant)

    def head(self) -> Waiter | None:
        """Return the one whose turn it is, without taking it out."""
        while self._turns:
            served, _, tenant = self._turns[0]
            while tenant.waiters and tenant.waiters[0][-1].answer.done():
                heapq.heappop(tenant.waiters)
                self._count -= 1
            if tenant.waiters and served == tenant.served and tenant.is_in_turn:
                return tenant.waiters[0][-1]
            heapq.heappop(self._turns)
            if served == tenant.served and not tenant.waiters:
                tenant.is_in_turn = False
        return None

    def pop(self) -> Waiter | None:
        """Take out the one whose turn it is."""
        head = self.head()
        if head is None:
            return None
        served, _, tenant = heapq.heappop(self._turns)
        heapq.heappop(tenant.waiters)
        self._count -= 1
        self._level = max(self._level, served)
        tenant.served = served + self._weigh(head.ask.cost)
        self._line_up(tenant)
        return head

    def __iter__(self) -> Iterator[Waiter]:
        for tenant in self._tenants.values():
            yield from (entry[-1] for entry in tenant.waiters if not entry[-1].answer.done())

    def _line_up(self, tenant: _Tenant) -> None:
        """Give the tenant its place; older places of it are passed over, as they hold another `served`."""
        tenant.is_in_turn = True
        heapq.heappush(self._turns, (tenant.served, next(self._ticks), tenant))

    def _sweep(self) -> None:
        """Forget who was answered, and tenants that nobody could tell from new ones."""
        for name, tenant in list(self._tenants.items()):
            tenant.waiters = [entry for entry in tenant.waiters if not entry[-1].answer.done()]
            heapq.heapify(tenant.waiters)
            if not tenant.waiters and tenant.served <= self._level:
                tenant.is_in_turn = False
                del self._tenants[name]
        self._turns = [turn for turn in self._turns if turn[-1].waiters and turn[0] == turn[-1].served]
        heapq.heapify(self._turns)
        for tenant in self._tenants.values():
            tenant.is_in_turn = bool(tenant.waiters)
        self._count = sum(len(tenant.waiters) for tenant in self._tenants.values())
        self._sweep_at = max(_LEAST_SWEEP, 2 * self._count)


class LaneQueue:
    """One lane's waiters without a booking: retries before fresh work, within each tenants take turns.

    Before `ask_at`, the event loop's time, asking is in vain, because of `bound_by`.
    """

    def __init__(self, weigh: Callable[[Cost], float]) -> None:
        self.ask_at = 0.0
        self.bound_by = Dimension.NONE
        self._retries = TenantTurns(weigh)
        self._fresh = TenantTurns(weigh)

    def __len__(self) -> int:
        """How many are kept, answered ones included."""
        return len(self._retries) + len(self._fresh)

    def push(self, waiter: Waiter) -> None:
        """Take a waiter in."""
        self._turns_of(waiter).push(waiter)

    def put_back(self, waiter: Waiter) -> None:
        """Take in again one that was popped and got nothing."""
        self._turns_of(waiter).put_back(waiter)

    def head(self) -> Waiter | None:
        """Return the one whose turn it is, without taking it out."""
        return self._retries.head() or self._fresh.head()

    def pop(self) -> Waiter | None:
        """Take out the one whose turn it is."""
        return self._retries.pop() or self._fresh.pop()

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._retries
        yield from self._fresh

    def _turns_of(self, waiter: Waiter) -> TenantTurns:
        return self._retries if waiter.ask.is_retry else self._fresh


class WaiterQueues:
    """The lanes of one scope in this process, the more urgent first."""

    def __init__(self, weigh: Callable[[Cost], float]) -> None:
        self._lanes = {lane: LaneQueue(weigh) for lane in Lane}

    def __getitem__(self, lane: Lane) -> LaneQueue:
        return self._lanes[lane]

    def __iter__(self) -> Iterator[Waiter]:
        for lane in self._lanes.values():
            yield from lane

    def lanes(self) -> Iterator[LaneQueue]:
        """Yield the lanes, the more urgent first."""
        yield from self._lanes.values()

    def push(self, waiter: Waiter) -> None:
        """Take a waiter in."""
        self._lanes[waiter.ask.lane].push(waiter)

    def head(self) -> Waiter | None:
        """Return the first of the most urgent lane that has any."""
        heads = (lane.head() for lane in self.lanes())
        return next((head for head in heads if head is not None), None)

    def pop(self) -> Waiter | None:
        """Take out the first of the most urgent lane that has any."""
        popped = (lane.pop() for lane in self.lanes())
        return next((waiter for waiter in popped if waiter is not None), None)

    def ask_now(self, bound_by: Dimension | None = None) -> None:
        """Forget what was in vain, or what was so for one reason: something has changed."""
        for lane in self._lanes.values():
            if bound_by in (None, lane.bound_by):
                lane.ask_at = 0.0
