"""The models by which a provider counts one dimension, one small class each. Pure; times are seconds.

A bucket fills at its rate up to its burst. A call larger than the burst goes when the bucket is full and
leaves it in debt. A slice admits a second's share in each calendar second; a debt is carried into the next
ones. A fixed window counts from zero whenever the server's clock passes a multiple of its length. A log
remembers every charge for exactly one window and admits only what fits beside all of them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import Protocol

# Strangers' even flow is remembered by a log in so many charges a window, however long nobody looked.
_LOG_CELLS = 240
# Below this a wait is the rounding of floats, not a wait.
_ROUNDING_S = 1e-6


class Meter(Protocol):
    """One dimension's count."""

    def used(self, now_s: float) -> float:
        """Return what is taken and not yet given back; above the burst while in debt."""

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return 0 when the cost may go now, else when it could."""

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever the level is."""

    def full_in_s(self, now_s: float) -> float:
        """Return the time until nothing is used, if nothing more comes."""

    def take_evenly(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        """Take at an even rate, at most the meter's own, but never what is not there; return what it was.

        Takes bounded time, however long the span. Nothing else was charged from `from_s` on.
        """

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Go on with another limit: what was used stays used."""


class Bucket:
    """A continuous bucket; full when it is made."""

    def __init__(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._level = capacity
        self._at_s = now_s

    def used(self, now_s: float) -> float:
        """Return what is taken and not yet filled again."""
        return self._capacity - self._filled(now_s)

    def _filled(self, now_s: float) -> float:
        if now_s > self._at_s:
            self._level = min(self._capacity, self._level + (now_s - self._at_s) * self._rate_per_s)
            self._at_s = now_s
        return self._level

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return when the cost is there, or the bucket full for one that is larger."""
        wait_s = (min(cost, self._capacity) - self._filled(now_s)) / self._rate_per_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever the level is."""
        self._level = self._filled(now_s) - cost

    def full_in_s(self, now_s: float) -> float:
        """Return the time until the bucket is full."""
        return (self._capacity - self._filled(now_s)) / self._rate_per_s

    def take_evenly(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        """Take nothing while in debt, then all of it: what flows in is never less."""
        level, span_s = self._filled(from_s), until_s - from_s
        in_debt_s = min(span_s, max(0.0, -level) / self._rate_per_s)
        taken = rate_per_s * (span_s - in_debt_s)
        self._level = min(self._capacity, level + self._rate_per_s * span_s - taken)
        self._at_s = until_s
        return taken

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Keep what is not yet filled again; a larger bucket hands out nothing."""
        self._level = capacity - self.used(now_s)
        self._rate_per_s, self._capacity = rate_per_s, capacity


class Slices:
    """Calendar seconds that each admit their share, in whole units so that none is lost to rounding."""

    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._slice = math.floor(now_s)
        self._level = self._share(self._slice, self._slice)

    def used(self, now_s: float) -> float:
        """Return what is taken of this second, and of the next ones while in debt."""
        left = self._left(now_s)
        return self._share(self._slice, self._slice) - left

    def _left(self, now_s: float) -> float:
        current = math.floor(now_s)
        if current > self._slice:
            debt = min(0.0, self._level)
            own = self._share(current, current)
            self._level = min(own, debt + self._share(self._slice + 1, current))
            self._slice = current
        return self._level

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return the time to the second in which the cost is there."""
        level = self._left(now_s)
        own = self._share(self._slice, self._slice)
        if level >= cost or (cost > own > 0 and level >= own):
            return 0.0
        # A cost above a second's share goes at the start of the first second without debt.
        missing = min(cost, max(1.0, math.floor(self._rate_per_s))) - min(0.0, level)
        return self._slice + max(1, math.ceil(missing / self._rate_per_s)) - now_s

    def charge(self, cost: float, now_s: float) -> None:
        """Take the cost, whatever is left."""
        self._level = self._left(now_s) - cost

    def full_in_s(self, now_s: float) -> float:
        """Return the time until the second in which nothing is used; 0 when this is one."""
        level = self._left(now_s)
        if level >= self._share(self._slice, self._slice):
            return 0.0
        return self._slice + 1 + math.ceil(max(0.0, -level) / self._rate_per_s) - now_s

    def take_evenly(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        """Take what each second has left of its share; seconds without debt are counted in one step."""
        taken, at_s, last = 0.0, from_s, math.floor(until_s)
        while at_s < until_s:
            level = self._left(at_s)
            if at_s == self._slice < last and level >= self._share(self._slice, self._slice):
                taken += self._of_whole_slices(rate_per_s, self._slice, last)
                at_s = float(last)
                continue
            end_s = min(until_s, self._slice + 1.0)
            bit = max(0.0, min(level, rate_per_s * (end_s - at_s)))
            self._level -= bit
            taken += bit
            at_s = end_s
        return taken

    def _of_whole_slices(self, rate_per_s: float, first: int, end: int) -> float:
        """What an even rate finds in the seconds from first to before end: shares differ by one at most."""
        least, count = math.floor(self._rate_per_s), end - first
        larger = self._share(first, end - 1) - least * count
        return (count - larger) * min(rate_per_s, least) + larger * min(rate_per_s, least + 1)

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Keep what is taken of this second; the capacity follows from the rate."""
        used = self.used(now_s)
        self._rate_per_s = rate_per_s
        self._level = self._share(self._slice, self._slice) - used

    def _share(self, first: int, last: int) -> float:
        """Whole units of the seconds from first to last: 100 a minute are 1, 2, 2, 1, 2, 2 a second."""
        return float(math.floor((last + 1) * self._rate_per_s) - math.floor(first * self._rate_per_s))


class FixedWindows:
    """Windows that begin at multiples of their length on the server's clock, each counted from zero."""

    def __init__(self, window_s: float, capacity: float, now_s: float) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self._window = math.floor(now_s / window_s)
        self._used = 0.0

    def used(self, now_s: float) -> float:
        """Return what this window took; above its limit when output was charged late."""
        current = math.floor(now_s / self._window_s)
        if current > self._window:
            self._window, self._used = current, 0.0
        return self._used

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return the time to the next window, unless this one has room."""
        return 0.0 if self.used(now_s) + cost <= self._capacity else self._left_s(now_s)

    def charge(self, cost: float, now_s: float) -> None:
        """Count the cost in this window; no debt outlives it."""
        self._used = self.used(now_s) + cost

    def full_in_s(self, now_s: float) -> float:
        """Return the time to the window's end; 0 while it is untouched."""
        return self._left_s(now_s) if self.used(now_s) > 0 else 0.0

    def take_evenly(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        """Take what this window has left, all of the whole ones in one step, and of the last one."""
        used, last = self.used(from_s), math.floor(until_s / self._window_s)
        room = max(0.0, self._capacity - used)
        if last == self._window:
            taken = min(room, rate_per_s * (until_s - from_s))
            self._used += taken
            return taken
        whole = min(self._capacity, rate_per_s * self._window_s) * (last - self._window - 1)
        begun = min(room, rate_per_s * self._left_s(from_s)) + whole
        # The last window's beginning may be rounded to a little after the moment.
        in_last = min(self._capacity, rate_per_s * max(0.0, until_s - last * self._window_s))
        self._window, self._used = last, in_last
        return begun + in_last

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Hold the window that runs to another limit; the rate follows from it."""
        self._capacity = capacity

    def _left_s(self, now_s: float) -> float:
        # Never 0, however the product is rounded: that would say that the call may go.
        return max(_ROUNDING_S, (self._window + 1) * self._window_s - now_s)


class SlidingLog:
    """Every charge of the last window; one made at t counts until t + window, exclusive.

    Charges and expiries are O(1) amortised: each entry comes and goes once. It keeps the running total after
    each, so that a wait is found by bisection and a refused call does not walk the log.
    """

    def __init__(self, window_s: float, capacity: float) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self._entries: deque[tuple[float, float]] = deque()  # (charged at, total after it)
        self._total = 0.0
        self._expired = 0.0

    def used(self, now_s: float) -> float:
        """Return what the last window took; above the limit when output was charged late."""
        while self._entries and self._entries[0][0] + self._window_s <= now_s:
            self._expired = self._entries.popleft()[1]
        return self._total - self._expired

    def wait_s(self, cost: float, now_s: float) -> float:
        """Return the time until enough has left the window; a cost above the limit waits for all of it."""
        excess = self.used(now_s) + min(cost, self._capacity) - self._capacity
        if excess <= 0:
            return 0.0
        last = bisect_left(self._entries, self._expired + excess, key=lambda entry: entry[1])
        last = min(last, len(self._entries) - 1)  # sums of parts of a unit are rounded
        return self._entries[last][0] + self._window_s - now_s

    def charge(self, cost: float, now_s: float) -> None:
        """Remember the cost for one window."""
        if cost > 0:
            self._total += cost
            self._entries.append((now_s, self._total))

    def full_in_s(self, now_s: float) -> float:
        """Return the time until the newest charge has left the window."""
        return self._entries[-1][0] + self._window_s - now_s if self.used(now_s) > 0 else 0.0

    def take_evenly(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        """Take what has room in small charges; only a window's worth of them, since nothing else counts."""
        settled_s = min(until_s, from_s + self._window_s)
        taken = self._take_in_cells(rate_per_s, from_s, settled_s)
        # From here on nobody else is in the log: what is taken evenly leaves it evenly.
        alone_per_s = min(rate_per_s, self._capacity / self._window_s)
        remembered_s = max(settled_s, until_s - self._window_s)
        taken += alone_per_s * (remembered_s - settled_s)
        return taken + self._take_in_cells(alone_per_s, remembered_s, until_s)

    def _take_in_cells(self, rate_per_s: float, from_s: float, until_s: float) -> float:
        taken, cells = 0.0, math.ceil((until_s - from_s) / self._window_s * _LOG_CELLS)
        for cell in range(1, cells + 1):
            at_s = from_s + (until_s - from_s) * cell / cells
            bit = max(0.0, min(self._capacity - self.used(at_s), rate_per_s * (until_s - from_s) / cells))
            self.charge(bit, at_s)
            taken += bit
        return taken

    def resize(self, rate_per_s: float, capacity: float, now_s: float) -> None:
        """Hold the charges that still count to another limit; the rate follows from it."""
        self._capacity = capacity
