"""A limiter for the tests of other rooms: blocks and circuits as the real one's, in time that tests move."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Circuit,
    Cost,
    Dimension,
    NeverFits,
    Permit,
    Signal,
    SignalKind,
    WaitersReleasedError,
)
from sluicegate.llm.outcomes import QuotaReport

_UNNAMED_BLOCK_S = 1.0
_OUTAGE_CALLS = 20
_OUTAGE_EVENTS = 5
_OUTAGE_LEAST_S = 5.0
_FIRST_PROBE_S = 5.0
_MOST_PROBE_S = 60.0
_REFUSALS = frozenset({SignalKind.RATE_LIMITED, SignalKind.RAMP_LIMITED, SignalKind.OVERLOADED})


class FakeLimiter:
    """Grants every ask at once unless the scope is blocked or its circuit open; `advance` moves its time.

    `asked`, `granted` and `signals` list what came, in order; `settled` and `quotas` map a permit's id to
    what it was settled with. A call of more than `largest_tokens` never fits.
    """

    def __init__(self, *, scope: str = "main", largest_tokens: int | None = None) -> None:
        self.scope = scope
        self.asked: list[Ask] = []
        self.granted: list[Permit] = []
        self.settled: dict[str, Cost | None] = {}
        self.quotas: dict[str, tuple[QuotaReport, ...]] = {}
        self.signals: list[Signal] = []
        self._largest_tokens = largest_tokens
        self._now_s = 0.0
        self._blocked_until_s = 0.0
        self._open: _OpenCircuit | None = None
        self._outage = _Outage()
        self._is_draining = False
        self._waiters: dict[asyncio.Future[None], Ask] = {}

    # --- what tests do with it --------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many asks have no answer yet."""
        return len(self._waiters)

    def advance(self, seconds: float) -> None:
        """Let fake time pass."""
        self._now_s += seconds
        self._wake()

    def block(self, seconds: float) -> None:
        """Block the scope as another process's refusal would."""
        self._blocked_until_s = max(self._blocked_until_s, self._now_s + seconds)
        self._wake()

    def open_circuit(self, reason: str = "money", *, is_outage: bool = False) -> None:
        """Open the circuit as another process's report would."""
        if self._open is None:
            self._open = _OpenCircuit(
                reason=reason,
                is_outage=is_outage,
                opened_at_s=self._now_s,
                probe_at_s=self._now_s + _FIRST_PROBE_S,
                calls_before=len(self.granted),
            )
        self._wake()

    def close_circuit(self) -> None:
        """Close it as the success of another process's probe would."""
        self._open = None
        self._outage = _Outage()
        self._wake()

    # --- Limiter ----------------------------------------------------------------------------------

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Grant at once, or wait for `advance` and reports; answer Blocked beyond the ask's patience."""
        self.asked.append(ask)
        if self._is_draining:
            raise WaitersReleasedError
        if self._largest_tokens is not None and ask.cost.tokens > self._largest_tokens:
            return NeverFits(dimension=Dimension.TOKENS)
        asked_at_s = self._now_s
        while (obstacle := self._obstacle(ask)) is not None:
            if ask.patience_s is not None and (
                obstacle.cause is Dimension.CIRCUIT or obstacle.wait_s > ask.patience_s
            ):
                return obstacle
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[woken] = ask
            try:
                await woken
            finally:
                del self._waiters[woken]
        return self._grant(ask, self._now_s - asked_at_s)

    def settle(self, permit: Permit, actual: Cost | None, quotas: tuple[QuotaReport, ...] = ()) -> None:
        """Remember what the call took. Raises AssertionError for a second settlement: a caller's bug."""
        if permit.id in self.settled:
            raise AssertionError(f"permit {permit.id} was settled twice")
        self.settled[permit.id] = actual
        self.quotas[permit.id] = quotas
        if self._open is not None and self._open.probe == permit and actual == NOTHING:
            self._open.probe_was_not_made(self._now_s)
            self._wake()

    async def report(self, permit: Permit, signal: Signal) -> None:
        """Block, open or close the circuit as `api.Limiter.report` says."""
        self.signals.append(signal)
        is_outage = self._outage.see(signal, self._now_s)
        if signal.kind in _REFUSALS:
            self.block(_block_s(signal))
        if self._open is not None:
            self._judge(permit, signal, self._open)
        elif signal.kind is SignalKind.HALTED or is_outage:
            self.open_circuit("outage" if is_outage else signal.reason, is_outage=is_outage)
        self._wake()

    def release_waiters(self) -> None:
        """Let everybody go who waits, and refuse everybody who comes."""
        self._is_draining = True
        for woken in self._waiters:
            if not woken.done():
                woken.set_exception(WaitersReleasedError())

    # --- ScopeView --------------------------------------------------------------------------------

    def blocked_for_s(self) -> float:
        """Return how long the scope stays blocked, in fake seconds."""
        return max(0.0, self._blocked_until_s - self._now_s)

    def circuit(self) -> Circuit | None:
        """Return the open circuit."""
        if self._open is None:
            return None
        return Circuit(
            reason=self._open.reason,
            open_for_s=self._now_s - self._open.opened_at_s,
            next_probe_s=self._open.next_probe_s(self._now_s),
        )

    def wants_probe(self) -> bool:
        """Whether a probe is due and nobody waits who would make it."""
        return self._open is not None and self._obstacle() is None and not self._waiters

    # --- its own ----------------------------------------------------------------------------------

    def _obstacle(self, ask: Ask | None = None) -> Blocked | None:
        """Return what is in the way; of a due probe only that the ask has the patience for none."""
        blocked_s = self.blocked_for_s()
        if self._open is None:
            return Blocked(wait_s=blocked_s) if blocked_s > 0 else None
        wait_s = max(blocked_s, self._open.next_probe_s(self._now_s))
        is_impatient = ask is not None and ask.patience_s is not None
        return Blocked(wait_s=wait_s, cause=Dimension.CIRCUIT) if wait_s > 0 or is_impatient else None

    def _grant(self, ask: Ask, waited_s: float) -> Permit:
        permit = Permit(
            id=f"{self.scope}-{len(self.granted)}",
            scope=self.scope,
            cost=ask.cost,
            waited_s=waited_s,
            is_probe=self._open is not None,
        )
        self.granted.append(permit)
        if self._open is not None:
            self._open.probing(permit, self._now_s)
            self._wake()
        return permit

    def _judge(self, permit: Permit, signal: Signal, open_circuit: _OpenCircuit) -> None:
        """Close the circuit or wait longer for the next probe; calls of before its opening say nothing."""
        if self.granted.index(permit) < open_circuit.calls_before:
            return
        answered = signal.kind is SignalKind.ALIVE or (open_circuit.is_outage and signal.kind in _REFUSALS)
        if answered:
            self._open = None
        else:
            open_circuit.probe_failed(self._now_s)

    def _wake(self) -> None:
        """Let every waiter look again; the first of them takes a probe that is due."""
        for woken in self._waiters:
            if not woken.done():
                woken.set_result(None)


