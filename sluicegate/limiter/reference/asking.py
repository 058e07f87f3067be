"""Answers to requests: booked on every limited dimension or on none."""

from __future__ import annotations

import math

from sluicegate.limiter.api import Dimension, Lane
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    MINUTE_DIMENSIONS,
    Answer,
    BookingRef,
    Request,
    Verdict,
    day_units,
    minute_units,
)
from sluicegate.limiter.reference.places import BulkTurns, Places
from sluicegate.limiter.reference.scope import Scope

LEASE_US = 10_000_000
PROBE_LEASE_US = 5_000_000
# Bulk work books at most so far ahead while interactive work has been seen in the last minute.
BULK_AHEAD_US = 500_000
LANE_MEMORY_US = 60_000_000
# Interactive work that waits unbooked is believed to wait until its process should have asked again.
HUNGRY_US = 100_000
_SMOOTHING = 16
_LEAST_LANE_WAIT_US = 20_000


class Desk:
    """Answers the requests of one batch, in order."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.blocked_until_us, self.blocked_by = scope.block
        self._places, self._turns = Places(scope), BulkTurns(scope)
        self._interactive_until_us = 0
        self._bursts_us = [scope.burst_us(i) if limit > 0 else 0 for i, limit in enumerate(scope.limits)]

    def is_doubtful(self, booking: BookingRef) -> bool:
        """Whether an earlier booking must be given back: it starts within a block, or the circuit is open.

        Also when that block is over: its call would come on top of those that were booked behind it. A day
        that is used up voids nothing: what is booked has been counted.
        """
        scope = self._scope
        is_held_up = scope.state.circuit != 0 and booking.number != scope.state.probe_number
        return booking.number > 0 and (booking.start_us < scope.state.blocked_until_us or is_held_up)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        answer = self._answer(request)
        if request.lane is Lane.INTERACTIVE and answer.verdict is Verdict.RETRY:
            self._wait_until(self._scope.now_us + answer.wait_us)
        return answer

    def close(self) -> None:
        """Tell bulk work of all processes that interactive work waits."""
        scope = self._scope
        until_us = self._interactive_until_us
        if scope.batch.is_hungry:
            until_us = max(until_us, scope.now_us)
        if until_us and until_us + HUNGRY_US > scope.state.hungry_until_us:
            scope.set(hungry_until_us=until_us + HUNGRY_US)

    def _wait_until(self, at_us: int) -> None:
        self._interactive_until_us = max(self._interactive_until_us, at_us)

    def _answer(self, request: Request) -> Answer:
        scope, booking = self._scope, request.booking
        is_ours = booking.number > 0 and booking.generation == scope.state.generation
        if is_ours and not self.is_doubtful(booking):
            return Answer(
                verdict=Verdict.CONFIRMED,
                dimension=Dimension.NONE,
                stretch=booking.stretch,
            )
        if (dimension := scope.quota.too_small_for(request.cost, self._limits())) is not None:
            return Answer(verdict=Verdict.NEVER, dimension=dimension)
        if (probe_wait_us := self._probe_wait_us()) > 0:
            return _retry(Dimension.CIRCUIT, probe_wait_us)
        start_us, dimension = self._start(request)
        wait_us = start_us - scope.now_us
        if wait_us > scope.batch.horizon_us:
            return _retry(dimension, wait_us - scope.batch.horizon_us)
        if scope.slots and (slot_wait_us := self._slot_wait_us(request, start_us)) > 0:
            return _retry(Dimension.CONCURRENCY, slot_wait_us)
        if request.lane is Lane.BULK and (lane_wait_us := self._lane_wait_us(request, start_us)) > 0:
            self._places.leave(request.lane)
            self._turns.queue(lane_wait_us)
            return _retry(Dimension.LANE, lane_wait_us)
        return self._book(request, start_us, dimension)

    def _limits(self) -> tuple[float, float, float, float]:
        requests, tokens, input_tokens, output_tokens = self._scope.limits
        return requests, tokens, input_tokens, output_tokens

    def _probe_wait_us(self) -> int:
        """Return 0 when this call may go: no circuit is open, or the probe is its own."""
        state, now_us = self._scope.state, self._scope.now_us
        if not state.circuit:
            return 0
        is_taken = state.probe_until_us > now_us
        if is_taken and state.probe_holder == self._scope.me_hash and state.probe_number == 0:
            return 0
        return max(0, (state.probe_until_us if is_taken else state.probe_at_us) - now_us)

    def _start(self, request: Request) -> tuple[int, Dimension]:
        scope = self._scope
        start_us, binding = scope.now_us + scope.batch.lead_us, Dimension.NONE
        if self.blocked_until_us > scope.now_us and self.blocked_until_us >= start_us:
            start_us, binding = self.blocked_until_us, self.blocked_by
        times_us = scope.times_us(request.cost, scope.stretch(start_us))
        for i, (tat_us, time_us) in enumerate(zip(scope.state.tats_us, times_us, strict=True)):
            if time_us > 0:
                # A call larger than the burst starts when the bucket is full, and leaves it in debt.
                burst_us = self._bursts_us[i]
                earliest_us = max(tat_us, scope.now_us) + min(time_us, burst_us) - burst_us
                if earliest_us > start_us:
                    start_us, binding = earliest_us, MINUTE_DIMENSIONS[i]
        for index, (units, limit) in enumerate(
            zip(day_units(request.cost), scope.quota.per_day, strict=True)
        ):
            if limit > 0 and (earliest_us := scope.days.start_us(index, units, limit)) > start_us:
                start_us, binding = earliest_us, DAY_DIMENSIONS[index]
        return start_us, binding

    @property
    def _hungry_until_us(self) -> int:
        """Until when interactive work is believed to wait."""
        return max(self._scope.state.hungry_until_us, self._interactive_until_us + HUNGRY_US)

    def _slot_wait_us(self, request: Request, start_us: int) -> int:
        """Return 0 when a place on the wire is free; bulk work that has a share to come is kept the next one.

        Without that it would never find one: interactive work takes each place when it is given back.
        """
        scope, now_us, lane = self._scope, self._scope.now_us, request.lane
        if self._places.is_free(lane):
            return 0
        if lane is Lane.INTERACTIVE:
            return self._places.queue(lane)
        share_us, is_hungry = self._share_at_us(request, start_us), self._hungry_until_us > now_us
        next_us = self._hungry_until_us if share_us is None else share_us
        wait_us = self._places.queue(lane, not_before_us=next_us if is_hungry else 0)
        if share_us is not None and share_us <= now_us:
            scope.set(bulk_until_us=now_us + wait_us + HUNGRY_US)
        return wait_us

    def _lane_wait_us(self, request: Request, start_us: int) -> int:
        """Return 0 when bulk work may book: nobody interactive waits and it is soon, or it is its share.

        As if the bulk processes that wait for longer had booked before it: all were told the same moment, and
        else who comes first in it could do so for ever.
        """
        scope, state, now_us = self._scope, self._scope.state, self._scope.now_us
        turns, is_hungry = self._turns.ahead, self._hungry_until_us > now_us
        was_seen = now_us - state.interactive_at_us <= LANE_MEMORY_US
        ahead_us = min(scope.batch.horizon_us, BULK_AHEAD_US) if was_seen else scope.batch.horizon_us
        turn_us = start_us + turns * max(scope.times_us(request.cost, scope.stretch(start_us)))
        if not is_hungry and turn_us - now_us <= ahead_us:
            return 0
        next_us = turn_us - ahead_us
        if is_hungry:
            next_us = max(next_us, self._hungry_until_us)
            share_us = self._share_at_us(request, start_us)
            if share_us is not None:
                times_us = self._share_times_us(request, start_us)
                share_us += turns * max(time_us for _, time_us in times_us)
                if share_us <= now_us:
                    # What is asked for a little late is not lost: by as much as the call itself takes.
                    for i, time_us in times_us:
                        scope.put("shares_us", i, max(scope.state.shares_us[i] + time_us, now_us))
                    return 0
                next_us = min(next_us, share_us)
        return max(_LEAST_LANE_WAIT_US, next_us - now_us)

    def _share_at_us(self, request: Request, start_us: int) -> int | None:
        """Return from when bulk's guaranteed part has room for the call, None without a share."""
        if self._scope.quota.bulk_share <= 0:
            return None
        return max(self._scope.state.shares_us[i] for i, _ in self._share_times_us(request, start_us))

    def _share_times_us(self, request: Request, start_us: int) -> list[tuple[int, int]]:
        """Return how long bulk's guaranteed part needs to refill the cost, by dimension.

        Without a rate it is a part of the calls at once, kept in the place of the first dimension.
        """
        scope, share = self._scope, self._scope.quota.bulk_share
        times_us = scope.times_us(request.cost, scope.stretch(start_us))
        limited = [(i, math.ceil(time_us / share)) for i, time_us in enumerate(times_us) if time_us > 0]
        if limited:
            return limited
        slot_us = scope.state.call_us / scope.slots if scope.slots else 0.0
        return [(0, math.ceil(slot_us / share))]

    def _book(self, request: Request, start_us: int, dimension: Dimension) -> Answer:
        scope = self._scope
        stretch = scope.stretch(start_us)
        for i, time_us in enumerate(scope.times_us(request.cost, stretch)):
            if time_us > 0:
                scope.put("tats_us", i, max(scope.state.tats_us[i], start_us) + time_us)
                units, usual = minute_units(request.cost)[i], scope.state.usual[i]
                scope.put("usual", i, usual + (units - usual) / _SMOOTHING if usual > 0 else units)
        for index, units in enumerate(day_units(request.cost)):
            scope.days.add(index, start_us, units)
        number = scope.state.newest + 1
        scope.set(newest=number)
        if scope.slots:
            booking = BookingRef(generation=scope.state.generation, number=number)
            scope.leases[scope.lease_id(booking)] = start_us + LEASE_US
            self._places.take(request.lane)
        if request.lane is Lane.INTERACTIVE:
            scope.set(interactive_at_us=scope.now_us)
            if scope.batch.is_hungry:
                self._wait_until(start_us)
        else:
            scope.set(bulk_until_us=0)
            self._turns.leave()
        if scope.state.circuit:
            dimension = Dimension.CIRCUIT
            scope.set(
                probe_holder=scope.me_hash, probe_number=number, probe_until_us=start_us + PROBE_LEASE_US
            )
        return Answer(
            verdict=Verdict.BOOKED,
            dimension=dimension,
            wait_us=start_us - scope.now_us,
            number=number,
            stretch=stretch,
        )


def _retry(dimension: Dimension, wait_us: int) -> Answer:
    return Answer(verdict=Verdict.RETRY, dimension=dimension, wait_us=wait_us)
