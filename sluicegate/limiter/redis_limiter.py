"""A scope's limits shared through Redis: the head of the local queue books and sleeps exactly that long."""

from __future__ import annotations

import asyncio
import itertools
import random as random_module
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, assert_never

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Circuit,
    Cost,
    Dimension,
    Lane,
    NeverFits,
    Permit,
    Signal,
    SignalKind,
    WaitersReleasedError,
)
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    SIGNAL_CODES,
    Answer,
    Batch,
    BookingRef,
    CircuitReason,
    News,
    PerMinute,
    ProcessReport,
    Quota,
    Reply,
    Request,
    Verdict,
    minute_units,
)
from sluicegate.limiter.bookings import Bookings
from sluicegate.limiter.chronicle import Chronicle
from sluicegate.limiter.courier import Courier
from sluicegate.limiter.learner import Learner, own_times_us
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.probing import Probing
from sluicegate.limiter.sight import CIRCUIT_REASONS, Sight
from sluicegate.limiter.unsettled import ToTell, Unsettled
from sluicegate.limiter.waiters import Booking, Waiter, WaiterQueues
from sluicegate.llm.outcomes import QuotaReport
from sluicegate.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import redis.asyncio

HORIZON_S = 60.0
MOST_AHEAD = 32
LOOK_EVERY_S = 1.0
WAKE_UP_S = 0.001
RATE_BLOCK_S = 1.0
_REASONS = {text: reason for reason, text in CIRCUIT_REASONS.items()}
_BLOCKS = (SignalKind.RATE_LIMITED, SignalKind.RAMP_LIMITED, SignalKind.OVERLOADED)


