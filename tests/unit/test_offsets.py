"""The offset tracker against a brute-force model, and the traps it was written for."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.delivery.done_map import MAX_METADATA_BYTES, MAX_SPAN_OFFSETS, Refusal, decode
from sluicegate.delivery.offsets import METADATA_STOP_SHARE, OffsetTracker


@settings(max_examples=200)
@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40), start=st.integers(0, 5), seed=st.integers(0)
)
def test_commits_match_brute_force_over_many_owners(gaps: list[int], start: int, seed: int) -> None:
    """Over any deliveries, completions, holes and crashes: nothing unfinished is passed or listed as done."""
    chance = random.Random(seed)
    offsets = [start + sum(gaps[: n + 1]) for n in range(len(gaps))]
    end = offsets[-1] + 3  # markers of a transaction at the end
    finished: set[int] = set()
    committed: tuple[int, str] | None = None
    for _ in range(4):
        tracker = OffsetTracker()
        assert tracker.restore(*(committed or (None, ""))) is None
        position = committed[0] if committed else start
        running: list[int] = []
        for _ in range(30):
            ahead = [o for o in offsets if o >= position]
            if ahead and chance.random() < 0.6:
                offset = ahead[0]
                skipped = tracker.already_done(offset)
                tracker.delivered(offset)
                position = offset + 1
                assert not skipped or offset in finished
                if not skipped:
                    running.append(offset)
            elif not ahead and chance.random() < 0.5:
                position = end
                tracker.advance(end)
            elif running:
                offset = running.pop(chance.randrange(len(running)))
                finished.add(offset)
                tracker.done(offset)
            commit = tracker.snapshot()
            if commit is None:
                assert position == start
                continue
            open_offsets = sorted(running)
            assert commit.offset == (open_offsets[0] if open_offsets else position)
            listed = set(decode(commit.offset, commit.metadata).done)
            assert listed == tracker.done_above()
            assert listed & set(offsets) <= finished
            passed = {o for o in offsets if commit.offset <= o < position}
            assert passed - set(running) <= listed
            assert not set(running) & listed
            if chance.random() < 0.7:
                committed = (commit.offset, commit.metadata)
                tracker.confirm(commit)
                assert not tracker.dirty
    if committed is not None:
        assert all(o in finished for o in offsets if o < committed[0])


def test_nothing_known_commits_nothing() -> None:
    """A partition that handed out no record and has no commit keeps having none."""
    tracker = OffsetTracker()
    tracker.restore(None, "")

    assert tracker.watermark() is None
    assert tracker.snapshot() is None
    assert not tracker.dirty


def test_the_position_is_committed_when_all_is_done() -> None:
    """Transaction markers behind the last record leave no lag."""
    tracker = OffsetTracker()
    tracker.delivered(10)
    tracker.done(10)
    assert tracker.watermark() == 11
    commit = tracker.snapshot()
    assert commit is not None
    tracker.confirm(commit)

    tracker.advance(14)

    assert tracker.watermark() == 14
    assert tracker.dirty


def test_a_position_never_passes_what_is_unfinished() -> None:
    """The unfinished event is delivered again after a crash, wherever the position is."""
    tracker = OffsetTracker()
    tracker.delivered(10)
    tracker.advance(50)

    commit = tracker.snapshot()

    assert commit is not None
    assert commit.offset == 10


def test_finishing_what_was_never_delivered_changes_nothing() -> None:
    """A late ack of a former assignment is no reason to commit."""
    tracker = OffsetTracker()
    tracker.delivered(3)
    tracker.done(99)

    assert tracker.watermark() == 3
    assert not tracker.dirty


def test_what_the_former_owner_finished_stays_in_the_map_until_delivered() -> None:
    """A second crash right after the first one still does not run it again."""
    first = OffsetTracker()
    for offset in range(10):
        first.delivered(offset)
    for offset in (3, 7, 9):
        first.done(offset)
    commit = first.snapshot()
    assert commit is not None
    second = OffsetTracker()
    second.restore(commit.offset, commit.metadata)
    second.delivered(0)
    second.done(0)

    again = second.snapshot()

    assert again is not None
    assert again.offset == 1
    third = OffsetTracker()
    third.restore(again.offset, again.metadata)
    assert [o for o in range(12) if third.already_done(o)] == [3, 7, 9]


def test_skipping_what_is_done_moves_the_watermark() -> None:
    """A record that the former owner finished counts as finished as soon as it is delivered."""
    tracker = OffsetTracker()
    former = OffsetTracker()
    for offset in range(3):
        former.delivered(offset)
    former.done(1)
    former.done(2)
    commit = former.snapshot()
    assert commit is not None
    tracker.restore(commit.offset, commit.metadata)
    for offset in range(3):
        tracker.delivered(offset)
    tracker.done(0)

    assert tracker.watermark() == 3
    assert tracker.unfinished == 0


def test_a_foreign_map_is_named_and_the_offset_kept() -> None:
    """The commit's offset counts even when its metadata is somebody else's."""
    tracker = OffsetTracker()

    refusal = tracker.restore(5, "who wrote this")

    assert refusal is Refusal.UNKNOWN_VERSION
    assert tracker.watermark() == 5
    assert not tracker.already_done(6)


def test_a_log_that_went_back_is_run_again() -> None:
    """After a truncation the offsets name other records: what was known of them is forgotten, and counted."""
    tracker = OffsetTracker()
    for offset in (100, 101, 102):
        tracker.delivered(offset)
    tracker.done(100)

    tracker.delivered(4)

    assert tracker.rewinds == 1
    assert tracker.watermark() == 4
    assert tracker.done_above() == frozenset()


def test_delivering_an_unfinished_record_twice_is_harmless() -> None:
    """A repeated delivery within one ownership neither rewinds nor finishes anything."""
    tracker = OffsetTracker()
    tracker.delivered(1)
    tracker.delivered(2)
    tracker.delivered(1)

    assert tracker.rewinds == 0
    assert tracker.unfinished == 2


def test_a_commit_that_was_not_confirmed_stays_to_be_made() -> None:
    """A rejected commit is repeated; one that is overtaken by new work too."""
    tracker = OffsetTracker()
    tracker.delivered(1)
    tracker.delivered(2)
    tracker.done(1)
    commit = tracker.snapshot()
    assert commit is not None
    assert tracker.dirty
    tracker.done(2)

    tracker.confirm(commit)

    assert tracker.dirty


def test_intake_that_heeds_the_share_never_loses_a_map() -> None:
    """At random completions behind a stuck event intake stops at 75 % and the map always fits."""
    chance = random.Random(3)
    tracker = OffsetTracker()
    running: list[int] = []
    offset = 0
    while not tracker.must_stop:
        tracker.delivered(offset)
        if offset and chance.random() < 0.5:
            tracker.done(offset)
        else:
            running.append(offset)
        offset += chance.choice((1, 1, 2, 9))  # holes
    commit = tracker.snapshot()

    assert commit is not None
    assert METADATA_STOP_SHARE <= tracker.metadata_share < 0.9
    assert len(commit.metadata) <= MAX_METADATA_BYTES
    assert tracker.truncated_maps == 0
    chance.shuffle(running)
    for count, finished in enumerate(running):
        tracker.done(finished)
        if count % 50 == 0:
            tracker.snapshot()
    assert tracker.truncated_maps == 0


def test_a_map_that_must_be_cut_is_counted_and_stops_intake() -> None:
    """Against a broker with a lower limit the map is cut at its high end: repeats, and a count that tells."""
    tracker = OffsetTracker(max_metadata_bytes=60)
    for offset in range(4_000):
        tracker.delivered(offset)
    for offset in random.Random(5).sample(range(1, 4_000), 2_000):
        tracker.done(offset)

    commit = tracker.snapshot()

    assert commit is not None
    assert len(commit.metadata) <= 60
    assert tracker.truncated_maps == 1
    assert tracker.must_stop
    listed = set(decode(0, commit.metadata).done)
    assert listed
    assert listed <= tracker.done_above()


def test_reach_alone_stops_intake_before_the_map_may_not_grow() -> None:
    """All done but the first compresses to nothing, yet a map may only reach so far."""
    tracker = OffsetTracker()
    tracker.delivered(0)
    tracker.advance(MAX_SPAN_OFFSETS * 8 // 10)
    tracker.snapshot()

    assert tracker.must_stop


def test_a_map_never_reaches_farther_than_the_next_owner_would_believe() -> None:
    """Beyond the reach nothing is listed, which costs repeats, and it is counted."""
    tracker = OffsetTracker()
    tracker.delivered(0)
    tracker.advance(MAX_SPAN_OFFSETS + 50)

    commit = tracker.snapshot()

    assert commit is not None
    assert tracker.truncated_maps == 1
    assert decode(0, commit.metadata).refusal is None
    assert tracker.metadata_share == 1.0
    assert MAX_SPAN_OFFSETS not in tracker.done_above()


def test_memory_follows_what_is_unfinished_and_not_the_distance() -> None:
    """A stuck event with a hundred thousand finished behind it leaves two numbers in memory, not as many."""
    tracker = OffsetTracker()
    tracker.delivered(0)
    for offset in range(1, 100_000):
        tracker.delivered(offset)
        tracker.done(offset)

    assert tracker.unfinished == 1
    assert tracker.watermark() == 0
    commit = tracker.snapshot()
    assert commit is not None
    assert len(commit.metadata) < 100
