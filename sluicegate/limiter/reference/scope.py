"""A scope while one batch is applied to it: opened from what is stored, with its rates as they are now."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sluicegate.limiter.api import Cost, Dimension
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    WINDOW_US,
    Batch,
    BookingRef,
    ProcessReport,
    Quota,
    SignalCode,
    minute_units,
)
from sluicegate.limiter.reference.days import Days
from sluicegate.limiter.stored import FourTimes, ScopeState, Stored

GUARD_US = 2_000_000
MAX_STEP_BACK_US = 10_000_000
CEILING_FORGOTTEN_US = 600_000_000
BLOCK_GUARD, BLOCK_TOLD = 4, 5
_SAFE_STEP = 0.01
_SAFE_STEP_US = 10_000_000
_RAMP_FROM = 0.5
# What of the state is a moment: shifted when Redis's clock has stepped back.
_MOMENTS = (
    "blocked_until_us",
    "cut_until_us",
    "burst_at_us",
    "safe_at_us",
    "ramp_from_us",
    "ceiling_at_us",
    "interactive_at_us",
    "hungry_until_us",
    "bulk_until_us",
    "failing_since_us",
    "circuit_since_us",
    "probe_at_us",
)


class Scope:
    """The state, the leases, the days and who is there, and what follows from them for this batch."""

    def __init__(
        self, stored: Stored, batch: Batch, quota: Quota, *, clock_us: int, run_id: str, me: str, me_hash: int
    ) -> None:
        self.quota, self.batch, self.me, self.me_hash = quota, batch, me, me_hash
        self.was_lost = stored.scope is None
        self.state = _opened(stored.scope, quota, clock_us, run_id)
        self.now_us = self.state.last_now_us
        if self.state.ceiling > 0 and self.now_us - self.state.ceiling_at_us > CEILING_FORGOTTEN_US:
            self.set(ceiling=0.0, ceiling_top=0.0)
        if quota.strict_window_s > 0:
            self.set(largest=tuple(map(max, self.state.largest, batch.largest)))
        self.leases = {call: end for call, end in stored.leases.items() if end > self.now_us}
        self.tickets = {name: each for name, each in stored.tickets.items() if each.until_us > self.now_us}
        self.days = Days(stored.days, self.now_us)
        self.processes: dict[str, tuple[int, ProcessReport]] = dict(stored.processes)

    def set(self, **changes: Any) -> None:
        """Change fields of the state."""
        self.state = replace(self.state, **changes)

    def put(self, name: str, index: int, value: float) -> None:
        """Change one entry of an array of the state."""
        values = list(getattr(self.state, name))
        values[index] = value
        self.set(**{name: tuple(values)})

    # --- rates ------------------------------------------------------------------------------------

    @property
    def limits(self) -> tuple[float, ...]:
        """The limits of the minute as they are now; 0 is none."""
        return tuple(
            learnt or configured
            for learnt, configured in zip(self.state.learnt, self.quota.per_minute, strict=True)
        )

    def span_us(self, dimension: int) -> float:
        """Return the time over which a minute's limit is spread: longer than a minute when strict."""
        strict_us = self.quota.strict_window_s * 1e6
        if strict_us <= 0:
            return float(WINDOW_US)
        largest_us = self.state.largest[dimension] * WINDOW_US / self.limits[dimension]
        return WINDOW_US * (1 + (self.quota.burst_us + largest_us) / strict_us)

    def burst_us(self, dimension: int) -> int:
        """Return how far calls may run ahead of an even pace: by as much as a usual call takes, at least.

        With less, two limits that bind in turn waste each other: a call that is large on one of them leaves
        the other unused until its debt is paid.
        """
        usual_us = self.state.usual[dimension] * self.span_us(dimension) / self.limits[dimension]
        return max(self.quota.burst_us, math.ceil(usual_us))

    @property
    def safe(self) -> float:
        """The safety factor: lowered by a 429, and back by a hundredth each ten seconds."""
        steps = (self.now_us - self.state.safe_at_us) // _SAFE_STEP_US
        return min(1.0, self.state.safe + _SAFE_STEP * steps)

    @property
    def ramp_awaits_answer(self) -> bool:
        """Whether a climb is under way, or to come, that an answer ends."""
        state = self.state
        is_ahead = self.now_us < state.ramp_from_us + state.ramp_us
        return state.ramp_us > 0 and is_ahead and state.ramp_code == SignalCode.RATE_LIMITED

    def stretch(self, at_us: int) -> float:
        """Return how many times its cost a call is charged that starts then."""
        state, ramp = self.state, 1.0
        if state.ramp_us > 0 and at_us < state.ramp_from_us + state.ramp_us:
            ramp = _RAMP_FROM + (1 - _RAMP_FROM) * max(0, at_us - state.ramp_from_us) / state.ramp_us
        return 1 / (self.safe * ramp)

    def times_us(self, cost: Cost, stretch: float) -> tuple[int, ...]:
        """Return how long each dimension needs to refill the cost (0: no limit), rounded up."""
        return tuple(
            math.ceil(units * (self.span_us(dimension) * stretch) / limit) if limit > 0 else 0
            for dimension, (units, limit) in enumerate(zip(minute_units(cost), self.limits, strict=True))
        )

    @property
    def slots(self) -> int:
        """How many calls may be on the wire at once; 0 when they are not counted."""
        ceiling = max(1, math.floor(self.state.ceiling)) if self.state.ceiling > 0 else 0
        configured = self.quota.concurrency or 0
        return min(ceiling, configured) if ceiling and configured else ceiling or configured

    # --- what is in the way -------------------------------------------------------------------------

    @property
    def block(self) -> tuple[int, Dimension]:
        """Until when nothing starts, and what says so: the provider, or a day that is used up."""
        until_us, by = self.state.blocked_until_us, Dimension.BLOCKED
        for index, limit in enumerate(self.quota.per_day):
            if limit > 0 and (full_us := self.days.full_until_us(index, limit)) > until_us:
                until_us, by = full_us, DAY_DIMENSIONS[index]
        return until_us, by

    def lease_id(self, booking: BookingRef) -> str:
        """Return the name of a call's place among the concurrent ones."""
        return f"{self.me}:{booking.generation}:{booking.number}"


