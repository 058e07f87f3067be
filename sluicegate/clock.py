"""The clock that due times are measured by: Redis's, so that all workers and relays agree."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time in milliseconds since the Unix epoch, the same in every process."""

    def now_ms(self) -> int:
        """Return the time now; never steps back by more than a refresh's correction."""
