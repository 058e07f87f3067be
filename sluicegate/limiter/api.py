"""What callers ask of the limiter, and what they get."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol


class Lane(IntEnum):
    """Priority class of a call; lower goes first."""

    INTERACTIVE = 0
    BULK = 1


class Dimension(StrEnum):
    """What bound a booking."""

    NONE = "none"
    BLOCKED = "blocked"
    REQUESTS = "requests-per-minute"
    TOKENS = "tokens-per-minute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call takes from the quota."""

    requests: int = 1
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call's request for a permit.

    `is_retry` stands ahead of fresh work in its lane, then the older `origin_timestamp_ms` goes first.
    `patience_s`: a wait longer than this that is caused by a block (never by a mere queue) is answered
    at once with `Blocked`; None waits as long as it takes.
    """

    lane: Lane
    cost: Cost
    origin_timestamp_ms: int
    is_retry: bool = False
    patience_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to make one call now. Settle it exactly once, whatever became of the call."""

    id: str
    scope: str
    cost: Cost
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """No call may start for `wait_s`: the provider said so. Only ever an answer to an Ask with patience."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverFits:
    """The call is larger than the limit itself, so no wait can help."""

    dimension: Dimension


class WaitersReleasedError(Exception):
    """Raised out of `acquire` when the process drains: no permit was granted, nothing was booked for good."""


class Limiter(Protocol):
    """One scope's limits, as one process sees them; shared with all others through Redis."""

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Wait for the right to make one call. Cancelling gives back what was booked.

        Raises WaitersReleasedError once `release_waiters` was called. While Redis is away it waits.
        """

    def settle(self, permit: Permit, actual: Cost | None) -> None:
        """Say what the call really took (None: keep what was reserved). Sent with the next round trip."""

    async def block(self, seconds: float, reason: str) -> None:
        """Stop all calls of the scope, in every process, for at least this long. Never shortens a block."""

    def release_waiters(self) -> None:
        """Let everybody go who has no permit yet, now and from now on: the process drains."""
