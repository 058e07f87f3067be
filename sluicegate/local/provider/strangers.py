"""Somebody else who uses the same quota. Pure; times are seconds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from sluicegate.local.provider.quota import Dimension, Quota


class Strangers:
    """Takes a share of every rate, evenly, as far as it is there; computed whenever somebody looks.

    `taken` is how much that was. What is not there is lost to them, as to a caller who does not come again.
    """

    def __init__(self) -> None:
        self._share = 0.0
        self._at_s = 0.0
        self._end_at = math.inf
        self.taken: defaultdict[Dimension, float] = defaultdict(float)

    def begin(self, share: float, now_s: float, end_at: float | None) -> None:
        """Take this share from now on instead of any other; until ended when `end_at` is None."""
        self._share, self._at_s = share, now_s
        self._end_at = math.inf if end_at is None else end_at

    def end(self) -> None:
        """Take no more. What was due before is taken by `catch_up` alone: call it first."""
        self._share = 0.0

    def catch_up(self, quota: Quota, now_s: float, open_from: Callable[[float], float]) -> None:
        """Take what was due since the last time; an outage that ran then is left out by `open_from`.

        Call it before anything else is charged, changed or shown at that moment.
        """
        if self._share == 0:
            return
        from_s, until_s = open_from(self._at_s), min(now_s, self._end_at)
        if from_s < until_s:
            for dimension, amount in quota.take_evenly(self._share, from_s, until_s).items():
                self.taken[dimension] += amount
        self._at_s = now_s
        if now_s >= self._end_at:
            self._share = 0.0
