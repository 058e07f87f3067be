"""The limiter's values: what a scope allows, what one script call is given, and what it answers.

Times are whole microseconds since `EPOCH_S`, small enough to be exact in the doubles of Redis's Lua
until the year 2310.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

from sluicegate.limiter.api import Cost, Dimension, Lane, Learn, SignalKind

EPOCH_S = 1_735_689_600  # 2025-01-01T00:00:00Z
WINDOW_US = 60_000_000
MICROS_PER_DOLLAR = 1_000_000

# In the order of every array that has an entry a dimension, here, in the script and in what it stores.
MINUTE_DIMENSIONS = (
    Dimension.REQUESTS,
    Dimension.TOKENS,
    Dimension.INPUT_TOKENS,
    Dimension.OUTPUT_TOKENS,
)
DAY_DIMENSIONS = (Dimension.DAILY_REQUESTS, Dimension.DAILY_TOKENS, Dimension.DAILY_DOLLARS)

PerMinute = tuple[float, float, float, float]
PerDay = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a `[limits.*]` section allows; None is no limit on that dimension.

    At most `burst_s` of the quota goes at once, but always one call, however large it is. With a
    `strict_window_s` the rates are lowered so that no window of that length holds more than its limit,
    burst and largest call included.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    requests_per_day: float | None = None
    tokens_per_day: float | None = None
    dollars_per_day: float | None = None
    concurrency: int | None = None
    burst_s: float = 0.05
    bulk_share: float = 0.1
    strict_window_s: float = 0.0
    largest_call_tokens: int | None = None
    learn: Learn = Learn.FOLLOW

    @property
    def per_minute(self) -> PerMinute:
        """The limits of the minute in the order of MINUTE_DIMENSIONS; 0 is none."""
        return (
            self.requests_per_minute or 0.0,
            self.tokens_per_minute or 0.0,
            self.input_tokens_per_minute or 0.0,
            self.output_tokens_per_minute or 0.0,
        )

    @property
    def per_day(self) -> PerDay:
        """The limits of 24 hours in the order of DAY_DIMENSIONS, money in micro-dollars; 0 is none."""
        return (
            self.requests_per_day or 0.0,
            self.tokens_per_day or 0.0,
            (self.dollars_per_day or 0.0) * MICROS_PER_DOLLAR,
        )

    @property
    def is_limited(self) -> bool:
        """Whether any dimension has a limit."""
        return any(self.per_minute) or any(self.per_day) or self.concurrency is not None

    @property
    def burst_us(self) -> int:
        """The burst as time."""
        return math.ceil(self.burst_s * 1e6)

    def too_small_for(self, cost: Cost, per_minute: PerMinute | None = None) -> Dimension | None:
        """Return the dimension whose whole minute or day is less than the cost, if there is one.

        `per_minute` are the limits of the minute as learnt, where they differ from the configured ones.
        """
        limits = per_minute if per_minute is not None else self.per_minute
        for dimension, units, limit in zip(MINUTE_DIMENSIONS, minute_units(cost), limits, strict=True):
            if 0 < limit < units:
                return dimension
        for dimension, units, limit in zip(DAY_DIMENSIONS, day_units(cost), self.per_day, strict=True):
            if 0 < limit < units:
                return dimension
        return None


def minute_units(cost: Cost) -> tuple[int, int, int, int]:
    """Return what a call takes of each dimension of the minute."""
    return (cost.requests, cost.tokens, cost.input_tokens, cost.output_tokens)


def day_units(cost: Cost) -> tuple[int, int, int]:
    """Return what a call takes of each dimension of the day."""
    return (cost.requests, cost.tokens, cost.micro_dollars)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingRef:
    """Which booking is meant, and what it was charged with.

    `stretch` is how many times its cost it was charged for (above 1 after a 429), `start_us` the start
    it was given. `number` 0 is no booking.
    """

    generation: int = 0
    number: int = 0
    stretch: float = 1.0
    start_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """A booking that was not used. Its place counts only while it is the newest one (see `reference`)."""

    booking: BookingRef
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A call that ended: what it took beyond its reservation (less than nothing is a refund).

    `is_released` gives its place among the concurrent calls back, after `duration_us` on the wire;
    `is_alive` says that the provider answered it.
    """

    booking: BookingRef
    extra: Cost
    is_released: bool = False
    is_alive: bool = False
    duration_us: int = 0


class CircuitReason(IntEnum):
    """Why a circuit is open."""

    CLOSED = 0
    OUTAGE = 1
    MONEY = 2
    CREDENTIALS = 3
    NOT_FOUND = 4


