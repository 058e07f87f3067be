"""What each model of enforcement gives a caller that takes one dimension as soon as there is any of it. Pure.

Nobody is given more, and nobody sooner: that makes it the yardstick of `ideal.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


class Flow(NamedTuple):
    """What a greedy caller is given: `at_once` at a moment, then an even flow until another."""

    at: float
    at_once: float
    rate_per_s: float = 0.0
    until: float = 0.0


class Greedy:
    """A caller that takes whatever there is, and what the quota remembers of it from period to period."""

    def __init__(self) -> None:
        self._spared: float | None = None  # of the bucket; None: nothing asked yet, it is full
        self._window: int | None = None
        self._in_window = 0.0
        self._in_log: deque[tuple[float, float]] = deque()  # (taken at, amount)

    def fill(
        self, rate_per_s: float, burst: float, start_at: float, end_at: float, *, is_cut: bool
    ) -> Iterator[Flow]:
        """Take the burst, or what a cut let gather of it, then the rate."""
        if is_cut:
            gathered = (end_at - start_at) * rate_per_s
            self._spared = burst if self._spared is None else min(burst, self._spared + gathered)
            return
        at_once = burst if self._spared is None else self._spared
        self._spared = 0.0
        yield Flow(start_at, at_once, rate_per_s, end_at)

    def windows(self, limit: float, window_s: float, start_at: float, end_at: float) -> Iterator[Flow]:
        """Take what is left of the window that runs, then each next one at its beginning."""
        window, at = math.floor(start_at / window_s), start_at
        while at < end_at:
            if window != self._window:
                self._window, self._in_window = window, 0.0
            if limit > self._in_window:
                yield Flow(at, limit - self._in_window)
                self._in_window = limit
            window += 1
            at = window * window_s

    def log(self, limit: float, window_s: float, start_at: float, end_at: float) -> Iterator[Flow]:
        """Take what has room at the start, then whatever leaves the window."""
        at = start_at
        while at < end_at:
            while self._in_log and self._in_log[0][0] + window_s <= at:
                self._in_log.popleft()
            room = limit - sum(amount for _, amount in self._in_log)
            if room > 0:
                yield Flow(at, room)
                self._in_log.append((at, room))
            at = self._in_log[0][0] + window_s


def given_at(amount: float, started_at: float, flows: Iterator[Flow]) -> float:
    """When all of the amount is admitted to a caller that takes whatever there is at once."""
    left = amount
    if left <= 0:
        return started_at
    for flow in flows:
        left -= flow.at_once
        if left <= 0:
            return flow.at
        flowing = (flow.until - flow.at) * flow.rate_per_s if flow.rate_per_s else 0.0
        if left <= flowing:
            return flow.at + left / flow.rate_per_s
        left -= flowing
    return math.inf


def given_before(end_at: float, flows: Iterator[Flow]) -> float:
    """How much is admitted before a moment to a caller that takes whatever there is at once."""
    given = 0.0
    for flow in flows:
        if flow.at >= end_at:
            break
        given += flow.at_once
        if flow.rate_per_s:
            given += (min(flow.until, end_at) - flow.at) * flow.rate_per_s
    return given
