"""Every metric that Sluicegate exports. Labels come from closed sets; nothing of an event is ever one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_CALL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_WAIT_BUCKETS_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LATENESS_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3, 1, 5, 30)


class Metrics:
    """One registry with every metric of one process. Two instances never share anything."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.taken = self._counter("events_taken", "Records handed to Take", "stream", "source")
        self.ended = self._counter("events_ended", "Events ended, by kind", "stream", "kind")
        self.dead_letters = self._counter("dead_letters", "Dead letters, by reason", "stream", "reason")
        self.stale = self._counter("stale_copies", "Records whose event had ended or moved on", "stream")
        self.parked = self._counter(
            "events_parked", "Events sent to a retry tier", "stream", "tier", "source"
        )
        self.repairs = self._counter("repairs", "Things found broken and mended, by kind", "stream", "kind")
        self.calls = self._counter("llm_calls", "Calls sent to a provider, by outcome", "scope", "outcome")
        self.call_seconds = self._histogram("llm_call_seconds", "Time on the wire", _CALL_BUCKETS_S, "scope")
        self.tokens = self._counter("llm_tokens", "Tokens by the provider's own count", "scope", "direction")
        self.limiter_wait_seconds = self._histogram(
            "limiter_wait_seconds", "From asking for a permit to its start", _WAIT_BUCKETS_S, "scope", "lane"
        )
        self.limiter_blocked_seconds = self._gauge(
            "limiter_blocked_seconds", "How long the scope stays blocked", "scope"
        )
        self.limiter_waiting = self._gauge("limiter_waiting", "Calls waiting for a permit", "scope")
        self.limiter_circuit_open = self._gauge(
            "limiter_circuit_open", "1 while the scope's circuit is open", "scope", "reason"
        )
        self.limiter_limit = self._gauge(
            "limiter_limit_per_minute", "Limits that headers changed, as followed", "scope", "dimension"
        )
        self.limiter_in_force = self._gauge(
            "limiter_in_force_per_minute", "Limits that calls are booked on", "scope", "dimension"
        )
        self.limiter_safe_factor = self._gauge(
            "limiter_safe_factor", "Part of the limit that is used: below 1 after 429s", "scope"
        )
        self.limiter_state_lost = self._counter(
            "limiter_state_lost", "Times that Redis had forgotten debts and days", "scope"
        )
        self.redis_up = self._gauge("redis_up", "1 while Redis answers this process")
        self.running = self._gauge("events_running", "Events at work", "stream")
        self.admitted = self._gauge("events_admitted", "Events taken and not finished", "stream")
        self.intake_paused = self._gauge("intake_paused", "1 while no fresh events are taken", "stream")
        self.stream_paused = self._gauge("stream_paused", "1 while an operator's pause holds", "stream")
        self.released = self._counter("relay_released", "Records released to due", "stream", "tier")
        self.parked_again = self._counter("relay_parked_again", "Records parked again", "stream", "tier")
        self.lateness_seconds = self._histogram(
            "relay_lateness_seconds", "Release after the due time", _LATENESS_BUCKETS_S, "stream", "tier"
        )
        self.relay_stopped = self._gauge(
            "relay_stopped_partitions", "Partitions whose record cannot be published", "stream", "tier"
        )
        self.waiting_in_tier = self._gauge("relay_waiting", "Records in the relay's heap", "stream", "tier")
        self.relay_bytes = self._gauge("relay_waiting_bytes", "Memory of these records", "stream", "tier")
        self.relay_held_back = self._gauge(
            "relay_held_back_partitions",
            "Partitions with records in Kafka that may be due, by what keeps the relay from reading them",
            *("stream", "tier", "bound"),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sluicegate_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sluicegate_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"sluicegate_{name}", text, labels, buckets=buckets, registry=self.registry)
