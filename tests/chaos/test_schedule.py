"""A seed is one schedule, and a few dozen of them meet everything."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.faults import LANES, LAST_AT_S, FaultKind, draw_schedule
from tests.chaos.injectors import can_inject


def test_a_seed_always_draws_the_same_schedule() -> None:
    """What failed once can be run again."""
    assert draw_schedule(7) == draw_schedule(7)
    assert draw_schedule(7) != draw_schedule(8)


@pytest.mark.parametrize("first", [1, 40, 1000])
def test_a_few_dozen_seeds_meet_every_fault(first: int) -> None:
    """No row of the list is left to luck."""
    met = {fault.kind for seed in range(first, first + 36) for fault in draw_schedule(seed)}
    assert met == set(FaultKind)


def test_every_fault_belongs_to_one_lane_and_can_be_done() -> None:
    """A fault that nobody injects would pass every run."""
    kinds = [kind for lane in LANES.values() for kind in lane]
    assert sorted(kinds) == sorted(FaultKind)
    assert all(map(can_inject, kinds))


@pytest.mark.parametrize("seed", range(20))
def test_faults_of_a_lane_follow_each_other_and_begin_while_events_come(seed: int) -> None:
    """A fault after the last event would strike nothing."""
    schedule = draw_schedule(seed)
    for lane in LANES:
        own = [fault for fault in schedule if fault.lane is lane]
        assert all(earlier.at_s < later.at_s for earlier, later in pairwise(own))
    assert all(fault.at_s <= LAST_AT_S for fault in schedule)
