"""Wall time in milliseconds: Redis's where processes must agree, this machine's where only one looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Wall time in milliseconds since the Unix epoch, the same in every process.

    Due times are measured by Redis's, so that all workers and relays agree.
    """

    def now_ms(self) -> int:
        """Return the time now; never steps back by more than a refresh's correction."""


class LocalClock:
    """This machine's time when the clock was made, and steady since: for one process's own waits."""

    def __init__(
        self, *, wall_s: Callable[[], float] = time.time, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic_s = monotonic_s
        self._offset_s = wall_s() - monotonic_s()

    def now_ms(self) -> int:
        """Return the time now; never steps back."""
        return int((self._offset_s + self._monotonic_s()) * 1000)
