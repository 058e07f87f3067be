"""How long the oldest dead letter of each stream has lain, against the time that Kafka keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sluicegate.kafka.admin import Partition
from sluicegate.settings import Settings
from sluicegate.telemetry.metrics import Metrics
from sluicegate.topics import stream_topics


class LetterAges:
    """Shows in metrics how old the oldest dead letters are.

    Their age is that of the oldest record which the topic still holds: whether its event has ended otherwise
    since is not asked, because that would take rights to read what customers wrote.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._streams = {stream_topics(settings, stream).dlq: stream for stream in settings.streams}
        self._ages = metrics.oldest_letter_seconds
        for stream in settings.streams:
            metrics.dlq_retention_seconds.labels(stream).set(settings.topics.dlq_retention_s)

    @property
    def topics(self) -> Collection[str]:
        """The topics of dead letters."""
        return self._streams.keys()

    def show(self, oldest_ms: Mapping[Partition, int], now_ms: int) -> None:
        """Show the ages; `oldest_ms` has the time of the oldest record of each partition that holds any."""
        for topic, stream in self._streams.items():
            times_ms = [time_ms for place, time_ms in oldest_ms.items() if place.topic == topic]
            self._ages.labels(stream).set(max(0, now_ms - min(times_ms, default=now_ms)) / 1000)
