"""What this process knows of its scope: from the last reply, and from its own calls since."""

from __future__ import annotations

import math

from sluicegate.limiter.api import Circuit, Cost, Dimension
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    WINDOW_US,
    CircuitReason,
    CircuitView,
    PerMinute,
    Quota,
    Reply,
    minute_units,
)

_DRIFT_US_PER_S = 200.0  # more than any two clocks of working machines
_LONGEST_LATENCY_US = 250_000.0

CIRCUIT_REASONS = {
    CircuitReason.OUTAGE: "outage",
    CircuitReason.MONEY: "money",
    CircuitReason.CREDENTIALS: "credentials",
    CircuitReason.NOT_FOUND: "not-found",
}


class BlockView:
    """What this process knows of the scope's block, in the event loop's time.

    It also adds up how long the scope has been blocked at all: only that part of a wait counts against
    a waiter's patience.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._until = 0.0
        self._ended_s = 0.0

    def see(self, until: float, now: float) -> None:
        """Learn that the scope is blocked until then; never shortens what is known."""
        if now >= self._until:
            self._ended_s += self._until - self._since
            self._since = self._until = now
        self._until = max(self._until, until)

    def lift(self, now: float) -> None:
        """Learn that the block is over."""
        self._until = max(self._since, min(self._until, now))

    def remaining_s(self, now: float) -> float:
        """Return how long the block lasts from now."""
        return max(0.0, self._until - now)

    def total_s(self, now: float) -> float:
        """Return how long the scope has been blocked so far, over all blocks."""
        return self._ended_s + min(now, self._until) - self._since


class Sight:
    """The scope as it looked at the last reply. Times are the event loop's, unless they end in `_us`.

    Not even a booked call may start before `void_until`: a provider's block, where `block` may be that of a
    used-up day.
    """

    def __init__(self, quota: Quota) -> None:
        self.block = BlockView()
        self.blocked_by = Dimension.BLOCKED
        self.blocked_until_us = 0
        self.void_until_us = 0
        self.void_until = 0.0
        self.generation = 0
        self.is_leasing = quota.concurrency is not None
        self.wants_answers = False
        self.limits = quota.per_minute
        self.raised_us = (0, 0, 0, 0)
        self.has_probe = False
        self._quota = quota
        self._circuit: CircuitView | None = None
        self._offset_us = -math.inf
        self._seen_at = 0.0

    def see(self, reply: Reply, now: float) -> bool:
        """Take a reply in; return whether waiting calls may have reason to ask again at once."""
        before = (self.generation, self.blocked_until_us, self._circuit, self.limits)
        self._compare_clocks(reply.now_us, now)
        self.generation = reply.generation
        self.is_leasing, self.wants_answers = reply.is_leasing, reply.wants_answers
        self.has_probe, self._circuit = reply.has_probe, reply.circuit
        self.raised_us = reply.raised_us
        self.limits = _limits(reply.learnt, self._quota)
        if reply.void_until_us != self.void_until_us:
            self.void_until_us = reply.void_until_us
            self.void_until = max(self.void_until, self.loop_time(reply.void_until_us))
        if reply.blocked_until_us != self.blocked_until_us:
            if self.blocked_by in DAY_DIMENSIONS:  # its limit was raised: no provider asked for that block
                self.block.lift(now)
            self.blocked_until_us, self.blocked_by = reply.blocked_until_us, reply.blocked_by
            if reply.blocked_until_us > reply.now_us:
                self.block.see(self.loop_time(reply.blocked_until_us), now)
        return before != (self.generation, self.blocked_until_us, self._circuit, self.limits)

    def refused(self, until: float, now: float) -> None:
        """Learn from a call of this process that the provider blocks the scope until then."""
        self.block.see(until, now)
        self.void_until = max(self.void_until, until)

    def redis_us(self, now: float) -> int:
        """Return Redis's time, as far as is known; never later than it is."""
        return int(now * 1e6 + self._offset_us)

    def loop_time(self, redis_us: int) -> float:
        """Return the event loop's time of a moment of Redis's; never earlier than it is."""
        return (redis_us - self._offset_us) / 1e6

    def _compare_clocks(self, redis_us: int, now: float) -> None:
        """Keep the reply that came fastest: what others took longer is the network's doing, not the clock's.

        If starts were counted from each reply's arrival, calls would start later while Redis is slow, and
        those booked behind them would meet them when it is fast again.
        """
        offset_us = redis_us - now * 1e6
        drifted_us = self._offset_us - (now - self._seen_at) * _DRIFT_US_PER_S
        is_stepped_back = offset_us < drifted_us - _LONGEST_LATENCY_US
        self._offset_us = offset_us if is_stepped_back else max(offset_us, drifted_us)
        self._seen_at = now

    def circuit(self, now: float) -> Circuit | None:
        """Return the open circuit."""
        if self._circuit is None:
            return None
        now_us = self.redis_us(now)
        return Circuit(
            reason=CIRCUIT_REASONS[self._circuit.reason],
            open_for_s=max(0, now_us - self._circuit.since_us) / 1e6,
            next_probe_s=max(0, self._circuit.probe_at_us - now_us) / 1e6,
        )

    @property
    def is_limited(self) -> bool:
        """Whether calls need a booking."""
        return self._quota.is_limited or any(self.limits) or self.is_leasing or self._circuit is not None

    def time_us(self, cost: Cost) -> float:
        """Return what the cost takes on its scarcest dimension, in time of refill; 0 without a rate."""
        return max(
            units * WINDOW_US / limit if limit > 0 else 0.0
            for units, limit in zip(minute_units(cost), self.limits, strict=True)
        )

    def starts_within(self, cost: Cost, seconds: float) -> int:
        """Return how many calls of that cost may start within the time, at least one."""
        return max(1, math.ceil(seconds * 1e6 / max(1.0, self.time_us(cost))))


def _limits(learnt: PerMinute, quota: Quota) -> PerMinute:
    requests, tokens, input_tokens, output_tokens = (
        told or configured for told, configured in zip(learnt, quota.per_minute, strict=True)
    )
    return (requests, tokens, input_tokens, output_tokens)
