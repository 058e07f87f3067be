"""Corrections: what was booked and not used, what calls really took, what others take."""

from __future__ import annotations

from sluicegate.limiter.booking import GiveBack, Observation, Settlement, day_units
from sluicegate.limiter.reference.scope import Scope

RAISE_US = 1_000_000
_SMOOTHING = 8


def give_back(scope: Scope, unused: GiveBack) -> None:
    """Take out a booking. On the minute only the newest one: the hole of any other is forfeited."""
    booking, state = unused.booking, scope.state
    scope.leases.pop(scope.lease_id(booking), None)
    if booking.generation != state.generation or booking.number == 0:
        return
    if booking.number == state.newest:
        for dimension, time_us in enumerate(scope.times_us(unused.cost, booking.stretch)):
            scope.put("tats_us", dimension, scope.state.tats_us[dimension] - time_us)
        scope.set(newest=state.newest - 1)
    for dimension, units in enumerate(day_units(unused.cost)):
        scope.days.add(dimension, booking.start_us, -units)


def settle(scope: Scope, settlement: Settlement) -> None:
    """Correct the debts; a refund counts only in the generation that reserved it."""
    booking = settlement.booking
    is_ours = booking.generation == scope.state.generation
    for dimension, time_us in enumerate(scope.times_us(settlement.extra, booking.stretch)):
        tat_us = scope.state.tats_us[dimension]
        if time_us > 0:
            scope.put("tats_us", dimension, max(tat_us, scope.now_us) + time_us)
        elif is_ours:
            scope.put("tats_us", dimension, tat_us + time_us)
    for dimension, units in enumerate(day_units(settlement.extra)):
        if units > 0 or is_ours:
            scope.days.add(dimension, booking.start_us, units)
    if settlement.is_released:
        _release(scope, settlement)


def _release(scope: Scope, settlement: Settlement) -> None:
    """Give back a place among the concurrent calls, and let the ceiling grow by one a round of answers."""
    state = scope.state
    scope.leases.pop(scope.lease_id(settlement.booking), None)
    if settlement.duration_us > 0:
        before_us = state.call_us or settlement.duration_us
        scope.set(call_us=before_us + (settlement.duration_us - before_us) / _SMOOTHING)
    if state.ceiling > 0 and settlement.is_alive:
        ceiling = state.ceiling + 1 / state.ceiling
        is_over = ceiling > 2 * state.ceiling_top
        scope.set(ceiling=0.0 if is_over else ceiling, ceiling_top=0.0 if is_over else state.ceiling_top)


def observe(scope: Scope, seen: Observation) -> None:
    """Follow a limit that differs, and raise the debt by what others took.

    A debt is raised once, however many calls on the wire saw it, and never beyond a second from now: the
    next answers tell whether it is still there. It is lowered only by time.
    """
    dimension, state = seen.dimension, scope.state
    configured = scope.quota.per_minute[dimension]
    if seen.limit > 0 and seen.limit != scope.limits[dimension]:
        scope.put("learnt", dimension, 0.0 if seen.limit == configured else seen.limit)
        # What was booked at another rate can't be taken out exactly: it is forfeited when given back.
        scope.set(newest=state.newest + 1)
    if scope.limits[dimension] <= 0:
        return
    missing_us = seen.extra_us - (state.raised_us[dimension] - seen.raised_before_us)
    tat_us = max(state.tats_us[dimension], scope.now_us)
    raised_us = min(missing_us, scope.now_us + RAISE_US - tat_us)
    if raised_us > 0:
        scope.put("tats_us", dimension, tat_us + raised_us)
        scope.put("raised_us", dimension, state.raised_us[dimension] + raised_us)
