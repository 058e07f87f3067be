"""One process of a crowd: it heads its lanes, sleeps, calls and settles as the limiter's contract says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sluicegate.limiter.api import Cost, Dimension, Lane
from sluicegate.limiter.booking import (
    Answer,
    Batch,
    BookingRef,
    CircuitReason,
    News,
    PerMinute,
    ProcessReport,
    Reply,
    Request,
    Settlement,
    SignalCode,
    Verdict,
    minute_units,
)

if TYPE_CHECKING:
    from tests.unit.limiter_crowd import Crowd

SECOND_US = 1_000_000
_CONFIRM_AFTER_US = SECOND_US
_SETTLE_WITHIN_US = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the provider does with a call; a `code` of None is an answer, which took `actual`."""

    latency_us: int = 200_000
    code: SignalCode | None = None
    retry_after_us: int = 0
    reason: CircuitReason = CircuitReason.CLOSED
    event: int = 0
    actual: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """A call that went out. `asked_us` is when it became the head of its lane, or arrived."""

    process: int
    lane: Lane
    cost: Cost
    booking: BookingRef
    asked_us: int
    start_us: int
    is_leased: bool
    is_probe: bool

    @property
    def waited_us(self) -> int:
        """How long it waited for its permit."""
        return self.start_us - self.asked_us


@dataclass(slots=True, kw_only=True, eq=False)
class _Head:
    """The first of a lane: asked for, and then asleep until the start that it was given."""

    lane: Lane
    cost: Cost
    asked_us: int
    booking: BookingRef = field(default_factory=BookingRef)
    wait_us: int = 0
    is_leased: bool = False
    is_probe: bool = False


