"""How many records one fetch may take: no partition, no topic and no fetch beyond what there is room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from faust.types import TP


@dataclass(slots=True, kw_only=True)
class Allowance:
    """The rooms of one fetch.

    `of_partition` bounds each partition by itself, `of_topic` all partitions of a topic together. Topics
    share one pool: the largest of their rooms is all that may be taken by the whole fetch.
    """

    of_partition: Mapping[TP, int]
    of_topic: Mapping[str, int]
    _taken: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.of_partition)

    def open(self) -> Allowance:
        """Return the same without partitions from which nothing may be taken."""
        of_partition = {tp: room for tp, room in self.of_partition.items() if self._left(tp) > 0}
        return Allowance(of_partition=of_partition, of_topic=self.of_topic, _taken=self._taken)

    def least(self) -> int:
        """Return what may be taken from any mixture of the partitions."""
        return min((self._left(tp) for tp in self.of_partition), default=0)

    def share(self, tp: TP, others: Collection[TP]) -> int:
        """Return what may be taken from a partition now, when these others want of the same topic's room."""
        sharing = 1 + sum(other.topic == tp.topic for other in others)
        left = self._topic_left(tp.topic)
        return min(self.of_partition[tp], max(1, left // sharing), left)

    def took(self, tp: TP, count: int) -> None:
        """Note what was taken."""
        self._taken[tp.topic] += count

    def _left(self, tp: TP) -> int:
        return min(self.of_partition[tp], self._topic_left(tp.topic))

    def _topic_left(self, topic: str) -> int:
        whole = max(self.of_topic.values(), default=0)
        return max(0, min(self.of_topic[topic] - self._taken[topic], whole - self._taken.total()))
