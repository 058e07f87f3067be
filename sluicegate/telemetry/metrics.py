"""Every metric that Sluicegate exports. Labels come from closed sets; nothing of an event is ever one.

docs/metrics.md is generated from here: `python -m sluicegate.telemetry.catalogue > docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, ProcessCollector

from sluicegate.telemetry import labels as by
from sluicegate.telemetry.families import PREFIX, ClosedGauge, Families

_CALL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_WAIT_BUCKETS_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LATENESS_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3, 1, 5, 30)
_DUE_BUCKETS_S = (0.05, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 900)
_POLL_BUCKETS_S = (0.11, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One registry with every metric of one process. Two instances never share anything."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)
        families = Families(self.registry)
        self._add_events(families)
        self._add_calls(families)
        self._add_worker(families)
        self._add_relay(families)
        self.families = tuple(families.made)
        self.redis = Availability(self.redis_up, self.redis_away_seconds)

    def expect_stream(self, stream: str) -> None:
        """Show 0 for what may happen to a stream: a series that begins at 1 hides its first growth."""
        for reason in sorted(by.DEAD_BY.values):
            self.dead_letters.labels(stream, reason)
        for kind in sorted(by.END.values):
            self.ended.labels(stream, kind)
        for source in sorted(by.SOURCE.values):
            self.taken.labels(stream, source)
        for source in sorted(by.MISSED_IN.values):
            self.records_missed.labels(stream, source)

    def _add_events(self, make: Families) -> None:
        self.taken = make.counter("events_taken", "Records handed to Take", by.STREAM, by.SOURCE)
        self.records_missed = make.counter(
            "records_missed",
            "Records that Kafka deleted before they were read: stays 0",
            *(by.STREAM, by.MISSED_IN),
        )
        self.ended = make.counter("events_ended", "Events that ended, by kind of end", by.STREAM, by.END)
        self.dead_letters = make.counter(
            "dead_letters", "Dead letters, by reason: any growth is somebody's work", by.STREAM, by.DEAD_BY
        )
        self.stale = make.counter(
            "stale_copies",
            "Records whose event had ended or moved on; some after every crash",
            by.STREAM,
        )
        self.parked = make.counter(
            "events_parked",
            "Events sent to a retry tier, by what set their due time; `reservation`: the limiter's block did",
            *(by.STREAM, by.TIER, by.PARKED_BY),
        )
        self.repairs = make.counter(
            "repairs", "Things found broken or lost, and mended; see below", by.STREAM, by.REPAIR
        )

    def _add_calls(self, make: Families) -> None:
        self.calls = make.counter(
            "llm_calls", "Calls sent to a provider, by what they came to", by.SCOPE, by.OUTCOME
        )
        self.call_seconds = make.histogram(
            "llm_call_seconds", "Time of a call on the wire", _CALL_BUCKETS_S, by.SCOPE
        )
        self.tokens = make.counter(
            "llm_tokens", "Tokens of completed calls, by the provider's count", by.SCOPE, by.DIRECTION
        )
        self.limiter_wait_seconds = make.histogram(
            "limiter_wait_seconds",
            "From asking for a permit to its start: how far demand is above the limit",
            _WAIT_BUCKETS_S,
            *(by.SCOPE, by.LANE),
        )
        self.limiter_blocked_seconds = make.gauge(
            "limiter_blocked_seconds", "How long the scope stays blocked", by.SCOPE
        )
        self.limiter_waiting = make.gauge(
            "limiter_waiting", "Calls of this process that wait for a permit", by.SCOPE
        )
        self.limiter_circuit_open = make.gauge(
            "limiter_circuit_open",
            "1 while the scope's circuit is open and only probes are sent; `outage` waits for the provider, "
            "the others for you",
            *(by.SCOPE, by.CIRCUIT),
        )
        self.limiter_limit = make.gauge(
            "limiter_limit_per_minute",
            "Limits that headers told otherwise than configured; write those down",
            *(by.SCOPE, by.PER_MINUTE),
        )
        self.limiter_in_force = make.gauge(
            "limiter_in_force_per_minute",
            "Limits that calls are booked on, configured or told; the number of workers follows them",
            *(by.SCOPE, by.PER_MINUTE),
        )
        self.limiter_safe_factor = make.gauge(
            "limiter_safe_factor",
            "Part of the limit that is used; staying below 1, it is set too high or others share the quota",
            by.SCOPE,
        )
        self.limiter_state_lost = make.counter(
            "limiter_state_lost", "Times that Redis had forgotten debts and what the day had used", by.SCOPE
        )
        self.redis_up = make.gauge("redis_up", "1 while Redis answers this process")
        self.redis_away_seconds = make.gauge(
            "redis_away_seconds",
            "Since when Redis has not answered: no call starts meanwhile; 0 while it does",
        )

    def _add_worker(self, make: Families) -> None:
        self.running = make.gauge("events_running", "Events at work", by.STREAM)
        self.slots = make.gauge("events_slots", "Events that may be at work: `max_running`", by.STREAM)
        self.admitted = make.gauge("events_admitted", "Events taken and not finished", by.STREAM)
        self.oldest_seconds = make.gauge(
            "events_oldest_seconds",
            "Age of the oldest record taken and not finished, since it was appended to that topic; 0: none",
            *(by.STREAM, by.SOURCE),
        )
        self.due_wait_seconds = make.histogram(
            "due_wait_seconds",
            "From an event's due time to the moment a worker begins with it",
            _DUE_BUCKETS_S,
            by.STREAM,
        )
        self.lag = make.gauge(
            "lag_records",
            "Records of this worker's partitions that are not finished, as Kafka holds them",
            *(by.STREAM, by.SOURCE),
        )
        self.watermark_lag = make.gauge(
            "watermark_lag_records",
            "Offsets from the commit to the end of what was taken, in the partition where they are most",
            *(by.STREAM, by.SOURCE),
        )
        self.metadata_bytes = make.gauge(
            "commit_metadata_bytes",
            "Size of the largest commit's map of what is done; 3072 of 4096 stop its partition's intake",
            *(by.STREAM, by.SOURCE),
        )
        self.intake_paused = make.gauge(
            "intake_paused", "1 while no fresh events are taken: block, circuit or pause", by.STREAM
        )
        self.stream_paused = make.gauge("stream_paused", "1 while an operator's pause holds", by.STREAM)
        self.assigned = make.gauge("assigned_partitions", "Partitions of this worker", by.STREAM, by.SOURCE)
        self.fetch_age_seconds = make.gauge(
            "fetch_age_seconds", "Since records were last asked for, or were not wanted; 20 fail liveness"
        )
        self.heartbeat_age_seconds = make.gauge(
            "heartbeat_age_seconds",
            "Since the group last answered a heartbeat; 0 outside of it, and in a rebalance",
        )
        self.loop_late_seconds = make.gauge(
            "event_loop_late_seconds", "How late the event loop's last tick was; a busy CPU or blocking code"
        )

    def _add_relay(self, make: Families) -> None:
        self.released = make.counter("relay_released", "Records released to `due`", by.STREAM, by.TIER)
        self.parked_again = make.counter(
            "relay_parked_again",
            "Records whose time in the tier was over before they were due",
            by.STREAM,
            by.TIER,
        )
        self.early_releases = make.counter(
            "relay_early_releases", "Records released before their due time: stays 0", by.STREAM, by.TIER
        )
        self.lateness_seconds = make.histogram(
            "relay_lateness_seconds", "Release after the due time", _LATENESS_BUCKETS_S, by.STREAM, by.TIER
        )
        self.relay_stopped = make.gauge(
            "relay_stopped_partitions", "Partitions whose record cannot be published", by.STREAM, by.TIER
        )
        self.waiting_in_tier = make.gauge(
            "relay_waiting", "Records in the relay's memory", by.STREAM, by.TIER
        )
        self.relay_bytes = make.gauge(
            "relay_waiting_bytes", "What the relay's memory holds of its 320 MiB", by.STREAM, by.TIER
        )
        self.relay_held_back = make.gauge(
            "relay_held_back_partitions",
            "Partitions with records in Kafka that may be due, by what keeps the relay from reading them",
            *(by.STREAM, by.TIER, by.HELD_BACK_BY),
        )
        self.relay_parked = make.gauge(
            "relay_parked", "Records of the tier that are not handed on, read or not", by.STREAM, by.TIER
        )
        self.oldest_parked_seconds = make.gauge(
            "relay_oldest_parked_seconds",
            "Age of the tier's oldest record that is not handed on; 0: none",
            *(by.STREAM, by.TIER),
        )
        self.overdue_seconds = make.gauge(
            "relay_overdue_seconds",
            "How long the record that is due the longest has been so; 0: none is due",
            *(by.STREAM, by.TIER),
        )
        self.window_fill = make.gauge(
            "relay_window_fill_ratio",
            "How full the fullest partition's window is; at 1 the next ones wait in Kafka, and may be late",
            *(by.STREAM, by.TIER),
        )
        self.relay_watermark_lag = make.gauge(
            "relay_watermark_lag_records",
            "Offsets from the commit to the end of what was read, in the partition where they are most",
            *(by.STREAM, by.TIER),
        )
        self.relay_metadata_bytes = make.gauge(
            "relay_commit_metadata_bytes",
            "Size of the largest commit's map of what is done; 3072 of 4096 stop its partition's intake",
            *(by.STREAM, by.TIER),
        )
        self.retention_seconds = make.gauge(
            "relay_retention_seconds", "How long the tier is configured to keep a record", by.STREAM, by.TIER
        )
        self.oldest_letter_seconds = make.gauge(
            "relay_oldest_dead_letter_seconds",
            "Age of the oldest record in the DLQ, also when its event has ended otherwise since; 0: none",
            by.STREAM,
        )
        self.dlq_retention_seconds = make.gauge(
            "relay_dlq_retention_seconds", "How long the DLQ is configured to keep a record", by.STREAM
        )
        self.poll_gap_seconds = make.histogram(
            "relay_poll_gap_seconds", "From one poll of Kafka to the next", _POLL_BUCKETS_S
        )


class Availability:
    """Whether a service answers this process, and since when it does not. Safe in several threads."""

    def __init__(
        self, up: ClosedGauge, away_seconds: ClosedGauge, now_s: Callable[[], float] = monotonic
    ) -> None:
        """Neither up nor away before the first answer or failure; `now_s` never goes back."""
        self._up = up
        self._now_s = now_s
        self._away_since_s: float | None = None
        self.is_up = False
        away_seconds.set_function(self._away_s)

    def answered(self) -> None:
        """Note that it answers."""
        self._away_since_s = None
        self.is_up = True
        self._up.set(1)

    def went_away(self) -> None:
        """Note that it does not."""
        if self._away_since_s is None:
            self._away_since_s = self._now_s()
        self.is_up = False
        self._up.set(0)

    def _away_s(self) -> float:
        since_s = self._away_since_s
        return 0.0 if since_s is None else self._now_s() - since_s
