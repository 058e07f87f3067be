"""What the relay shows of itself in metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.relay.held_partition import HeldPartition, Room
from consumers.relay.plan import Held, Move, Tier
from sluicegate.delivery.done_map import Refusal
from sluicegate.kafka.admin import Partition
from sluicegate.retry.headers import BAD_HEADERS_REASON
from sluicegate.telemetry.labels import Bound, MissedIn, refused_map
from sluicegate.telemetry.metrics import Metrics


class Observer:
    """Counts moves and shows how each tier stands."""

    def __init__(self, tiers: Sequence[Tier], metrics: Metrics) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._metrics = metrics
        labels = {tier.topic: _labels(tier) for tier in tiers}
        # Looking a child up takes longer than counting with it, and is done for every record. And a counter
        # that is not there until it counts hides its first growth from every alert.
        self._released = {topic: metrics.released.labels(*each) for topic, each in labels.items()}
        self._early = {topic: metrics.early_releases.labels(*each) for topic, each in labels.items()}
        self._lateness = {topic: metrics.lateness_seconds.labels(*each) for topic, each in labels.items()}
        for tier in tiers:
            metrics.retention_seconds.labels(*_labels(tier)).set(tier.retention_s)
            metrics.dead_letters.labels(tier.stream, BAD_HEADERS_REASON)
            metrics.records_missed.labels(tier.stream, MissedIn.RETRY)

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

    def missed(self, tier: Tier, count: int) -> None:
        """Count records that Kafka deleted before they were read."""
        self._metrics.records_missed.labels(tier.stream, MissedIn.RETRY).inc(count)

    def moved(self, held: Held, move: Move, sent_ms: int) -> None:
        """Count a confirmed move; a release shows its lateness when it was sent."""
        tier = held.tier
        match move:
            case Move.RELEASED:
                late_s = (sent_ms - held.due_at_ms) / 1000
                self._released[tier.topic].inc()
                self._lateness[tier.topic].observe(max(0.0, late_s))
                if late_s < 0:
                    self._early[tier.topic].inc()
            case Move.PARKED_AGAIN:
                self._metrics.parked_again.labels(*_labels(tier)).inc()
            case Move.DEAD_LETTERED:
                self._metrics.dead_letters.labels(tier.stream, BAD_HEADERS_REASON).inc()

    def look(
        self, partitions: Iterable[HeldPartition], room: Room, ends: Mapping[Partition, int], now_ms: int
    ) -> None:
        """Show each tier as its partitions here are; where nobody knows the end, what is read counts."""
        sights = {topic: _Sight() for topic in self._tiers}
        for partition in partitions:
            place = partition.place
            sights[place.topic].see(partition, room, ends.get(place, 0), now_ms)
        for topic, tier in self._tiers.items():
            self._show(tier, sights[topic])

    def _show(self, tier: Tier, sight: _Sight) -> None:
        metrics, labels = self._metrics, _labels(tier)
        metrics.waiting_in_tier.labels(*labels).set(sight.records)
        metrics.relay_bytes.labels(*labels).set(sight.bytes)
        metrics.relay_stopped.labels(*labels).set(sight.stopped)
        for bound in Bound:
            metrics.relay_held_back.labels(*labels, bound.value).set(sight.held_back[bound])
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
    bytes: int = 0
    stopped: int = 0
    held_back: Counter[Bound] = field(default_factory=Counter)
    parked: int = 0
    oldest_s: float = 0.0
    overdue_s: float = 0.0
    fill: float = 0.0
    span: int = 0
    metadata_bytes: int = 0

    def see(self, partition: HeldPartition, room: Room, end: int, now_ms: int) -> None:
        tracker = partition.tracker
        self.records += partition.records
        self.bytes += partition.bytes
        self.stopped += partition.stopped
        if (bound := partition.held_back_by(now_ms, room)) is not None:
            self.held_back[bound] += 1
        self.parked += tracker.remaining(end)
        self.oldest_s = max(self.oldest_s, partition.oldest_s(now_ms))
        self.overdue_s = max(self.overdue_s, partition.overdue_s(now_ms))
        self.fill = max(self.fill, partition.fill)
        self.span = max(self.span, tracker.span)
        self.metadata_bytes = max(self.metadata_bytes, tracker.metadata_bytes)


def _labels(tier: Tier) -> tuple[str, str]:
    return tier.stream, str(tier.number)
