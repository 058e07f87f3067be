"""What may be used in 24 hours, counted by the hour: never more than the limit in any 24 of them."""

from __future__ import annotations

from sluicegate.limiter.stored import HOURS, DayState

HOUR_US = 3_600_000_000
_REACH = 24  # an hour counts while any part of it is less than 24 hours old: for 24 hours after its end
_NEARLY = 0.99
_LITTLE = 0.01


class Days:
    """The hours of one scope. A call is counted in the hour of its start, at most one ahead of now."""

    def __init__(self, state: DayState | None, now_us: int) -> None:
        self._hour = now_us // HOUR_US
        newest = self._hour + 1
        if state is None:
            self.newest = newest
            self.used = [[0.0] * HOURS for _ in range(3)]
            return
        self.newest = max(newest, state.hour)
        self.used = [list(dimension) for dimension in state.used]
        for hour in range(max(state.hour + 1, newest - HOURS + 1), newest + 1):
            for dimension in self.used:
                dimension[hour % HOURS] = 0.0

    def add(self, dimension: int, at_us: int, units: float) -> None:
        """Count units in the hour of their call; less than nothing is a refund."""
        hour = at_us // HOUR_US
        if self.newest - HOURS < hour <= self.newest:
            self.used[dimension][hour % HOURS] += units

    def start_us(self, dimension: int, units: float, limit: float) -> int:
        """Return when so much more fits into the limit; 0 is now."""
        left = self.total(dimension)
        if left + units <= limit:
            return 0
        for hour in range(self._hour - _REACH, self._hour + 2):
            left -= self.used[dimension][hour % HOURS]
            if left + units <= limit:
                break
        return (hour + _REACH + 1) * HOUR_US

    def full_until_us(self, dimension: int, limit: float) -> int:
        """Return until when the limit is as good as used up, less than a hundredth of it left; 0 if not."""
        return (
            0
            if self.total(dimension) <= _NEARLY * limit
            else self.start_us(dimension, _LITTLE * limit, limit)
        )

    def total(self, dimension: int) -> float:
        """Return what is used of the limit."""
        return sum(self.used[dimension][hour % HOURS] for hour in range(self._hour - _REACH, self._hour + 2))

    def state(self) -> DayState:
        """Return what is stored."""
        return DayState(hour=self.newest, used=tuple(tuple(dimension) for dimension in self.used))
