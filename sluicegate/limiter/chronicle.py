"""What operators see of a scope from one process: its metrics, and a log line for each turn of events."""

from __future__ import annotations

import structlog

from sluicegate.limiter.api import Circuit, Lane, Permit, Signal
from sluicegate.limiter.booking import MINUTE_DIMENSIONS, PerMinute, Quota, Reply
from sluicegate.limiter.sight import CIRCUIT_REASONS
from sluicegate.telemetry.labels import OUTCOME
from sluicegate.telemetry.metrics import Metrics

_log = structlog.get_logger()

_WHAT_TO_DO = {
    "outage": "nothing: the provider fails; one event at a time probes until it answers",
    "money": "add credit or raise the spending limit at the provider; a probe notices by itself",
    "credentials": "check api_key_file and what the key may do; the file is read again by itself",
    "not-found": "check base_url and model of the provider",
}


class Chronicle:
    """Tells once what changed. Nothing in it comes from an event or a provider's text."""

    def __init__(self, scope: str, quota: Quota, metrics: Metrics) -> None:
        self._scope = scope
        self._quota = quota
        self._metrics = metrics
        self.waiting = metrics.limiter_waiting.labels(scope)
        self._blocked = metrics.limiter_blocked_seconds.labels(scope)
        self._safe = metrics.limiter_safe_factor.labels(scope)
        self._waits = {lane: metrics.limiter_wait_seconds.labels(scope, lane.name.lower()) for lane in Lane}
        self._circuits = {
            reason: metrics.limiter_circuit_open.labels(scope, reason) for reason in CIRCUIT_REASONS.values()
        }
        metrics.limiter_state_lost.labels(scope)  # a counter that begins at 1 hides its first growth
        for outcome in OUTCOME.values:
            metrics.calls.labels(scope, outcome)
        self._limits = quota.per_minute
        self._show_in_force()
        self._circuit: str | None = None
        self._was_blocked = False
        self._generation = 0

    def started(self) -> None:
        """Say that the scope has no limit, if so."""
        if not self._quota.is_limited:
            _log.warning("limiter.unlimited", scope=self._scope)

    def granted(self, permit: Permit, lane: Lane) -> None:
        """Count a permit's wait."""
        self._waits[lane].observe(permit.waited_s)

    def blocked(self, seconds: float) -> None:
        """Show how long the block lasts."""
        self._blocked.set(seconds)
        self._was_blocked = self._was_blocked and seconds > 0

    def refused(self, signal: Signal, seconds: float) -> None:
        """Say that the scope is blocked, once a block."""
        if seconds > 0 and not self._was_blocked:
            self._was_blocked = True
            _log.warning(
                "limiter.blocked", scope=self._scope, seconds=round(seconds, 3), reason=signal.reason
            )

    def saw(self, reply: Reply, limits: PerMinute, circuit: Circuit | None) -> None:
        """Say what a reply changed: a lost state, a limit that headers told, a circuit."""
        self._safe.set(reply.safe)
        if reply.generation != self._generation:
            if reply.was_lost and self._generation:
                self._metrics.limiter_state_lost.labels(self._scope).inc()
                _log.error("limiter.state-lost", scope=self._scope, forgot="debts and what the day has used")
            self._generation = reply.generation
        if limits != self._limits:
            self._tell_limits(limits)
        reason = circuit.reason if circuit is not None else None
        if reason != self._circuit:
            self._tell_circuit(reason)

    def _tell_limits(self, limits: PerMinute) -> None:
        for dimension, before, now, configured in zip(
            MINUTE_DIMENSIONS, self._limits, limits, self._quota.per_minute, strict=True
        ):
            if before != now:
                self._metrics.limiter_limit.labels(self._scope, dimension.value).set(now)
                _log.warning(
                    "limiter.limit-follows-headers",
                    scope=self._scope,
                    dimension=dimension.value,
                    configured=configured or None,
                    now=now,
                )
        self._limits = limits
        self._show_in_force()

    def _show_in_force(self) -> None:
        """Show the limits, configured or told; one that is not there has no figure, for 0 is a limit."""
        gauge = self._metrics.limiter_in_force
        for dimension, limit in zip(MINUTE_DIMENSIONS, self._limits, strict=True):
            if limit > 0:
                gauge.labels(self._scope, dimension.value).set(limit)
            else:
                gauge.remove(self._scope, dimension.value)

    def _tell_circuit(self, reason: str | None) -> None:
        for name, gauge in self._circuits.items():
            gauge.set(name == reason)
        if reason is None:
            _log.warning("limiter.circuit-closed", scope=self._scope, reason=self._circuit)
        else:
            _log.error(
                "limiter.circuit-open", scope=self._scope, reason=reason, what_to_do=_WHAT_TO_DO[reason]
            )
        self._circuit = reason
