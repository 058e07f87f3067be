"""What bookings came to, until the next batch tells Redis: given back unused, or used for more or less."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from sluicegate.limiter.api import Cost, Permit
from sluicegate.limiter.booking import GiveBack, Settlement
from sluicegate.limiter.waiters import Booking

SETTLE_WITHIN_S = 0.05


class Unsettled:
    """The permits that were granted and not settled yet, and what is to be sent of those that were.

    `due_at` is the event loop's time by which to send; `wake` is called when it draws near.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.due_at = math.inf
        self._wake = wake
        self._granted: dict[str, Booking | None] = {}
        self._unused: list[GiveBack] = []
        self._settlements: list[Settlement] = []

    def expect(self, permit: Permit, booking: Booking | None) -> None:
        """Remember on which booking a permit was granted; None when its scope has no limit."""
        self._granted[permit.id] = booking

    def settle(self, permit: Permit, actual: Cost | None) -> None:
        """Note what the call really took. A permit counts once; a second time is ignored.

        A cost of nothing at all says that the call was never made.
        """
        booking = self._granted.pop(permit.id, None)
        if booking is None or actual is None or actual == booking.cost:
            return
        if actual == Cost(requests=0, tokens=0):
            self.give_back(booking)
            return
        extra = Cost(
            requests=max(0, actual.requests - booking.cost.requests),
            tokens=actual.tokens - booking.cost.tokens,
        )
        self._settlements.append(Settlement(generation=booking.generation, extra=extra))
        self._send_soon()

    def give_back(self, booking: Booking) -> None:
        """Note that nobody will use the booking."""
        self._unused.append(GiveBack(generation=booking.generation, number=booking.number, cost=booking.cost))
        self._send_soon()

    def take(self) -> tuple[tuple[GiveBack, ...], tuple[Settlement, ...]]:
        """Take out what is to be sent now: give-backs, the newest first, and settlements."""
        unused = tuple(sorted(self._unused, key=lambda given: given.number, reverse=True))
        settlements = tuple(self._settlements)
        self._unused, self._settlements, self.due_at = [], [], math.inf
        return unused, settlements

    def _send_soon(self) -> None:
        if math.isinf(self.due_at):
            self.due_at = asyncio.get_running_loop().time() + SETTLE_WITHIN_S
        self._wake()