class SignalCode(IntEnum):
    """A signal's kind as the script knows it; PROBE_UNUSED is a probe whose call was never made."""

    RATE_LIMITED = 1
    RAMP_LIMITED = 2
    OVERLOADED = 3
    HALTED = 4
    DOWN = 5
    ALIVE = 6
    PROBE_UNUSED = 7


SIGNAL_CODES = {
    SignalKind.RATE_LIMITED: SignalCode.RATE_LIMITED,
    SignalKind.RAMP_LIMITED: SignalCode.RAMP_LIMITED,
    SignalKind.OVERLOADED: SignalCode.OVERLOADED,
    SignalKind.HALTED: SignalCode.HALTED,
    SignalKind.DOWN: SignalCode.DOWN,
    SignalKind.ALIVE: SignalCode.ALIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A signal on its way: of a call that started at `started_us`. `event` is a hash, 0 is none.

    `retry_after_us` 0: the provider did not say. `reason` matters for HALTED only.
    """

    code: SignalCode
    started_us: int
    retry_after_us: int = 0
    reason: CircuitReason = CircuitReason.CLOSED
    event: int = 0
    is_probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What headers said of one dimension of the minute (its index).

    `extra_us` is the debt that nobody of ours made, in time of refill, as of a booking that was made
    when `raised_before_us` had been raised in all; 0 is none. `limit` 0: as it is.
    """

    dimension: int
    extra_us: int = 0
    raised_before_us: int = 0
    limit: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks for a start time; with a `booking`, whether that earlier one still holds."""

    cost: Cost
    lane: Lane = Lane.INTERACTIVE
    booking: BookingRef = field(default_factory=BookingRef)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """What one process is at: calls on the wire, waiting by lane, booked and not started."""

    in_flight: int = 0
    waiting_interactive: int = 0
    waiting_bulk: int = 0
    booked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Everything that one script call does, in this order.

    `lead_us` is how long the reply takes to come: no call is booked to start before it can know.
    `renewals` are bookings whose calls are on the wire and hold a place among the concurrent ones.
    `held` is how many places among the concurrent ones this process has by lane, settlements deducted.
    `is_hungry`: interactive calls wait in this process beyond those asked for here. `wants_probe` applies
    for the right to probe an open circuit, `keeps_probe` renews it.
    """

    give_backs: tuple[GiveBack, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    news: tuple[News, ...] = ()
    observations: tuple[Observation, ...] = ()
    renewals: tuple[BookingRef, ...] = ()
    requests: tuple[Request, ...] = ()
    report: ProcessReport | None = None
    block_us: int = 0
    horizon_us: int = 60_000_000
    lead_us: int = 0
    largest: PerMinute = (0.0, 0.0, 0.0, 0.0)
    held: tuple[int, int] = (0, 0)
    is_hungry: bool = False
    wants_probe: bool = False
    keeps_probe: bool = False


class Verdict(IntEnum):
    """What became of a request."""

    BOOKED = 0
    CONFIRMED = 1
    RETRY = 2  # nothing was booked: ask again after the wait
    NEVER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request's answer, and the dimension that bound it.

    `wait_us` counts from the reply's `now_us`: to the start for BOOKED, to the next asking for RETRY. A
    RETRY that is bound by a limit or a block lies beyond the horizon: the call could start a horizon after
    that. A BOOKED one that is bound by CIRCUIT is the probe.
    """

    verdict: Verdict
    dimension: Dimension
    wait_us: int = 0
    number: int = 0
    stretch: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitView:
    """An open circuit: since when and why, and when the next probe may go."""

    reason: CircuitReason
    since_us: int
    probe_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The scope as the script left it, and an answer to each request.

    `generation` changes when the scope was started afresh; a booking of another one holds no longer, nor does
    one that starts before `void_until_us`. Nothing is booked to start before `blocked_until_us`, which may be
    later: the end of a used-up day.
    `was_lost`: there was nothing, or nothing readable, so debts and days are forgotten. `is_leasing`:
    concurrent calls are counted. `wants_answers`: that a call was answered is news, as the last ones all
    failed or the pace waits for it. `has_probe`: the right to probe is this process's. `learnt` are the
    limits of the minute that headers told (0: as configured), `raised_us` how much debt was raised on each
    dimension in all.
    """

    now_us: int
    generation: int
    blocked_until_us: int
    blocked_by: Dimension
    void_until_us: int
    was_lost: bool
    is_leasing: bool
    wants_answers: bool
    has_probe: bool
    circuit: CircuitView | None
    safe: float
    learnt: PerMinute
    raised_us: tuple[int, int, int, int]
    answers: tuple[Answer, ...]
