"""What the relay shows of itself in metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consumers.relay.held_partition import HeldPartition
from consumers.relay.plan import BAD_HEADERS_REASON, Held, Move, Tier
from sluicegate.delivery.done_map import Refusal
from sluicegate.telemetry.metrics import Metrics


class Observer:
    """Counts moves and shows how full each tier's window is."""

    def __init__(self, tiers: Sequence[Tier], metrics: Metrics) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._metrics = metrics

    def mended(self, held: Held) -> None:
        """Count a due time that was not believed."""
        if held.mended is not None:
            self._metrics.repairs.labels(held.tier.stream, held.mended.value).inc()

    def refused_map(self, tier: Tier, refusal: Refusal) -> None:
        """Count a done-map that was not believed."""
        self._metrics.repairs.labels(tier.stream, f"done-map-{refusal.value}").inc()

    def moved(self, held: Held, move: Move, sent_ms: int) -> None:
        """Count a confirmed move; a release shows its lateness when it was sent."""
        tier = held.tier
        labels = (tier.stream, str(tier.number))
        match move:
            case Move.RELEASED:
                self._metrics.released.labels(*labels).inc()
                self._metrics.lateness_seconds.labels(*labels).observe((sent_ms - held.due_at_ms) / 1000)
            case Move.PARKED_AGAIN:
                self._metrics.parked_again.labels(*labels).inc()
            case Move.DEAD_LETTERED:
                self._metrics.dead_letters.labels(tier.stream, BAD_HEADERS_REASON).inc()

    def look(self, partitions: Iterable[HeldPartition]) -> None:
        """Show what each tier has in memory, and how many of its partitions are stopped."""
        held = dict.fromkeys(self._tiers, 0)
        stopped = dict.fromkeys(self._tiers, 0)
        for partition in partitions:
            held[partition.place.topic] += partition.records
            stopped[partition.place.topic] += partition.stopped
        for topic, tier in self._tiers.items():
            labels = (tier.stream, str(tier.number))
            self._metrics.waiting_in_tier.labels(*labels).set(held[topic])
            self._metrics.relay_stopped.labels(*labels).set(stopped[topic])
