"""The life of a booking in its process: from the answer that made it to the moment of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from sluicegate.limiter.api import Lane
from sluicegate.limiter.probing import Probing
from sluicegate.limiter.sight import Sight
from sluicegate.limiter.unsettled import Unsettled
from sluicegate.limiter.waiters import Waiter

CONFIRM_AFTER_S = 1.0
LATE_S = 0.05


class Bookings:
    """Waiters who sleep until their booked start, and those whose booking Redis must be asked about again.

    `lead_s` says how long that takes, `grant` is called when a start has come, `wake` when there is somebody
    to ask for.
    """

    def __init__(
        self,
        sight: Sight,
        unsettled: Unsettled,
        probing: Probing,
        *,
        lead_s: Callable[[], float],
        grant: Callable[[Waiter], None],
        wake: Callable[[], None],
    ) -> None:
        self._sight, self._unsettled, self._probing = sight, unsettled, probing
        self._lead_s, self._grant, self._wake = lead_s, grant, wake
        self._booked: set[Waiter] = set()
        self._to_ask: list[Waiter] = []

    def __len__(self) -> int:
        """How many have a booking."""
        return len(self._booked)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._booked.union(self._to_ask)

    @property
    def has_to_ask(self) -> bool:
        """Whether a booking is in doubt or its start has passed."""
        return bool(self._to_ask)

    def ahead(self, lane: Lane, taken: Iterable[Waiter] = ()) -> int:
        """Return how many of a lane are booked: one lane's head must not keep the other's from asking."""
        return sum(waiter.ask.lane is lane for waiter in self._booked.union(taken))

    def take(self, most: int) -> list[Waiter]:
        """Take out those to be asked for now; who was answered meanwhile is passed over."""
        taken, self._to_ask = self._to_ask[:most], self._to_ask[most:]
        self._booked.difference_update(taken)
        return [waiter for waiter in taken if not waiter.answer.done()]

    def places(self, requesters: Iterable[Waiter]) -> tuple[int, int]:
        """Return how many places among the concurrent calls are booked, by lane; those taken out included."""
        lanes = [
            waiter.ask.lane
            for waiter in {*self, *requesters}
            if waiter.booking is not None and waiter.booking.is_leased
        ]
        return lanes.count(Lane.INTERACTIVE), lanes.count(Lane.BULK)

    def doubt(self) -> None:
        """Ask again for those whose bookings do not hold by what is known now."""
        for waiter in [waiter for waiter in self._booked if not self._still_holds(waiter)]:
            self._ask(waiter)

    def wait_for_start(self, waiter: Waiter, *, is_confirmed: bool) -> None:
        """Let a waiter sleep until its start; one that left meanwhile gives its booking back."""
        booking = waiter.booking
        if booking is None:
            return
        if waiter.answer.done():
            self.drop(waiter)
            return
        self._booked.add(waiter)
        is_sure = is_confirmed or booking.wait_s <= CONFIRM_AFTER_S
        # What must be confirmed first asks so early that the answer comes in time.
        wake_at = booking.start_at if is_sure else booking.start_at - self._lead_s()
        if wake_at <= _now():
            self._start_reached(waiter, is_sure)
        else:
            loop = asyncio.get_running_loop()
            waiter.timer = loop.call_at(wake_at, self._start_reached, waiter, is_sure)

    def book_anew(self, waiter: Waiter) -> None:
        """Let go of a start that has passed: used late, it would come on top of what is booked for now."""
        self.drop(waiter)
        self._to_ask.append(waiter)
        self._wake()

    def granted(self, waiter: Waiter) -> None:
        """Forget one that makes its call now."""
        self._booked.discard(waiter)

    def drop(self, waiter: Waiter) -> None:
        """Give back the booking of one that will not use it."""
        self._booked.discard(waiter)
        _stop(waiter)
        booking, waiter.booking = waiter.booking, None
        if booking is not None:
            self._unsettled.give_back(booking)
            self._probing.dropped(booking)

    def _start_reached(self, waiter: Waiter, is_sure: bool) -> None:
        waiter.timer = None
        booking = waiter.booking
        if booking is None or waiter.answer.done():
            return
        if _now() - booking.start_at > LATE_S:
            self.book_anew(waiter)
        # A block may have been learned while the batch was under way, so that Redis did not know.
        elif is_sure and self._still_holds(waiter) and _now() >= self._sight.void_until:
            self._grant(waiter)
        else:
            self._ask(waiter)

    def _still_holds(self, waiter: Waiter) -> bool:
        booking = waiter.booking
        if booking is None or waiter in self._to_ask:
            return True
        is_shut = self._sight.circuit(_now()) is not None and not booking.is_probe
        is_ours = booking.ref.generation == self._sight.generation
        return is_ours and not is_shut and booking.ref.start_us >= self._sight.void_until_us

    def _ask(self, waiter: Waiter) -> None:
        """Ask again, right before the call or because it became doubtful, whether the booking holds."""
        _stop(waiter)
        self._to_ask.append(waiter)
        self._wake()


def _stop(waiter: Waiter) -> None:
    if waiter.timer is not None:
        waiter.timer.cancel()
        waiter.timer = None


def _now() -> float:
    return asyncio.get_running_loop().time()
