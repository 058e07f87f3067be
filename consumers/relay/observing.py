"""What the relay shows of itself in metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from consumers.relay.held_partition import Bound, HeldPartition, Room
from consumers.relay.plan import BAD_HEADERS_REASON, Held, Move, Tier
from sluicegate.delivery.done_map import Refusal
from sluicegate.telemetry.metrics import Metrics


class Observer:
    """Counts moves and shows how full each tier's memory is."""

    def __init__(self, tiers: Sequence[Tier], metrics: Metrics) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}
        self._metrics = metrics
        labels = {tier.topic: (tier.stream, str(tier.number)) for tier in tiers}
        # Looking a child up takes longer than counting with it, and is done for every record.
        self._released = {topic: metrics.released.labels(*each) for topic, each in labels.items()}
        self._lateness = {topic: metrics.lateness_seconds.labels(*each) for topic, each in labels.items()}

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
        match move:
            case Move.RELEASED:
                self._released[tier.topic].inc()
                self._lateness[tier.topic].observe((sent_ms - held.due_at_ms) / 1000)
            case Move.PARKED_AGAIN:
                self._metrics.parked_again.labels(tier.stream, str(tier.number)).inc()
            case Move.DEAD_LETTERED:
                self._metrics.dead_letters.labels(tier.stream, BAD_HEADERS_REASON).inc()

    def look(self, partitions: Iterable[HeldPartition], room: Room, now_ms: int) -> None:
        """Show what each tier has in memory, and how many of its partitions are stopped or held back."""
        held: Counter[str] = Counter()
        held_bytes: Counter[str] = Counter()
        stopped: Counter[str] = Counter()
        held_back: Counter[tuple[str, Bound]] = Counter()
        for partition in partitions:
            topic = partition.place.topic
            held[topic] += partition.records
            held_bytes[topic] += partition.bytes
            stopped[topic] += partition.stopped
            if (bound := partition.held_back_by(now_ms, room)) is not None:
                held_back[topic, bound] += 1
        for topic, tier in self._tiers.items():
            labels = (tier.stream, str(tier.number))
            self._metrics.waiting_in_tier.labels(*labels).set(held[topic])
            self._metrics.relay_bytes.labels(*labels).set(held_bytes[topic])
            self._metrics.relay_stopped.labels(*labels).set(stopped[topic])
            for bound in Bound:
                self._metrics.relay_held_back.labels(*labels, bound.value).set(held_back[topic, bound])
