"""The booking algorithm in plain Python: what booking.lua must do, and the text that explains it.

A dimension is a continuous bucket, kept as one number (GCRA): the theoretical arrival time `tat`, at
which it would be full again. A call that needs `c` us of refill may start when `tat + c - burst` has
passed, and moves `tat` by `c`. A call larger than the burst starts when the bucket is full, and leaves
it in debt. So in any window at most `window + max(burst, largest call)` of refill is started.

A booking that was not used is taken out only while it is the newest one: with later ones behind it
the hole cannot be described by one number, and calls let into it would come on top of those already
booked. Such a booking is forfeited. Refunds of usage (`Settlement`) have no such condition: they
correct what the provider counts, after the call. So requests never exceed the bound above, and neither
do reserved tokens; tokens as counted after the call may exceed it, in a window, by what is refunded in
it for calls started before it. A stricter rule would lose for good whatever was reserved too much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.limiter.api import Dimension
from sluicegate.limiter.booking import (
    Answer,
    Batch,
    GiveBack,
    Quota,
    Reply,
    Request,
    ScopeState,
    Settlement,
    Verdict,
)

GUARD_US = 2_000_000
MAX_STEP_BACK_US = 10_000_000


def book(
    state: ScopeState | None, batch: Batch, quota: Quota, *, clock_us: int, run_id: str
) -> tuple[ScopeState, Reply]:
    """Apply one batch. `state` None is an empty or foreign one; `clock_us` and `run_id` are Redis's."""
    scope = _Scope.opened(state, quota, clock_us, run_id)
    scope.give_back(batch.give_backs)
    scope.settle(batch.settlements)
    if batch.block_us > 0:
        scope.blocked_us = max(scope.blocked_us, scope.now_us + batch.block_us)
    if scope.blocked_us > scope.now_us:
        scope.give_back(
            GiveBack(generation=r.generation, number=r.number, cost=r.cost)
            for r in reversed(batch.requests)
            if r.number
        )
    answers = tuple(scope.answer(request, batch.horizon_us) for request in batch.requests)
    return scope.closed(run_id), Reply(
        now_us=scope.now_us,
        generation=scope.generation,
        blocked_until_us=scope.blocked_us,
        answers=answers,
    )


@dataclass(slots=True, kw_only=True)
class _Scope:
    """A scope while one batch is applied to it."""

    quota: Quota
    now_us: int
    generation: int
    newest: int
    blocked_us: int
    tats_us: list[int]

    @classmethod
    def opened(cls, state: ScopeState | None, quota: Quota, clock_us: int, run_id: str) -> _Scope:
        """Guard the clock against stepping back, and start afresh where the state cannot be trusted."""
        if state is not None and state.run_id == run_id and state.last_now_us - clock_us <= MAX_STEP_BACK_US:
            return cls(
                quota=quota,
                now_us=max(clock_us, state.last_now_us),
                generation=state.generation,
                newest=state.newest,
                blocked_us=state.blocked_until_us,
                tats_us=list(state.tats_us),
            )
        guarded_us = clock_us + GUARD_US
        back_us = max(0, state.last_now_us - clock_us) if state is not None else 0
        debts_us = state.tats_us if state is not None else (0, 0)
        return cls(
            quota=quota,
            now_us=clock_us,
            generation=max(clock_us, state.generation + 1) if state is not None else clock_us,
            newest=0,
            blocked_us=max(state.blocked_until_us - back_us if state is not None else 0, guarded_us),
            tats_us=[max(debt - back_us, guarded_us + quota.burst_us) for debt in debts_us],
        )

    def closed(self, run_id: str) -> ScopeState:
        """Return what is stored."""
        requests_us, tokens_us = self.tats_us
        return ScopeState(
            run_id=run_id,
            generation=self.generation,
            newest=self.newest,
            last_now_us=self.now_us,
            blocked_until_us=self.blocked_us,
            tats_us=(requests_us, tokens_us),
        )

    def give_back(self, unused: Iterable[GiveBack]) -> None:
        """Take out the newest booking, and the one before it, as long as they are those given back."""
        for booking in unused:
            if booking.generation == self.generation and 0 < booking.number == self.newest:
                for i, time_us in enumerate(self.quota.times_us(booking.cost)):
                    self.tats_us[i] -= time_us
                self.newest -= 1

    def settle(self, settlements: Iterable[Settlement]) -> None:
        """Correct the debts; a refund counts only in the generation that reserved it."""
        for settlement in settlements:
            for i, time_us in enumerate(self.quota.times_us(settlement.extra)):
                if time_us > 0:
                    self.tats_us[i] = max(self.tats_us[i], self.now_us) + time_us
                elif settlement.generation == self.generation:
                    self.tats_us[i] += time_us

    def answer(self, request: Request, horizon_us: int) -> Answer:
        """Book on every limited dimension or on none."""
        if request.number and request.generation == self.generation and self.blocked_us <= self.now_us:
            return _answer(Verdict.CONFIRMED, number=request.number)
        if (dimension := self.quota.too_small_for(request.cost)) is not None:
            return _answer(Verdict.NEVER, dimension)
        times_us = self.quota.times_us(request.cost)
        start_us, dimension = self._start(times_us)
        wait_us = start_us - self.now_us
        if wait_us > horizon_us:
            return _answer(Verdict.RETRY, dimension, wait_us)
        for i, time_us in enumerate(times_us):
            if time_us > 0:
                self.tats_us[i] = max(self.tats_us[i], start_us) + time_us
        self.newest += 1
        return _answer(Verdict.BOOKED, dimension, wait_us, self.newest)

    def _start(self, times_us: tuple[int, int]) -> tuple[int, Dimension]:
        burst_us = self.quota.burst_us
        start_us, binding = self.now_us, Dimension.NONE
        if self.blocked_us > start_us:
            start_us, binding = self.blocked_us, Dimension.BLOCKED
        for tat_us, time_us, dimension in zip(
            self.tats_us, times_us, (Dimension.REQUESTS, Dimension.TOKENS), strict=True
        ):
            earliest_us = max(tat_us, self.now_us) + min(time_us, burst_us) - burst_us
            if time_us > 0 and earliest_us > start_us:
                start_us, binding = earliest_us, dimension
        return start_us, binding


def _answer(
    verdict: Verdict, dimension: Dimension = Dimension.NONE, wait_us: int = 0, number: int = 0
) -> Answer:
    return Answer(verdict=verdict, dimension=dimension, wait_us=wait_us, number=number)