@dataclass(slots=True, kw_only=True)
class _OpenCircuit:
    reason: str
    is_outage: bool
    opened_at_s: float
    probe_at_s: float
    calls_before: int
    delay_s: float = _FIRST_PROBE_S
    probe: Permit | None = None

    def next_probe_s(self, now_s: float) -> float:
        return max(0.0, self.probe_at_s - now_s)

    def probing(self, permit: Permit, now_s: float) -> None:
        """Keep all others waiting for one call, but not for ever: its process may die of it."""
        self.probe = permit
        self.probe_at_s = now_s + _MOST_PROBE_S

    def probe_was_not_made(self, now_s: float) -> None:
        self.probe = None
        self.probe_at_s = now_s

    def probe_failed(self, now_s: float) -> None:
        self.probe = None
        self.delay_s = min(2 * self.delay_s, _MOST_PROBE_S)
        self.probe_at_s = now_s + self.delay_s


class _Outage:
    """Counts calls that failed in a row, with no other kind of signal between them."""

    def __init__(self) -> None:
        self._calls = 0
        self._events: set[str] = set()
        self._since_s = 0.0

    def see(self, signal: Signal, now_s: float) -> bool:
        """Return whether the calls so far make an outage."""
        if signal.kind is not SignalKind.DOWN:
            self._calls, self._events = 0, set()
            return False
        if not self._calls:
            self._since_s = now_s
        self._calls += 1
        self._events.add(signal.event)
        return (
            self._calls >= _OUTAGE_CALLS
            and len(self._events) >= _OUTAGE_EVENTS
            and now_s - self._since_s >= _OUTAGE_LEAST_S
        )


def _block_s(signal: Signal) -> float:
    """A rate limit that names no time is taken for one second; an overload that names none blocks nobody."""
    if signal.retry_after_s is not None:
        return signal.retry_after_s
    return 0.0 if signal.kind is SignalKind.OVERLOADED else _UNNAMED_BLOCK_S
