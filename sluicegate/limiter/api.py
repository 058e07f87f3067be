"""What callers ask of the limiter, what they get, and what they tell it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from sluicegate.llm.outcomes import QuotaReport


class Lane(IntEnum):
    """Priority class of a call; lower goes first."""

    INTERACTIVE = 0
    BULK = 1


class Dimension(StrEnum):
    """What bound a booking."""

    NONE = "none"
    BLOCKED = "blocked"
    CIRCUIT = "circuit"
    LANE = "lane"  # bulk waits for interactive work
    REQUESTS = "requests-per-minute"
    TOKENS = "tokens-per-minute"
    INPUT_TOKENS = "input-tokens-per-minute"
    OUTPUT_TOKENS = "output-tokens-per-minute"
    DAILY_REQUESTS = "requests-per-day"
    DAILY_TOKENS = "tokens-per-day"
    DAILY_DOLLARS = "dollars-per-day"
    CONCURRENCY = "concurrency"


class Learn(StrEnum):
    """What the provider's rate-limit headers may change: the setting `learn`."""

    FOLLOW = "follow"
    LOWER = "lower"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call takes from the quota. `tokens` is what `tokens_per_minute` and `tokens_per_day` count."""

    requests: int = 1
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    micro_dollars: int = 0


NOTHING = Cost(requests=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call's request for a permit.

    `is_retry` stands ahead of fresh work in its lane, then tenants take turns, then the older
    `origin_timestamp_ms` goes first. `patience_s`: a wait longer than this that is caused by a block, a
    day's limit or an open circuit (never by a mere queue) is answered at once with `Blocked`; None waits
    as long as it takes.
    """

    lane: Lane
    cost: Cost
    origin_timestamp_ms: int
    is_retry: bool = False
    patience_s: float | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to make one call now. Settle it exactly once, whatever became of the call.

    `started_us` is the shared clock's time at which it was granted. `is_probe`: the scope's circuit is
    open, and this one call shows whether it may close.
    """

    id: str
    scope: str
    cost: Cost
    waited_s: float
    started_us: int = 0
    is_probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """No call may start for `wait_s`. Only ever an answer to an Ask with patience.

    `cause` is BLOCKED (the provider said so), CIRCUIT (then `wait_s` is the time to the next probe, not
    to its success) or a dimension of a day.
    """

    wait_s: float
    cause: Dimension = Dimension.BLOCKED


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverFits:
    """The call is larger than the limit itself, so no wait can help."""

    dimension: Dimension


class SignalKind(StrEnum):
    """What a call showed about the scope, beyond its own event. The first three are refusals."""

    RATE_LIMITED = "rate-limited"
    RAMP_LIMITED = "ramp-limited"
    OVERLOADED = "overloaded"
    HALTED = "halted"  # credentials or money: no call of the scope can succeed
    DOWN = "down"  # 5xx, timeout or connection error
    ALIVE = "alive"  # it answered: an answer, or an error that is about this one call


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What one call tells all others.

    `reason` comes from a closed set and is shown to operators. `retry_after_s` is what the provider asked
    for. `event` tells events apart (an outage needs several of them); it is hashed before it leaves.
    """

    kind: SignalKind
    reason: str
    retry_after_s: float | None = None
    event: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """An open circuit: nothing but a probe is sent until one succeeds. Times in seconds from now."""

    reason: str
    open_for_s: float
    next_probe_s: float


class WaitersReleasedError(Exception):
    """Raised out of `acquire` when the process drains: no permit was granted, nothing was booked for good."""


class Limiter(Protocol):
    """One scope's limits, as one process sees them; shared with all others through Redis."""

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Wait for the right to make one call. Cancelling gives back what was booked.

        Raises WaitersReleasedError once `release_waiters` was called. While Redis is away it waits.
        """

    def settle(self, permit: Permit, actual: Cost | None, quotas: tuple[QuotaReport, ...] = ()) -> None:
        """Say what the call really took (None: keep what was reserved) and what its headers said.

        Sent with the next round trip. A cost of NOTHING says that the call was never made.
        """

    async def report(self, permit: Permit, signal: Signal) -> None:
        """Tell what the call showed. Returns when all others can know, or after 250 ms without Redis.

        Called before `settle` or after it. ALIVE returns at once, except from a probe. A refusal blocks
        every process, for as long as the provider asked; a block is never shortened. HALTED, and DOWN
        often enough, open the scope's circuit; a success of a call that began after that closes it.
        """

    def release_waiters(self) -> None:
        """Let everybody go who has no permit yet, now and from now on: the process drains."""


class ScopeView(Protocol):
    """What a process knows of a scope, at most a second old: whether to take more work at all."""

    def blocked_for_s(self) -> float:
        """Return how long the scope stays blocked; 0 when it is not. An open circuit is no block."""

    def circuit(self) -> Circuit | None:
        """Return the open circuit, or None when calls may go."""

    def wants_probe(self) -> bool:
        """Whether this process holds the right to probe the open circuit and has no call waiting to do it.

        Asking is what makes the process apply for that right.
        """