class Process:
    """One process: heads book one ahead in each lane, at most `width` calls are booked or on the wire."""

    def __init__(self, crowd: Crowd, index: int, *, width: int, look_us: int) -> None:
        self.index = index
        self.hungry: dict[Lane, Callable[[], Cost]] = {}
        self.is_idle_prober = False
        self.reply: Reply | None = None
        self.is_crashed = False
        self._crowd, self._width, self._look_us = crowd, width, look_us
        self._waiting: dict[Lane, deque[_Head]] = {lane: deque() for lane in Lane}
        self._ask_at_us = dict.fromkeys(Lane, 0)
        self._bound_by = dict.fromkeys(Lane, Dimension.NONE)
        self._booked: set[_Head] = set()
        self._to_confirm: list[_Head] = []
        self._on_wire: set[Call] = set()
        self._news: list[News] = []
        self._settlements: list[Settlement] = []
        self._settle_at_us = self._look_at_us = 0
        self._largest: PerMinute = (1.0, float(crowd.quota.largest_call_tokens or 0), 0.0, 0.0)

    def arrive(self, lane: Lane, cost: Cost) -> None:
        """Add one waiter."""
        self._waiting[lane].append(_Head(lane=lane, cost=cost, asked_us=self._crowd.now_us))
        self.step()

    def crash(self) -> None:
        """Stop for good: nothing is settled, reported or renewed any more."""
        self.is_crashed = True

    def step(self) -> None:
        """Send what is to be sent now, again and again until nothing is."""
        now_us = self._crowd.now_us
        while not self.is_crashed:
            heads, self._to_confirm = self._to_confirm + self._new_heads(), []
            has_settled = bool(self._settlements) and now_us >= self._settle_at_us
            if not (heads or self._news or has_settled or now_us >= self._look_at_us):
                return
            self._exchange(heads)

    def _held(self) -> tuple[int, int]:
        """Return how many places it holds by lane."""
        lanes = [call.lane for call in self._on_wire if call.is_leased]
        lanes += [head.lane for head in (*self._booked, *self._to_confirm) if head.is_leased]
        return (lanes.count(Lane.INTERACTIVE), lanes.count(Lane.BULK))

    def _room(self) -> int:
        return self._width - len(self._on_wire) - len(self._booked)

    def _new_heads(self) -> list[_Head]:
        heads: list[_Head] = []
        for lane in Lane:
            is_taken = any(head.lane is lane for head in self._booked)
            if is_taken or self._ask_at_us[lane] > self._crowd.now_us or len(heads) >= self._room():
                continue
            if not self._waiting[lane] and lane in self.hungry:
                cost = self.hungry[lane]()
                self._waiting[lane].append(_Head(lane=lane, cost=cost, asked_us=self._crowd.now_us))
            if self._waiting[lane]:
                heads.append(self._waiting[lane].popleft())
        return heads

    def _exchange(self, heads: list[_Head]) -> None:
        now_us, lane = self._crowd.now_us, Lane.INTERACTIVE
        is_look = now_us >= self._look_at_us
        if is_look:
            self._look_at_us = now_us + self._look_us
            self._crowd.at(self._look_at_us, self.step)
        is_probing = any(call.is_probe for call in self._on_wire)
        batch = Batch(
            settlements=tuple(self._settlements),
            news=tuple(self._news),
            renewals=tuple(call.booking for call in self._on_wire if call.is_leased) if is_look else (),
            requests=tuple(Request(cost=head.cost, lane=head.lane, booking=head.booking) for head in heads),
            report=ProcessReport(in_flight=len(self._on_wire)) if is_look else None,
            largest=self._largest,
            held=self._held(),
            is_hungry=bool(self._waiting[lane]) or (lane in self.hungry and self._room() > len(heads)),
            wants_probe=self.is_idle_prober and not heads,
            keeps_probe=is_probing or self.is_idle_prober or bool(heads),
        )
        self._settlements, self._news = [], []
        was_open = self.reply is not None and self.reply.circuit is not None
        self.reply = self._crowd.send(self.index, batch)
        if was_open and self.reply.circuit is None:
            self._ask_at_us = dict.fromkeys(Lane, 0)
        for head, answer in zip(heads, self.reply.answers, strict=True):
            self._act(head, answer, self.reply)

    def _act(self, head: _Head, answer: Answer, reply: Reply) -> None:
        now_us = self._crowd.now_us
        self._booked.discard(head)
        self._bound_by[head.lane] = answer.dimension
        match answer.verdict:
            case Verdict.CONFIRMED:
                self._call(head)
            case Verdict.BOOKED:
                start_us = now_us + answer.wait_us
                head.booking = BookingRef(
                    generation=reply.generation,
                    number=answer.number,
                    stretch=answer.stretch,
                    start_us=start_us,
                )
                head.wait_us, head.is_leased = answer.wait_us, reply.is_leasing
                head.is_probe = answer.dimension is Dimension.CIRCUIT
                self._booked.add(head)
                self._crowd.at(start_us, lambda: self._reached(head))
            case Verdict.RETRY:
                head.booking = BookingRef()
                self._waiting[head.lane].appendleft(head)
                self._ask_at_us[head.lane] = now_us + answer.wait_us
                self._crowd.at(now_us + answer.wait_us, self.step)
            case Verdict.NEVER:
                raise AssertionError(f"{head.cost} does not fit")

    def _reached(self, head: _Head) -> None:
        if self.is_crashed or self.reply is None:
            return
        is_shut = self.reply.circuit is not None and not head.is_probe
        is_void = self.reply.generation != head.booking.generation
        is_held = self.reply.void_until_us > self._crowd.now_us
        if head.wait_us > _CONFIRM_AFTER_US or is_shut or is_void or is_held:
            self._to_confirm.append(head)
        else:
            self._call(head)
        self.step()

    def _call(self, head: _Head) -> None:
        self._booked.discard(head)
        call = Call(
            process=self.index,
            lane=head.lane,
            cost=head.cost,
            booking=head.booking,
            asked_us=head.asked_us,
            start_us=self._crowd.now_us,
            is_leased=head.is_leased,
            is_probe=head.is_probe,
        )
        self._on_wire.add(call)
        first, second, third, fourth = map(max, self._largest, map(float, minute_units(call.cost)))
        self._largest = (first, second, third, fourth)
        outcome = self._crowd.begin(call)
        self._crowd.at(self._crowd.now_us + outcome.latency_us, lambda: self._ended(call, outcome))

    def _ended(self, call: Call, outcome: Outcome) -> None:
        self._crowd.end(call)
        if self.is_crashed or self.reply is None:
            return
        self._on_wire.discard(call)
        if outcome.code is not None or self.reply.wants_answers or self.reply.circuit is not None:
            self._news.append(
                News(
                    code=outcome.code or SignalCode.ALIVE,
                    started_us=call.start_us,
                    retry_after_us=outcome.retry_after_us,
                    reason=outcome.reason,
                    event=outcome.event,
                    is_probe=call.is_probe,
                )
            )
        extra = _difference(outcome.actual or call.cost, call.cost)
        if call.is_leased or extra != Cost(requests=0):
            settlement = Settlement(
                booking=call.booking,
                extra=extra,
                is_released=call.is_leased,
                is_alive=outcome.code is None,
                duration_us=outcome.latency_us,
            )
            self._settlements.append(settlement)
            self._settle_at_us = self._crowd.now_us + _SETTLE_WITHIN_US
            self._crowd.at(self._settle_at_us, self.step)
        for lane, bound_by in self._bound_by.items():
            if call.is_leased and bound_by is Dimension.CONCURRENCY:
                self._ask_at_us[lane] = 0
        self.step()


def _difference(actual: Cost, reserved: Cost) -> Cost:
    return replace(
        actual,
        requests=0,
        tokens=actual.tokens - reserved.tokens,
        input_tokens=actual.input_tokens - reserved.input_tokens,
        output_tokens=actual.output_tokens - reserved.output_tokens,
        micro_dollars=actual.micro_dollars - reserved.micro_dollars,
    )
