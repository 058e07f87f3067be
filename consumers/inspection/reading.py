"""What onlookers read: nothing is ever committed and no group is disturbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consumers.ranges import RangeReader
from sluicegate.kafka.admin import Bounds, Committed, KafkaAdmin, Partition
from sluicegate.settings import Settings
from sluicegate.topics import onlookers_group

_SILENCE_S = 10.0


def onlooker(settings: Settings) -> RangeReader:
    """Return a reader for a command that only looks."""
    return RangeReader(
        settings.kafka,
        client_id="sluicegate-inspector",
        group=onlookers_group(settings),
        silence_s=_SILENCE_S,
    )


def partitions_of(topics: Iterable[str], counts: Mapping[str, int]) -> list[Partition]:
    """Return every partition of the topics; one that is missing has none."""
    return [
        Partition(topic=topic, number=number) for topic in topics for number in range(counts.get(topic, 0))
    ]


def unfinished_ranges(
    admin: KafkaAdmin, group: str, places: list[Partition]
) -> tuple[dict[Partition, Bounds], Mapping[Partition, Committed | None]]:
    """Return what lies at or above the group's commits, and the commits, whose maps say what of it is done.

    Bounds come after commits: what was finished in between shows as unfinished, never the reverse.
    """
    committed = admin.committed(group, places)
    bounds = admin.bounds(places)
    ranges = {}
    for place, bound in bounds.items():
        found = committed[place]
        low = bound.low if found is None else max(bound.low, found.offset)
        ranges[place] = Bounds(low=min(low, bound.high), high=bound.high)
    return ranges, committed
