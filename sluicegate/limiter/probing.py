"""This process's part in probing an open circuit: whether it wants to, and the probe that it made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sluicegate.limiter.api import NOTHING, Cost, Permit
from sluicegate.limiter.booking import News, SignalCode
from sluicegate.limiter.waiters import Booking

_WANTED_S = 3.0
_REPORT_WITHIN_S = 2.0


class Probing:
    """Keeps the right to probe while it is used; `tell` sends news at once.

    The right is kept in Redis for some seconds at a time. It ends with the report of the probe, when its
    call was never made, or some seconds after its settlement: a call that was cancelled shows nothing.
    """

    def __init__(self, tell: Callable[[News], None]) -> None:
        self._tell = tell
        self._permit_id: str | None = None
        self._wanted_until = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether a probe of this process is on the wire, or has ended and was not reported yet."""
        return self._permit_id is not None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked lately who would make a call only if it were the probe."""
        return _now() < self._wanted_until

    def want(self) -> None:
        """Apply for the right during the next seconds."""
        self._wanted_until = _now() + _WANTED_S

    def granted(self, permit: Permit) -> None:
        """Take note of a permit; only a probe's matters."""
        if permit.is_probe:
            self._permit_id = permit.id

    def settled(self, permit: Permit, actual: Cost | None) -> None:
        """Give the right back when the call was not made, and let it end when nothing is reported."""
        if permit.id != self._permit_id:
            return
        if actual == NOTHING:
            self._permit_id = None
            self._tell(_unused(permit.started_us))
        else:
            asyncio.get_running_loop().call_later(_REPORT_WITHIN_S, self.reported, permit)

    def reported(self, permit: Permit) -> None:
        """Let the right end: what the probe showed is told."""
        if permit.id == self._permit_id:
            self._permit_id = None

    def dropped(self, booking: Booking) -> None:
        """Give back the right of a probe that was booked and will not be made."""
        if booking.is_probe:
            self._tell(_unused(booking.ref.start_us))


def _unused(started_us: int) -> News:
    return News(code=SignalCode.PROBE_UNUSED, started_us=started_us, is_probe=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
