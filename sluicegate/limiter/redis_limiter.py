"""A scope's limits shared through Redis: the head of the local heap books and sleeps exactly that long."""

from __future__ import annotations

import asyncio
import itertools
import math
import random as random_module
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, assert_never

import structlog

from sluicegate.limiter.api import Ask, Blocked, Cost, NeverFits, Permit, WaitersReleasedError
from sluicegate.limiter.booking import Answer, Batch, Quota, Reply, Request, Verdict
from sluicegate.limiter.courier import Courier
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.unsettled import Unsettled
from sluicegate.limiter.waiters import BlockView, Booking, Waiter, WaiterHeap
from sluicegate.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import redis.asyncio

_log = structlog.get_logger()

HORIZON_S = 60.0
MOST_AHEAD = 32
LOOK_EVERY_S = 1.0
CONFIRM_AFTER_S = 1.0
LATE_S = 0.05
WAKE_UP_S = 0.001


class RedisLimiter:
    """Implements `limiter.api.Limiter` for one scope; nothing is granted unless `run()` is running.

    `process_id` must be unique among all limiters of the scope. Without any limit in `quota` the scope
    is unlimited: permits cost no round trip, but a block still stops everybody.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        scope: str,
        quota: Quota,
        metrics: Metrics,
        process_id: str,
        timeout_s: float = 0.25,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        link = BookingLink(client, scope=scope, quota=quota, process_id=process_id, timeout_s=timeout_s)
        self._courier = Courier(link, scope=scope, metrics=metrics, random=random)
        self._scope = scope
        self._quota = quota
        self._metrics = metrics
        self._process_id = process_id
        self._timeout_s = timeout_s
        self._waiters = WaiterHeap()
        self._booked: set[Waiter] = set()
        self._under_way: list[Waiter] = []
        self._to_confirm: list[Waiter] = []
        self._permits = itertools.count()
        self._wake = asyncio.Event()
        self._unsettled = Unsettled(self._wake.set)
        self._block = BlockView()
        self._block_wanted_until = 0.0
        self._block_sent: asyncio.Future[None] | None = None
        self._blocked_until_us = 0
        self._generation = 0
        self._look_at = 0.0
        self._is_draining = False

    # --- what callers use -------------------------------------------------------------------------

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Wait for the right to make one call; see `Limiter.acquire`."""
        if self._is_draining:
            raise WaitersReleasedError
        if (dimension := self._quota.too_small_for(ask.cost)) is not None:
            return NeverFits(dimension=dimension)
        now = self._now()
        waiter = Waiter(
            ask=ask,
            answer=asyncio.get_running_loop().create_future(),
            asked_at=now,
            blocked_before_s=self._block.total_s(now),
        )
        if self._is_too_long(waiter, now):
            return Blocked(wait_s=self.blocked_for_s())
        self._waiters.push(waiter)
        self._wake.set()
        waiting = self._metrics.limiter_waiting.labels(self._scope)
        waiting.inc()
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            waiting.dec()

    def settle(self, permit: Permit, actual: Cost | None) -> None:
        """Send what the call really took within 50 ms. A permit counts once; a second time is ignored.

        A cost of nothing at all says that the call was never made.
        """
        self._unsettled.settle(permit, actual)

    async def block(self, seconds: float, reason: str) -> None:
        """Stop all calls of the scope; here at once, elsewhere when Redis has it (awaited for 250 ms)."""
        now = self._now()
        if self.blocked_for_s() <= 0:
            _log.warning("limiter.blocked", scope=self._scope, seconds=round(seconds, 3), reason=reason)
        if self._block_sent is None:
            self._block_sent = asyncio.get_running_loop().create_future()
        self._block_wanted_until = max(self._block_wanted_until, now + seconds)
        self._block.see(self._block_wanted_until, now)
        self._answer_impatient()
        self._wake.set()
        await asyncio.wait({self._block_sent}, timeout=self._timeout_s)

    def release_waiters(self) -> None:
        """Let everybody go who has no permit yet, now and from now on; see `Limiter.release_waiters`."""
        self._is_draining = True
        for waiter in self._everybody():
            waiter.answer.set_exception(WaitersReleasedError())
            self._drop_booking(waiter)

    def blocked_for_s(self) -> float:
        """Return how long the scope stays blocked, as known at most a second ago."""
        return self._block.remaining_s(self._now())

    # --- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Book, settle and look at the scope once a second, until cancelled."""
        if not self._quota.is_limited:
            _log.warning("limiter.unlimited", scope=self._scope)
        while True:
            self._wake.clear()
            self._metrics.limiter_blocked_seconds.labels(self._scope).set(self.blocked_for_s())
            if self._courier.is_up and not self._quota.is_limited:
                self._grant_unlimited()
            if self._has_to_send():
                await self._exchange()
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        head = self._waiters.head()
        due_at = min(self._look_at, self._unsettled.due_at)
        if head is not None and not self._quota.is_limited:
            due_at = min(due_at, self._now() + max(WAKE_UP_S, self.blocked_for_s()))
        elif head is not None and head.retry_at > self._now():
            due_at = min(due_at, head.retry_at)
        timer = asyncio.get_running_loop().call_at(due_at, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _has_to_send(self) -> bool:
        now = self._now()
        return (
            bool(self._to_confirm)
            or self._block_sent is not None
            or now >= min(self._look_at, self._unsettled.due_at)
            or self._may_book(len(self._booked), now)
        )

    def _may_book(self, ahead: int, now: float) -> bool:
        head = self._waiters.head()
        return (
            head is not None
            and self._quota.is_limited
            and head.retry_at <= now
            and ahead < self._allowed_ahead(head)
        )

    def _allowed_ahead(self, head: Waiter) -> int:
        """Return how many bookings may be open at once: what the quota starts in one round trip."""
        apart_us = max(1, *self._quota.times_us(head.ask.cost))
        return max(1, min(MOST_AHEAD, math.ceil((self._courier.round_trip_s + WAKE_UP_S) * 1e6 / apart_us)))

    def _take_requesters(self) -> list[Waiter]:
        taken, self._to_confirm = self._to_confirm[:MOST_AHEAD], self._to_confirm[MOST_AHEAD:]
        taken = [waiter for waiter in taken if not waiter.answer.done()]
        now = self._now()
        while len(taken) < MOST_AHEAD and self._may_book(len(self._booked | set(taken)), now):
            if (waiter := self._waiters.pop()) is not None:
                taken.append(waiter)
        self._booked.difference_update(taken)
        return taken

    async def _exchange(self) -> None:
        """Send one batch, again and again until Redis answers, and act on the reply."""
        requesters = self._under_way = self._take_requesters()
        give_backs, settlements = self._unsettled.take()
        batch = Batch(
            give_backs=give_backs,
            settlements=settlements,
            requests=tuple(map(_request, requesters)),
            horizon_us=int(HORIZON_S * 1e6),
        )
        block_sent, self._block_sent = self._block_sent, None
        reply, was_repeated = await self._courier.bring(
            batch,
            is_look=not (give_backs or settlements or requesters or block_sent),
            blocked_until=None if block_sent is None else lambda: self._block_wanted_until,
        )
        self._under_way = []
        if block_sent is not None:
            block_sent.set_result(None)
        self._look_at = self._now() + LOOK_EVERY_S
        self._see(reply)
        for waiter, answer in zip(requesters, reply.answers, strict=True):
            self._act(waiter, answer, reply, is_old=was_repeated)
        self._answer_impatient()

    # --- acting on what Redis said ------------------------------------------------------------------

    def _see(self, reply: Reply) -> None:
        """Learn the scope's block and generation, and doubt the bookings that they make void."""
        now = self._now()
        if reply.generation != self._generation:
            if self._generation and self.blocked_for_s() > 0:
                # The new scope may have forgotten a block that we know of.
                self._block_wanted_until = max(self._block_wanted_until, now + self.blocked_for_s())
                self._block_sent = self._block_sent or asyncio.get_running_loop().create_future()
            self._generation = reply.generation
        if reply.blocked_until_us != self._blocked_until_us:
            self._blocked_until_us = reply.blocked_until_us
            if reply.blocked_until_us > reply.now_us:
                self._block.see(now + (reply.blocked_until_us - reply.now_us) / 1e6, now)
        for waiter in [waiter for waiter in self._booked if not self._still_holds(waiter)]:
            self._confirm(waiter)

    def _still_holds(self, waiter: Waiter) -> bool:
        booking = waiter.booking
        return (
            booking is None
            or waiter in self._to_confirm
            or (booking.generation == self._generation and booking.start_us >= self._blocked_until_us)
        )

    def _act(self, waiter: Waiter, answer: Answer, reply: Reply, *, is_old: bool) -> None:
        now = self._now()
        match answer.verdict:
            case Verdict.CONFIRMED:
                self._wait_for_start(waiter, is_confirmed=True)
            case Verdict.BOOKED:
                waiter.booking = Booking(
                    generation=reply.generation,
                    number=answer.number,
                    cost=waiter.ask.cost,
                    start_at=now + answer.wait_us / 1e6,
                    start_us=reply.now_us + answer.wait_us,
                    wait_s=answer.wait_us / 1e6,
                )
                if is_old and not waiter.answer.done():
                    self._book_anew(waiter)
                else:
                    self._wait_for_start(waiter, is_confirmed=answer.wait_us == 0)
            case Verdict.RETRY:
                waiter.booking = None
                waiter.retry_at = now + answer.wait_us / 1e6 - HORIZON_S
                self._waiters.push(waiter)
            case Verdict.NEVER:
                waiter.booking = None
                if not waiter.answer.done():
                    waiter.answer.set_result(NeverFits(dimension=answer.dimension))
            case _:
                assert_never(answer.verdict)

    def _wait_for_start(self, waiter: Waiter, *, is_confirmed: bool) -> None:
        booking = waiter.booking
        if booking is None:
            return
        if waiter.answer.done():
            self._drop_booking(waiter)
        elif is_confirmed and booking.start_at <= self._now():
            if self.blocked_for_s() > 0:  # learned while the batch was under way, so Redis did not know
                self._confirm(waiter)
            else:
                self._grant(waiter)
        else:
            self._booked.add(waiter)
            waiter.timer = asyncio.get_running_loop().call_at(
                booking.start_at, self._start_reached, waiter, is_confirmed
            )

    def _start_reached(self, waiter: Waiter, is_confirmed: bool) -> None:
        waiter.timer = None
        booking = waiter.booking
        if booking is None or waiter.answer.done():
            return
        is_sure = is_confirmed or booking.wait_s <= CONFIRM_AFTER_S
        if self._now() - booking.start_at > LATE_S:
            self._book_anew(waiter)
        elif is_sure and self._still_holds(waiter) and self.blocked_for_s() <= 0:
            self._grant(waiter)
        else:
            self._confirm(waiter)

    def _confirm(self, waiter: Waiter) -> None:
        """Ask again, right before the call or because it became doubtful, whether the booking holds."""
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        self._to_confirm.append(waiter)
        self._wake.set()

    def _book_anew(self, waiter: Waiter) -> None:
        """Let go of a start that has passed: used late, it would come on top of what is booked for now."""
        self._drop_booking(waiter)
        self._to_confirm.append(waiter)
        self._wake.set()

    def _grant(self, waiter: Waiter) -> None:
        self._booked.discard(waiter)
        booking, waiter.booking = waiter.booking, None
        waited_s = self._now() - waiter.asked_at
        permit = Permit(
            id=f"{self._process_id}-{next(self._permits)}",
            scope=self._scope,
            cost=waiter.ask.cost,
            waited_s=waited_s,
        )
        self._unsettled.expect(permit, booking)
        lane = waiter.ask.lane.name.lower()
        self._metrics.limiter_wait_seconds.labels(self._scope, lane).observe(waited_s)
        waiter.answer.set_result(permit)
        self._wake.set()

    def _grant_unlimited(self) -> None:
        while self.blocked_for_s() <= 0 and (waiter := self._waiters.pop()) is not None:
            self._grant(waiter)

    # --- those who leave without a permit ------------------------------------------------------------

    def _everybody(self) -> Iterable[Waiter]:
        everybody = {*self._waiters, *self._booked, *self._to_confirm, *self._under_way}
        return [waiter for waiter in everybody if not waiter.answer.done()]

    def _is_too_long(self, waiter: Waiter, now: float) -> bool:
        patience_s, remaining_s = waiter.ask.patience_s, self._block.remaining_s(now)
        if patience_s is None or remaining_s <= 0:
            return False
        return self._block.total_s(now) - waiter.blocked_before_s + remaining_s > patience_s

    def _answer_impatient(self) -> None:
        now = self._now()
        if self._block.remaining_s(now) <= 0:
            return
        for waiter in self._everybody():
            if self._is_too_long(waiter, now):
                waiter.answer.set_result(Blocked(wait_s=self._block.remaining_s(now)))
                self._drop_booking(waiter)

    def _abandon(self, waiter: Waiter) -> None:
        """A cancelled caller gives back its booking, or the permit that it never came to see."""
        if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
            answer = waiter.answer.result()
            if isinstance(answer, Permit):
                self.settle(answer, Cost(requests=0, tokens=0))
        self._drop_booking(waiter)

    def _drop_booking(self, waiter: Waiter) -> None:
        if waiter in self._under_way:
            return  # whether it has a booking, and which, is known when the batch is answered
        self._booked.discard(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        booking, waiter.booking = waiter.booking, None
        if booking is not None:
            self._unsettled.give_back(booking)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _request(waiter: Waiter) -> Request:
    if (booking := waiter.booking) is None:
        return Request(cost=waiter.ask.cost)
    return Request(cost=waiter.ask.cost, generation=booking.generation, number=booking.number)
