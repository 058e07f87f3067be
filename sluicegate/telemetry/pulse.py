"""What must move, and how one knows that it does: whoever works says how soon it is heard of again.

Waiting is never a fault here: who waits for something that may take any time rests its pulse, or turns
round and beats. Everything may be read from another thread than the one that writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

#: Seconds that any step without a timeout of its own may take before it counts as stuck.
STUCK_S = 20.0


class Vital(Protocol):
    """Something whose silence means that the process is of no use any more."""

    def complaint(self) -> str | None:
        """Name what is stuck; None while it moves or rests."""


class Pulse:
    """One thing that is heard of again within a time that it names itself, or rests."""

    def __init__(self, name: str, *, now_s: Callable[[], float] = monotonic) -> None:
        """`now_s` is a clock that never goes back; a new pulse rests."""
        self._name = name
        self._now_s = now_s
        self._due_at_s = math.inf
        self._beat_at_s = -math.inf

    @property
    def is_resting(self) -> bool:
        """Whether nothing is expected."""
        return self._due_at_s == math.inf

    def beat(self, within_s: float = STUCK_S) -> None:
        """Promise to beat again, or to rest, within so many seconds."""
        self._beat_at_s = self._now_s()
        self._due_at_s = self._beat_at_s + within_s

    def extend(self, within_s: float = STUCK_S) -> None:
        """Beat unless it rests."""
        if not self.is_resting:
            self.beat(within_s)

    def rest(self) -> None:
        """Promise nothing until the next beat."""
        self._due_at_s = math.inf

    @property
    def silence_s(self) -> float:
        """Seconds since it was last heard of; 0 while it rests."""
        return 0.0 if self.is_resting else self._now_s() - self._beat_at_s

    def complaint(self) -> str | None:
        """Name what is stuck; None while it moves or rests."""
        late_s = self._now_s() - self._due_at_s
        return f"{self._name} stuck, {late_s:.0f} s late" if late_s > 0 else None


class TimedWork:
    """Any number of things at once that each end within a timeout of their own."""

    def __init__(
        self, name: str, *, grace_s: float = STUCK_S, now_s: Callable[[], float] = monotonic
    ) -> None:
        """What runs `grace_s` past its timeout counts as stuck."""
        self._name = name
        self._grace_s = grace_s
        self._now_s = now_s
        self._due_at_s: dict[object, float] = {}

    @contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """Do something that has this timeout."""
        end = self.begun(timeout_s)
        try:
            yield
        finally:
            end()

    def begun(self, timeout_s: float) -> Callable[[], None]:
        """Note that something with this timeout began; call what is returned when it ended."""
        mine = object()
        self._due_at_s[mine] = self._now_s() + timeout_s + self._grace_s

        def ended() -> None:
            self._due_at_s.pop(mine, None)

        return ended

    def complaint(self) -> str | None:
        """Name what is stuck; None while everything is within its time."""
        now_s = self._now_s()
        # One step of the interpreter: the other threads go on writing.
        late = sum(due_at_s < now_s for due_at_s in list(self._due_at_s.values()))
        return f"{self._name} past its own timeout: {late}" if late else None