def _opened(state: ScopeState | None, quota: Quota, clock_us: int, run_id: str) -> ScopeState:
    """Guard the clock against stepping back, and start afresh where the state cannot be trusted."""
    guarded_us = clock_us + GUARD_US
    if state is None:
        return ScopeState(
            run_id=run_id,
            checked_at_us=clock_us,
            generation=clock_us,
            last_now_us=clock_us,
            blocked_until_us=guarded_us,
            block_code=BLOCK_GUARD,
            safe_at_us=clock_us,
            tats_us=(guarded_us + quota.burst_us,) * 4,
        )
    if state.run_id == run_id and state.last_now_us - clock_us <= MAX_STEP_BACK_US:
        return replace(state, last_now_us=max(clock_us, state.last_now_us))
    back_us = max(0, state.last_now_us - clock_us)
    moved = {name: getattr(state, name) - back_us for name in _MOMENTS}
    moved |= {"probe_until_us": 0, "probe_holder": 0, "probe_number": 0}
    if moved["blocked_until_us"] < guarded_us:
        moved |= {"blocked_until_us": guarded_us, "block_code": BLOCK_GUARD}
    return replace(
        state,
        run_id=run_id,
        checked_at_us=clock_us,
        generation=max(clock_us, state.generation + 1),
        newest=0,
        cut_newest=0,
        last_now_us=clock_us,
        tats_us=_each(state.tats_us, lambda tat: max(tat - back_us, guarded_us + quota.burst_us)),
        shares_us=_each(state.shares_us, lambda share: share - back_us),
        **moved,
    )


def _each(times_us: FourTimes, change: Callable[[int], int]) -> FourTimes:
    first, second, third, fourth = map(change, times_us)
    return (first, second, third, fourth)