class RedisLimiter:
    """Implements `Limiter` and `ScopeView` for one scope; nothing is granted unless `run()` is running.

    `process_id` must be unique among all limiters of the scope. A scope without any limit costs no round
    trip, until headers or an overload say that there is one; a block or a circuit stops everybody there too.
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
        self._process_id = process_id
        self._timeout_s = timeout_s
        self._sight = Sight(quota)
        self._learner = Learner(quota)
        self._chronicle = Chronicle(scope, quota, metrics)
        self._queues = WaiterQueues(lambda cost: self._sight.time_us(cost) or 1.0)
        self._under_way: list[Waiter] = []
        self._aside: dict[Waiter, asyncio.TimerHandle] = {}
        self._permits = itertools.count()
        self._wake = asyncio.Event()
        self._unsettled = Unsettled(self._wake.set)
        self._news_sent: asyncio.Future[None] | None = None
        self._block_wanted_until = 0.0
        self._largest: PerMinute = (1.0, float(quota.largest_call_tokens or 0), 0.0, 0.0)
        self._probing = Probing(self._unsettled.tell)
        self._bookings = Bookings(
            self._sight,
            self._unsettled,
            self._probing,
            lead_s=lambda: self._lead_s,
            grant=self._grant,
            wake=self._wake.set,
        )
        self._look_at = 0.0
        self._is_draining = False

    # --- what callers use -------------------------------------------------------------------------

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Wait for the right to make one call; see `Limiter.acquire`."""
        if self._is_draining:
            raise WaitersReleasedError
        if (dimension := self._quota.too_small_for(ask.cost, self._sight.limits)) is not None:
            return NeverFits(dimension=dimension)
        now = self._now()
        waiter = Waiter(
            ask=ask,
            answer=asyncio.get_running_loop().create_future(),
            asked_at=now,
            blocked_before_s=self._sight.block.total_s(now),
        )
        if (blocked := self._too_long(waiter, now)) is not None:
            return blocked
        self._queues.push(waiter)
        self._wake.set()
        self._chronicle.waiting.inc()
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            self._chronicle.waiting.dec()

    def settle(self, permit: Permit, actual: Cost | None, quotas: tuple[QuotaReport, ...] = ()) -> None:
        """Send what the call really took within 50 ms. A permit counts once; a second time is ignored."""
        if quotas:
            self._learn(permit, quotas)
        if self._unsettled.settle(permit, actual):
            self._queues.ask_now(Dimension.CONCURRENCY)
        self._probing.settled(permit, actual)

    async def report(self, permit: Permit, signal: Signal) -> None:
        """Tell all others; a block holds here at once. See `Limiter.report`."""
        is_alive = signal.kind is SignalKind.ALIVE
        if is_alive and not self._sight.wants_answers and self.circuit() is None:
            return
        retry_after_s = signal.retry_after_s or 0.0
        news = News(
            code=SIGNAL_CODES[signal.kind],
            started_us=permit.started_us,
            retry_after_us=int(retry_after_s * 1e6),
            reason=_REASONS.get(signal.reason, CircuitReason.CREDENTIALS),
            event=_event_hash(signal.event),
            is_probe=permit.is_probe,
        )
        if signal.kind in _BLOCKS:
            self._block_here(retry_after_s or (0 if signal.kind is SignalKind.OVERLOADED else RATE_BLOCK_S))
            self._chronicle.refused(signal, self.blocked_for_s())
        sent = self._next_batch()
        self._probing.reported(permit)
        self._unsettled.tell(news)
        if not is_alive or permit.is_probe:
            await asyncio.wait({sent}, timeout=self._timeout_s)

    async def flush(self) -> None:
        """Return when Redis knows all that was settled, given back and told, or after the timeout without it.

        Before `run()` is cancelled: what it still had to say would otherwise be lost.
        """
        sent = self._next_batch()
        self._unsettled.hurry()
        await asyncio.wait({sent}, timeout=self._timeout_s)

    def release_waiters(self) -> None:
        """Let everybody go who has no permit yet, now and from now on; see `Limiter.release_waiters`."""
        self._is_draining = True
        for waiter in self._everybody():
            waiter.answer.set_exception(WaitersReleasedError())
            self._drop(waiter)

    def blocked_for_s(self) -> float:
        """Return how long the scope stays blocked, as known at most a second ago."""
        return self._sight.block.remaining_s(self._now())

    def circuit(self) -> Circuit | None:
        """Return the open circuit, as known at most a second ago."""
        return self._sight.circuit(self._now())

    def wants_probe(self) -> bool:
        """Whether this process may probe and nobody waits here to do it; see `ScopeView.wants_probe`."""
        self._probing.want()
        return self._sight.has_probe and self.circuit() is not None and self._queues.head() is None

    # --- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Book, settle and look at the scope once a second, until cancelled."""
        self._chronicle.started()
        while True:
            self._wake.clear()
            self._chronicle.blocked(self.blocked_for_s())
            if self._courier.is_up and not self._sight.is_limited:
                self._grant_unlimited()
            if self._has_to_send():
                await self._exchange()
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        due_at = min(self._look_at, self._unsettled.due_at)
        if not self._sight.is_limited:
            if self._queues.head() is not None:
                due_at = min(due_at, self._now() + max(WAKE_UP_S, self.blocked_for_s()))
        else:
            now = self._now()
            for lane in self._queues.lanes():
                if lane.ask_at > now and lane.head() is not None:
                    due_at = min(due_at, lane.ask_at)
        timer = asyncio.get_running_loop().call_at(due_at, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _has_to_send(self) -> bool:
        now = self._now()
        return (
            self._bookings.has_to_ask
            or now >= min(self._look_at, self._unsettled.due_at)
            or any(self._may_book(lane, self._bookings.ahead(lane), now) for lane in Lane)
        )

    def _may_book(self, lane: Lane, ahead: int, now: float) -> bool:
        queue = self._queues[lane]
        if not self._sight.is_limited or queue.ask_at > now or ahead >= MOST_AHEAD:
            return False
        head = queue.head()
        if head is None:
            return False
        return ahead < self._sight.starts_within(head.ask.cost, 2 * self._lead_s)

    def _take_requesters(self) -> list[Waiter]:
        taken = self._bookings.take(MOST_AHEAD)
        now = self._now()
        confirmed = tuple(taken)
        for lane in Lane:
            ahead = self._bookings.ahead(lane, confirmed)
            while self._may_book(lane, ahead, now) and (waiter := self._queues[lane].pop()) is not None:
                taken.append(waiter)
                ahead += 1
        return taken

    async def _exchange(self) -> None:
        """Send one batch, again and again until Redis answers, and act on the reply."""
        requesters = self._under_way = self._take_requesters()
        told = self._unsettled.take()
        sent, self._news_sent = self._news_sent, None
        is_look = self._now() >= self._look_at
        reply, was_repeated = await self._courier.bring(
            lambda: self._batch(requesters, told, is_look=is_look)
        )
        self._under_way = []
        if is_look:
            self._look_at = self._now() + LOOK_EVERY_S
        self._see(reply)
        if sent is not None and not sent.done():
            sent.set_result(None)
        for waiter, answer in zip(requesters, reply.answers, strict=True):
            self._act(waiter, answer, reply, is_old=was_repeated)
        self._answer_impatient()

    def _next_batch(self) -> asyncio.Future[None]:
        """Return what is done when the batch after the one under way is answered."""
        if self._news_sent is None:
            self._news_sent = asyncio.get_running_loop().create_future()
        return self._news_sent

    def _batch(self, requesters: list[Waiter], told: ToTell, *, is_look: bool) -> Batch:
        now = self._now()
        is_wanted = self._probing.is_wanted and self._queues.head() is None
        return Batch(
            give_backs=told.give_backs,
            settlements=told.settlements,
            news=told.news_at(now),
            observations=told.observations,
            renewals=told.renewals,
            requests=tuple(map(_request, requesters)),
            report=self._process_report() if is_look else None,
            block_us=max(0, int((self._block_wanted_until - now) * 1e6)),
            horizon_us=int(HORIZON_S * 1e6),
            lead_us=int(self._lead_s * 1e6),
            largest=self._largest,
            held=self._places_held(requesters),
            is_hungry=self._queues[Lane.INTERACTIVE].head() is not None,
            wants_probe=is_wanted and not requesters,
            keeps_probe=self._probing.is_under_way or is_wanted or bool(requesters),
        )

    def _places_held(self, requesters: list[Waiter]) -> tuple[int, int]:
        """Return how many places among the concurrent calls this process has, by lane."""
        interactive, bulk = self._bookings.places(requesters)
        granted = self._unsettled.places
        return interactive + granted[Lane.INTERACTIVE], bulk + granted[Lane.BULK]

    def _process_report(self) -> ProcessReport:
        interactive, bulk = (len(self._queues[lane]) for lane in Lane)
        return ProcessReport(
            in_flight=self._unsettled.in_flight,
            waiting_interactive=interactive,
            waiting_bulk=bulk,
            booked=len(self._bookings),
        )

    # --- acting on what Redis said ------------------------------------------------------------------

    def _see(self, reply: Reply) -> None:
        """Learn how the scope stands, and doubt the bookings that this makes void."""
        now, before = self._now(), self._sight.generation
        if reply.generation != before and before and self._sight.void_until > now:
            # The new scope may have forgotten a block that we know of.
            self._block_wanted_until = max(self._block_wanted_until, self._sight.void_until)
            self._look_at = now
        elif reply.generation == before:
            self._block_wanted_until = 0.0
        if self._sight.see(reply, now):
            self._queues.ask_now()
        self._chronicle.saw(reply, self._sight.limits, self.circuit())
        self._bookings.doubt()

    def _act(self, waiter: Waiter, answer: Answer, reply: Reply, *, is_old: bool) -> None:
        now = self._now()
        match answer.verdict:
            case Verdict.CONFIRMED:
                self._bookings.wait_for_start(waiter, is_confirmed=True)
            case Verdict.BOOKED:
                waiter.booking = self._booking(waiter, answer, reply)
                if is_old and not waiter.answer.done():
                    self._bookings.book_anew(waiter)
                else:
                    self._bookings.wait_for_start(waiter, is_confirmed=False)
            case Verdict.RETRY:
                waiter.booking = None
                self._ask_later(waiter, answer, now)
            case Verdict.NEVER:
                waiter.booking = None
                if not waiter.answer.done():
                    waiter.answer.set_result(NeverFits(dimension=answer.dimension))
            case _:
                assert_never(answer.verdict)

    def _booking(self, waiter: Waiter, answer: Answer, reply: Reply) -> Booking:
        start_us = reply.now_us + answer.wait_us
        return Booking(
            ref=BookingRef(
                generation=reply.generation,
                number=answer.number,
                stretch=answer.stretch,
                start_us=start_us,
            ),
            cost=waiter.ask.cost,
            lane=waiter.ask.lane,
            start_at=self._sight.loop_time(start_us),
            wait_s=answer.wait_us / 1e6,
            is_leased=reply.is_leasing,
            is_probe=answer.dimension is Dimension.CIRCUIT,
            raised_us=reply.raised_us,
        )

    def _ask_later(self, waiter: Waiter, answer: Answer, now: float) -> None:
        """Put a waiter back; one that only the day's rest is too small for lets the others pass."""
        if waiter.answer.done():
            return
        if answer.dimension in DAY_DIMENSIONS and self._sight.blocked_until_us <= self._sight.redis_us(now):
            until_s = answer.wait_us / 1e6 + HORIZON_S
            if waiter.ask.patience_s is not None and until_s > waiter.ask.patience_s:
                waiter.answer.set_result(Blocked(wait_s=until_s, cause=answer.dimension))
                return
            self._aside[waiter] = asyncio.get_running_loop().call_later(
                min(until_s, HORIZON_S), self._come_back, waiter
            )
            return
        lane = self._queues[waiter.ask.lane]
        lane.put_back(waiter)
        lane.ask_at, lane.bound_by = max(lane.ask_at, now + answer.wait_us / 1e6), answer.dimension

    def _come_back(self, waiter: Waiter) -> None:
        del self._aside[waiter]
        if not waiter.answer.done():
            self._queues.push(waiter)
            self._wake.set()

    def _grant(self, waiter: Waiter) -> None:
        self._bookings.granted(waiter)
        booking, waiter.booking = waiter.booking, None
        now = self._now()
        permit = Permit(
            id=f"{self._process_id}-{next(self._permits)}",
            scope=self._scope,
            cost=waiter.ask.cost,
            waited_s=now - waiter.asked_at,
            started_us=self._sight.redis_us(now),
            is_probe=booking is not None and booking.is_probe,
        )
        self._probing.granted(permit)
        if self._quota.strict_window_s > 0:
            self._largest = _larger(self._largest, permit.cost)
        self._unsettled.expect(permit, booking)
        self._chronicle.granted(permit, waiter.ask.lane)
        waiter.answer.set_result(permit)
        self._wake.set()

    def _grant_unlimited(self) -> None:
        while self.blocked_for_s() <= 0 and (waiter := self._queues.pop()) is not None:
            self._grant(waiter)

    def _learn(self, permit: Permit, quotas: tuple[QuotaReport, ...]) -> None:
        booking = self._unsettled.booking_of(permit)
        for report in quotas:
            seen = self._learner.observe(
                report,
                now_s=self._now(),
                own_us=own_times_us(minute_units(permit.cost), self._sight.limits),
                raised_before_us=booking.raised_us if booking is not None else self._sight.raised_us,
                limits=self._sight.limits,
            )
            if seen is not None:
                self._unsettled.observed(seen)

    def _block_here(self, seconds: float) -> None:
        now = self._now()
        if seconds > 0:
            self._sight.refused(now + seconds, now)
            self._answer_impatient()

    # --- those who leave without a permit ------------------------------------------------------------

    def _everybody(self) -> Iterable[Waiter]:
        everybody = {*self._queues, *self._bookings, *self._under_way, *self._aside}
        return [waiter for waiter in everybody if not waiter.answer.done()]

    def _too_long(self, waiter: Waiter, now: float) -> Blocked | None:
        """Return the answer to a waiter who has not the patience for what is in the way."""
        patience_s = waiter.ask.patience_s
        if patience_s is None:
            return None
        if (circuit := self._sight.circuit(now)) is not None:
            return Blocked(wait_s=circuit.next_probe_s, cause=Dimension.CIRCUIT)
        block, is_booked = self._sight.block, waiter.booking is not None
        # A used-up day is not in the way of what is booked: that has been counted.
        remaining_s = max(0.0, self._sight.void_until - now) if is_booked else block.remaining_s(now)
        blocked_s = block.total_s(now) - waiter.blocked_before_s + remaining_s
        if remaining_s <= 0 or blocked_s <= patience_s:
            return None
        return Blocked(wait_s=remaining_s, cause=Dimension.BLOCKED if is_booked else self._sight.blocked_by)

    def _answer_impatient(self) -> None:
        now = self._now()
        if self._sight.block.remaining_s(now) <= 0 and self._sight.circuit(now) is None:
            return
        for waiter in self._everybody():
            is_probe = waiter.booking is not None and waiter.booking.is_probe
            if not is_probe and (blocked := self._too_long(waiter, now)) is not None:
                waiter.answer.set_result(blocked)
                self._drop(waiter)

    def _abandon(self, waiter: Waiter) -> None:
        """A cancelled caller gives back its booking, or the permit that it never came to see."""
        if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
            answer = waiter.answer.result()
            if isinstance(answer, Permit):
                self.settle(answer, NOTHING)
        self._drop(waiter)

    def _drop(self, waiter: Waiter) -> None:
        if waiter in self._under_way:
            return  # whether it has a booking, and which, is known when the batch is answered
        if (aside := self._aside.pop(waiter, None)) is not None:
            aside.cancel()
        self._bookings.drop(waiter)

    @property
    def _lead_s(self) -> float:
        """How long it takes to ask Redis, and to wake up for the answer."""
        return self._courier.round_trip_s + WAKE_UP_S

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _request(waiter: Waiter) -> Request:
    booking = waiter.booking.ref if waiter.booking is not None else BookingRef()
    return Request(cost=waiter.ask.cost, lane=waiter.ask.lane, booking=booking)


def _larger(largest: PerMinute, cost: Cost) -> PerMinute:
    first, second, third, fourth = map(max, largest, map(float, minute_units(cost)))
    return (first, second, third, fourth)


def _event_hash(event: str) -> int:
    return 1 + int.from_bytes(sha256(event.encode()).digest()[:6], "big") if event else 0
