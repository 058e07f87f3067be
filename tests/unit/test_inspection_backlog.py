"""What offsets and commits say of a stream's events."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consumers.inspection.backlog import Sample, Unfinished, stream_backlog, unfinished
from sluicegate.delivery.done_map import DoneMap, encode
from sluicegate.kafka.admin import Bounds, Committed, Partition
from sluicegate.settings import load_settings
from sluicegate.topics import stream_topics

TOPICS = stream_topics(load_settings(None, {}), "support-chat")


def committed(offset: int, done: Iterable[int] = ()) -> Committed:
    """Make a commit with a done-map."""
    return Committed(offset=offset, metadata=encode(DoneMap.of(offset, done)).text)


@pytest.mark.parametrize(
    ("bounds", "commit", "expected"),
    [
        ((0, 10), None, (10, 0)),
        ((4, 10), None, (6, 0)),
        ((0, 10), committed(10), (0, 0)),
        ((0, 10), committed(7), (3, 0)),
        ((0, 10), committed(2, {4, 5, 8}), (5, 4)),
        ((6, 10), committed(2, {4, 5, 8}), (3, 2)),
        ((0, 0), None, (0, 0)),
        ((12, 12), committed(5), (0, 0)),
    ],
    ids=["never", "deleted", "all", "some", "holes", "deleted below holes", "empty", "deleted beyond"],
)
def test_unfinished_is_what_neither_commit_nor_map_covers(
    bounds: tuple[int, int], commit: Committed | None, expected: tuple[int, int]
) -> None:
    """And what lies below something finished was taken, for workers take in order."""
    found = unfinished(Bounds(low=bounds[0], high=bounds[1]), commit)

    assert found == Unfinished(count=expected[0], taken=expected[1])


def test_a_streams_backlog_adds_up_its_topics() -> None:
    """What remains is in the input, a tier or `due`; the rest is finished."""

    def place(topic: str, number: int = 0) -> Partition:
        return Partition(topic=topic, number=number)

    first_tier, second_tier = TOPICS.tiers[:2]
    sample = Sample(
        bounds={
            place(TOPICS.input): Bounds(low=0, high=20),
            place(TOPICS.input, 1): Bounds(low=0, high=5),
            place(first_tier): Bounds(low=0, high=3),
            place(second_tier): Bounds(low=0, high=2),
            place(TOPICS.due): Bounds(low=0, high=2),
            place(TOPICS.results): Bounds(low=0, high=9),
            place(TOPICS.dlq): Bounds(low=0, high=1),
        },
        committed={
            place(TOPICS.input): committed(10, {12}),
            place(TOPICS.input, 1): committed(5),
            place(first_tier): committed(1, {2}),
            place(TOPICS.due): committed(1),
        },
        due_at_ms={place(first_tier): {0: 50, 1: 900, 2: 70}, place(second_tier): {0: 3000, 1: 2000}},
    )

    backlog = stream_backlog("support-chat", TOPICS, sample)

    assert (backlog.published, backlog.lag, backlog.running) == (25, 9, 2)
    assert [(tier.parked, tier.next_due_at_ms) for tier in backlog.tiers[:3]] == [
        (1, 900),
        (2, 2000),
        (0, None),
    ]
    assert (backlog.due, backlog.results, backlog.dead_letters) == (1, 9, 1)
    assert (backlog.parked, backlog.remaining, backlog.finished) == (3, 13, 12)
