"""Metric families whose labels stay within their sets, and what is to be said of each family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from sluicegate.telemetry.labels import Label

PREFIX = "sluicegate_"


class _Closed(MetricWrapperBase):
    """Counts a value that a label's set does not have as `other`."""

    closed: Sequence[Label] = ()

    def labels(self, *values: Any, **named: Any) -> Self:
        """Return the series of these values, in the order of the labels or by their names."""
        given = dict(zip(self._labelnames, values, strict=True)) if values else named
        known = {
            label.name: label.known(str(given[label.name])) for label in self.closed if label.name in given
        }
        return super().labels(**(given | known))


class ClosedCounter(_Closed, Counter):
    """A counter with closed labels."""


class ClosedGauge(_Closed, Gauge):
    """A gauge with closed labels."""


class ClosedHistogram(_Closed, Histogram):
    """A histogram with closed labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What documentation, dashboards and alerts need to know of a metric."""

    name: str
    kind: str
    meaning: str
    labels: tuple[Label, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its series have in Prometheus."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)


class Families:
    """Makes the metrics of one registry, and remembers what each is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.made: list[Family] = []

    def counter(self, name: str, meaning: str, *labels: Label) -> ClosedCounter:
        """Make a counter; its name in Prometheus ends in `_total`."""
        made = ClosedCounter(PREFIX + name, meaning, _names(labels), registry=self._registry)
        made.closed = labels
        self._note(f"{name}_total", "counter", meaning, labels)
        return made

    def gauge(self, name: str, meaning: str, *labels: Label) -> ClosedGauge:
        """Make a gauge."""
        made = ClosedGauge(PREFIX + name, meaning, _names(labels), registry=self._registry)
        made.closed = labels
        self._note(name, "gauge", meaning, labels)
        return made

    def histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: Label) -> ClosedHistogram:
        """Make a histogram with these upper bounds."""
        made = ClosedHistogram(
            PREFIX + name, meaning, _names(labels), buckets=buckets, registry=self._registry
        )
        made.closed = labels
        self._note(name, "histogram", meaning, labels)
        return made

    def _note(self, name: str, kind: str, meaning: str, labels: tuple[Label, ...]) -> None:
        self.made.append(Family(name=PREFIX + name, kind=kind, meaning=meaning, labels=labels))


def _names(labels: Sequence[Label]) -> tuple[str, ...]:
    return tuple(label.name for label in labels)
