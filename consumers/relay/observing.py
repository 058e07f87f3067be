"""What the relay shows of itself in metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consumers.relay.held_partition import HeldPartition
from consumers.relay.plan import Held, Move, Tier
from sluicegate.delivery.done_map import Refusal
from sluicegate.kafka.admin import Partition
from sluicegate.retry.headers import BAD_HEADERS_REASON
from sluicegate.telemetry.labels import refused_map
from sluicegate.telemetry.metrics import Metrics


class Observer:
    """Counts moves and shows how each tier stands."""

    def __init__(self, tiers: Sequence[Tier], metrics: Metrics) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._metrics = metrics
        for tier in tiers:
            labels = _labels(tier)
            metrics.retention_seconds.labels(*labels).set(tier.retention_s)
            # A counter that is not there until it counts hides its first growth from every alert.
            metrics.early_releases.labels(*labels)
            metrics.released.labels(*labels)
            metrics.dead_letters.labels(tier.stream, BAD_HEADERS_REASON)

    def polled(self, seconds: float) -> None:
        """Note how long ago the last poll was."""
        self._metrics.poll_gap_seconds.observe(seconds)

    def mended(self, held: Held) -> None:
        """Count a due time that was not believed."""
        if held.mended is not None:
            self._metrics.repairs.labels(held.tier.stream, held.mended.value).inc()

    def refused_map(self, tier: Tier, refusal: Refusal) -> None:
        """Count a done-map that was not believed."""
        self._metrics.repairs.labels(tier.stream, refused_map(refusal)).inc()

    def moved(self, held: Held, move: Move, sent_ms: int) -> None:
        """Count a confirmed move; a release shows its lateness when it was sent."""
        labels = _labels(held.tier)
        match move:
            case Move.RELEASED:
                late_s = (sent_ms - held.due_at_ms) / 1000
                self._metrics.released.labels(*labels).inc()
                self._metrics.lateness_seconds.labels(*labels).observe(max(0.0, late_s))
                self._metrics.early_releases.labels(*labels).inc(late_s < 0)
            case Move.PARKED_AGAIN:
                self._metrics.parked_again.labels(*labels).inc()
            case Move.DEAD_LETTERED:
                self._metrics.dead_letters.labels(held.tier.stream, BAD_HEADERS_REASON).inc()

    def look(self, partitions: Iterable[HeldPartition], ends: Mapping[Partition, int], now_ms: int) -> None:
        """Show each tier as its partitions here are; where nobody knows the end, what is read counts."""
        sights = {topic: _Sight() for topic in self._tiers}
        for partition in partitions:
            sights[partition.place.topic].see(partition, ends.get(partition.place, 0), now_ms)
        for topic, tier in self._tiers.items():
            self._show(tier, sights[topic])

    def _show(self, tier: Tier, sight: _Sight) -> None:
        metrics, labels = self._metrics, _labels(tier)
        metrics.waiting_in_tier.labels(*labels).set(sight.records)
        metrics.relay_stopped.labels(*labels).set(sight.stopped)
        metrics.relay_parked.labels(*labels).set(sight.parked)
        metrics.oldest_parked_seconds.labels(*labels).set(sight.oldest_s)
        metrics.overdue_seconds.labels(*labels).set(sight.overdue_s)
        metrics.window_fill.labels(*labels).set(sight.fill)
        metrics.relay_watermark_lag.labels(*labels).set(sight.span)
        metrics.relay_metadata_bytes.labels(*labels).set(sight.metadata_bytes)


@dataclass(slots=True, kw_only=True)
class _Sight:
    """One tier over all of its partitions that are here: sums of records, else the worst of them."""

    records: int = 0
    stopped: int = 0
    parked: int = 0
    oldest_s: float = 0.0
    overdue_s: float = 0.0
    fill: float = 0.0
    span: int = 0
    metadata_bytes: int = 0

    def see(self, partition: HeldPartition, end: int, now_ms: int) -> None:
        tracker = partition.tracker
        self.records += partition.records
        self.stopped += partition.stopped
        self.parked += tracker.remaining(end)
        self.oldest_s = max(self.oldest_s, partition.oldest_s(now_ms))
        self.overdue_s = max(self.overdue_s, partition.overdue_s(now_ms))
        self.fill = max(self.fill, partition.fill)
        self.span = max(self.span, tracker.span)
        self.metadata_bytes = max(self.metadata_bytes, tracker.metadata_bytes)


def _labels(tier: Tier) -> tuple[str, str]:
    return tier.stream, str(tier.number)
