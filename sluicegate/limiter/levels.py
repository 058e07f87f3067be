"""What a scope is at, as people ask for it: from what Redis keeps, the quota and the time. Pure.

What follows from a state and the time is asked of the reference model, so that an operator sees what the
next call would meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from sluicegate.limiter.api import Cost, Dimension
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    MICROS_PER_DOLLAR,
    MINUTE_DIMENSIONS,
    Answer,
    Batch,
    CircuitReason,
    ProcessReport,
    Quota,
    Request,
    SignalCode,
)
from sluicegate.limiter.reference import book
from sluicegate.limiter.reference.scope import BLOCK_GUARD, BLOCK_TOLD, Scope
from sluicegate.limiter.sight import CIRCUIT_REASONS
from sluicegate.limiter.stored import ScopeState, Stored
from sluicegate.limiter.wire import process_hash

REPORT_AGE_US = 10_000_000
TYPICAL_CALL = Cost(tokens=1_000, input_tokens=800, output_tokens=200)
_FAR_US = 10**15
_NOBODY = ""


class BlockCause(StrEnum):
    """Who or what says that no call may start."""

    RATE_LIMITED = "rate-limited"
    RAMP_LIMITED = "ramp-limited"
    OVERLOADED = "overloaded"
    GUARD = "redis-restarted"  # or failed over, or was empty: nobody knows what was sent a moment ago
    TOLD = "told-by-a-process"  # Redis had forgotten the block, a process had not
    DAILY_REQUESTS = Dimension.DAILY_REQUESTS.value
    DAILY_TOKENS = Dimension.DAILY_TOKENS.value
    DAILY_DOLLARS = Dimension.DAILY_DOLLARS.value
    UNKNOWN = "unknown"


_CAUSES = {
    int(SignalCode.RATE_LIMITED): BlockCause.RATE_LIMITED,
    int(SignalCode.RAMP_LIMITED): BlockCause.RAMP_LIMITED,
    int(SignalCode.OVERLOADED): BlockCause.OVERLOADED,
    BLOCK_GUARD: BlockCause.GUARD,
    BLOCK_TOLD: BlockCause.TOLD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One limited dimension, in the units that its name says.

    `configured` and `learnt` are None where there is no such limit. `used` is what counts against `limit`
    now: a day's last 24 hours, calls on the wire, or a minute's debt, which is what must refill before
    the bucket is full. `debt_us` is that as time, and `burst_us` how much of it may go at once.
    """

    dimension: Dimension
    limit: float
    configured: float | None
    learnt: float | None = None
    used: float
    debt_us: int = 0
    burst_us: int = 0

    @property
    def share(self) -> float:
        """The part of the limit that is used: of the minute, of the day, of the places."""
        return self.used / self.limit

    @property
    def burst_share(self) -> float | None:
        """The part of a minute's burst that is used: above 1 when starts are booked ahead. None: no burst."""
        return self.debt_us / self.burst_us if self.burst_us else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """No call starts before `until_us`."""

    until_us: int
    cause: BlockCause


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart:
    """After a block the rate climbs: `factor` of it holds now, all of it from `until_us`."""

    factor: float
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCircuit:
    """Nothing but a probe is sent, the next one not before `probe_at_us`.

    `is_probing`: a process has the right to probe; `prober` names it if it has reported lately.
    """

    reason: str
    since_us: int
    probe_at_us: int
    is_probing: bool
    prober: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLevel:
    """What one process said of itself at `seen_us`."""

    process: str
    seen_us: int
    report: ProcessReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLevels:
    """All of one scope at `now_us`. `is_used`: Redis knows it; if not, its first call waits for the guard.

    `next_call` is what a call of TYPICAL_CALL's size would be answered that has nobody before it in its
    process. `interactive_waits`: bulk work gets its share and no more. `ceiling` bounds the calls on the
    wire after an overload, None when nothing does.
    """

    now_us: int
    is_used: bool
    levels: tuple[Level, ...]
    next_call: Answer
    block: Block | None
    safe: float
    slow_start: SlowStart | None
    ceiling: float | None
    circuit: OpenCircuit | None
    bulk_share: float
    interactive_waits: bool
    processes: tuple[ProcessLevel, ...]


