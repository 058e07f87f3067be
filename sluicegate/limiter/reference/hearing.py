"""What calls showed: blocks after refusals, a lower rate, fewer calls at once, an open circuit."""

from __future__ import annotations

import math

from sluicegate.limiter.booking import CircuitReason, News, SignalCode
from sluicegate.limiter.reference.scope import Scope
from sluicegate.limiter.stored import FAILING_EVENTS

OUTAGE_CALLS = 20
OUTAGE_US = 5_000_000
FIRST_PROBE_US = 5_000_000
LONGEST_PROBE_US = 60_000_000
_RATE_BLOCK_US = 1_000_000
_LEAST_SAFE = 0.5
_RAMP_CUT = 0.5
_LARGEST_CUT = 0.1
# A burst of 429s in so many calls is what a pace at the provider's edge earns: it lowers the rate by as much
# as it regains meanwhile. At 50 calls a second that is one in 300 calls.
_CUT_CALLS = 1.8
_LONGEST_RAMP_US = 10_000_000
_OVERLOAD_CUT = 0.7
_REPORT_AGE_US = 10_000_000
_NO_EVENTS = (0,) * FAILING_EVENTS


def hear(scope: Scope, news: News) -> None:
    """Apply one signal."""
    match news.code:
        case SignalCode.RATE_LIMITED | SignalCode.RAMP_LIMITED:
            _throttled(scope, news)
            _answered(scope, news)
        case SignalCode.OVERLOADED:
            _block(scope, news.retry_after_us, news.code)
            if news.started_us > scope.state.ceiling_at_us:
                _shrink(scope)
            _answered(scope, news)
        case SignalCode.HALTED:
            _open(scope, news.reason, is_probe=news.is_probe)
        case SignalCode.DOWN:
            _failed(scope, news)
        case SignalCode.ALIVE:
            scope.set(failures=0, failing_events=_NO_EVENTS)
            if scope.ramp_awaits_answer and news.started_us >= scope.state.ramp_from_us:
                scope.set(ramp_us=0)
            if scope.state.circuit and news.started_us >= scope.state.circuit_since_us:
                _close(scope)
        case SignalCode.PROBE_UNUSED:
            if scope.state.probe_holder == scope.me_hash:
                _end_probe(scope, scope.now_us)


def _throttled(scope: Scope, news: News) -> None:
    """Block, and lower the rate once a burst: calls that began before the last cut belong to it.

    By the more, the fewer calls there were since the last one. A rare 429 says that the pace is just right:
    lowered by a tenth each time, as is often done, the rate would never come near a strict window's edge.
    """
    wait_us = news.retry_after_us or _RATE_BLOCK_US
    state, until_us = scope.state, scope.now_us + wait_us
    # Calls that began before that block ended did not know of it: each process hears of it when it next asks.
    if news.started_us >= state.cut_until_us:
        # Of those since the last burst, the ones that began before the refused call: later ones could not
        # know of it, however many they were while it was on its way.
        seen_us, since_us = news.started_us - state.burst_at_us, scope.now_us - state.burst_at_us
        calls = max(1.0, (state.newest - state.cut_newest) * float(seen_us) / max(1, since_us, seen_us))
        cut = 1 - min(_LARGEST_CUT, _CUT_CALLS / calls)
        safe = max(_LEAST_SAFE, scope.safe * (_RAMP_CUT if news.code is SignalCode.RAMP_LIMITED else cut))
        scope.set(safe=safe, safe_at_us=scope.now_us, cut_until_us=until_us)
        if not any(scope.limits):
            _shrink(scope)
    elif scope.now_us <= state.cut_until_us:
        scope.set(cut_until_us=max(state.cut_until_us, until_us))
    # While refusals of one burst still come in, and block, what goes well says nothing of the pace.
    scope.set(burst_at_us=scope.now_us, cut_newest=state.newest)
    _block(scope, wait_us, news.code)


def _block(scope: Scope, wait_us: int, code: int) -> None:
    """Block for so long; a block is never shortened, and is followed by a climb from half the rate.

    After a 429 the climb ends with the first answer to a call that began in it: the quota is back. What an
    overloaded provider or one that limits ramps can bear, one answer does not tell.
    """
    until_us = scope.now_us + wait_us
    if wait_us > 0 and until_us > scope.state.blocked_until_us:
        ramp_us = min(_LONGEST_RAMP_US, wait_us // 2)
        scope.set(blocked_until_us=until_us, block_code=int(code))
        scope.set(ramp_from_us=until_us, ramp_us=ramp_us, ramp_code=int(code))


def _shrink(scope: Scope) -> None:
    """Let fewer calls be on the wire at once: multiplicative decrease."""
    state = scope.state
    base = state.ceiling or (len(scope.leases) if scope.quota.concurrency else _in_flight(scope))
    base = max(1.0, base)
    scope.set(
        ceiling=max(1.0, float(math.floor(base * _OVERLOAD_CUT))),
        ceiling_top=state.ceiling_top or base,
        ceiling_at_us=scope.now_us,
    )


def _in_flight(scope: Scope) -> int:
    return sum(
        report.in_flight
        for at_us, report in scope.processes.values()
        if scope.now_us - at_us <= _REPORT_AGE_US
    )


def _answered(scope: Scope, news: News) -> None:
    """A refusal is an answer: it ends an outage. Money and credentials it says nothing about."""
    scope.set(failures=0, failing_events=_NO_EVENTS)
    state = scope.state
    if state.circuit == CircuitReason.OUTAGE and news.started_us >= state.circuit_since_us:
        _close(scope)
    elif state.circuit:
        _open(scope, CircuitReason(state.circuit), is_probe=news.is_probe)


def _failed(scope: Scope, news: News) -> None:
    """Count failures in a row: twenty, of five events, over five seconds, are an outage."""
    state = scope.state
    events = list(state.failing_events)
    if news.event and news.event not in events and 0 in events:
        events[events.index(0)] = news.event
    since_us = state.failing_since_us if state.failures else scope.now_us
    scope.set(failures=state.failures + 1, failing_since_us=since_us, failing_events=tuple(events))
    if state.circuit:
        if news.is_probe:
            _open(scope, CircuitReason(state.circuit), is_probe=True)
    elif scope.state.failures >= OUTAGE_CALLS and events[-1] and scope.now_us - since_us >= OUTAGE_US:
        _open(scope, CircuitReason.OUTAGE, is_probe=False)


def _open(scope: Scope, reason: CircuitReason, *, is_probe: bool) -> None:
    state, now_us = scope.state, scope.now_us
    if not state.circuit:
        scope.set(circuit=int(reason), circuit_since_us=now_us, probe_delay_us=FIRST_PROBE_US)
        _end_probe(scope, now_us + FIRST_PROBE_US)
    elif is_probe:
        delay_us = min(2 * state.probe_delay_us, LONGEST_PROBE_US)
        scope.set(circuit=int(reason), probe_delay_us=delay_us)
        _end_probe(scope, now_us + delay_us)


def _close(scope: Scope) -> None:
    """Let calls go again, at half the rate first."""
    scope.set(circuit=0, circuit_since_us=0, probe_delay_us=0)
    _end_probe(scope, 0)
    from_us = max(scope.now_us, scope.state.blocked_until_us)
    scope.set(ramp_from_us=from_us, ramp_us=_LONGEST_RAMP_US, ramp_code=0)


def _end_probe(scope: Scope, next_at_us: int) -> None:
    scope.set(probe_at_us=next_at_us, probe_until_us=0, probe_holder=0, probe_number=0)