def scope_levels(stored: Stored, quota: Quota, *, clock_us: int, run_id: str) -> ScopeLevels:
    """Return what the scope is at. `clock_us` and `run_id` are Redis's, read no later than `stored`.

    With another run id than the stored one the guard holds that the next batch will set.
    """
    known = replace(stored, scope=stored.scope or ScopeState(run_id=run_id, last_now_us=clock_us))
    scope = Scope(known, Batch(), quota, clock_us=clock_us, run_id=run_id, me=_NOBODY, me_hash=0)
    processes = tuple(_processes(stored, scope.now_us))
    return ScopeLevels(
        now_us=scope.now_us,
        is_used=stored.scope is not None,
        levels=(*_minutes(scope), *_days(scope), *_concurrency(scope)),
        next_call=_next_call(known, quota, scope, run_id),
        block=_block(scope),
        safe=scope.safe,
        slow_start=_slow_start(scope),
        ceiling=scope.state.ceiling or None,
        circuit=_circuit(scope, processes),
        bulk_share=quota.bulk_share,
        interactive_waits=scope.state.hungry_until_us > scope.now_us,
        processes=processes,
    )


def _minutes(scope: Scope) -> Iterator[Level]:
    """Yield the debts, `max(0, tat - now)`, in units of the whole rate, whatever 429s made of it."""
    for index, dimension in enumerate(MINUTE_DIMENSIONS):
        if (limit := scope.limits[index]) > 0:
            debt_us = max(0, scope.state.tats_us[index] - scope.now_us)
            yield Level(
                dimension=dimension,
                limit=limit,
                configured=scope.quota.per_minute[index] or None,
                learnt=scope.state.learnt[index] or None,
                used=debt_us * limit / scope.span_us(index),
                debt_us=debt_us,
                burst_us=scope.quota.burst_us,
            )


def _days(scope: Scope) -> Iterator[Level]:
    for index, (dimension, limit) in enumerate(zip(DAY_DIMENSIONS, scope.quota.per_day, strict=True)):
        if limit > 0:
            unit = MICROS_PER_DOLLAR if dimension is Dimension.DAILY_DOLLARS else 1
            yield Level(
                dimension=dimension,
                limit=limit / unit,
                configured=limit / unit,
                used=max(0.0, scope.days.total(index)) / unit,
            )


def _concurrency(scope: Scope) -> Iterator[Level]:
    if scope.slots:
        yield Level(
            dimension=Dimension.CONCURRENCY,
            limit=scope.slots,
            configured=scope.quota.concurrency,
            used=len(scope.leases),
        )


def _next_call(known: Stored, quota: Quota, scope: Scope, run_id: str) -> Answer:
    """Ask for a start as an interactive call would, and forget the booking."""
    _, *limits = (int(limit) if limit > 0 else _FAR_US for limit in scope.limits)
    tokens = min(TYPICAL_CALL.tokens, limits[0], int(quota.tokens_per_day or _FAR_US))
    cost = replace(
        TYPICAL_CALL,
        tokens=tokens,
        input_tokens=min(TYPICAL_CALL.input_tokens, limits[1]),
        output_tokens=min(TYPICAL_CALL.output_tokens, limits[2]),
    )
    batch = Batch(requests=(Request(cost=cost),), horizon_us=_FAR_US)
    _, reply = book(known, batch, quota, clock_us=scope.now_us, run_id=run_id, me=_NOBODY, me_hash=0)
    return reply.answers[0]


def _block(scope: Scope) -> Block | None:
    until_us, by = scope.block
    if until_us <= scope.now_us:
        return None
    if by is not Dimension.BLOCKED:
        return Block(until_us=until_us, cause=BlockCause(by.value))
    return Block(until_us=until_us, cause=_CAUSES.get(scope.state.block_code, BlockCause.UNKNOWN))


def _slow_start(scope: Scope) -> SlowStart | None:
    until_us = scope.state.ramp_from_us + scope.state.ramp_us
    if scope.state.ramp_us <= 0 or until_us <= scope.now_us:
        return None
    return SlowStart(factor=1 / (scope.stretch(scope.now_us) * scope.safe), until_us=until_us)


def _circuit(scope: Scope, processes: tuple[ProcessLevel, ...]) -> OpenCircuit | None:
    state = scope.state
    if not state.circuit:
        return None
    is_probing = state.probe_until_us > scope.now_us
    probers = (each.process for each in processes if process_hash(each.process) == state.probe_holder)
    return OpenCircuit(
        reason=CIRCUIT_REASONS[CircuitReason(state.circuit)],
        since_us=state.circuit_since_us,
        probe_at_us=max(state.probe_at_us, state.probe_until_us),
        is_probing=is_probing,
        prober=next(probers, None) if is_probing else None,
    )


def _processes(stored: Stored, now_us: int) -> Iterator[ProcessLevel]:
    for process, (seen_us, report) in sorted(stored.processes.items()):
        if now_us - seen_us <= REPORT_AGE_US:
            yield ProcessLevel(process=process, seen_us=seen_us, report=report)
