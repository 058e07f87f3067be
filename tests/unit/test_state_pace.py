"""When scripts wait for company on their way to Redis, and when they do not."""

from __future__ import annotations

import pytest

from sluicegate.state.scripts import _Pace

APART_S = 0.002


def _waits(rounds: int, *, calls: int, every_s: float) -> list[float]:
    """Return for how long each of these round trips would have kept the next one back, in seconds."""
    pace, waits = _Pace(), []
    for number in range(rounds):
        now = 100.0 + number * every_s
        pace.sent(calls, now)
        waits.append(pace.next_at - now)
    return waits


def test_the_scripts_of_a_lone_event_wait_for_nothing() -> None:
    """Six, one after the other, and the next event's 50 ms later."""
    assert _waits(6, calls=1, every_s=0.001) == [0.0] * 6
    assert _waits(100, calls=1, every_s=0.008) == [0.0] * 100


@pytest.mark.parametrize("calls", [1, 2, 20])
def test_a_busy_process_makes_its_round_trips_2_ms_apart(calls: int) -> None:
    """However few each of them carries: that they are few is what being apart mends."""
    waits = _waits(1000, calls=calls, every_s=max(0.0005, APART_S * (calls > 2)))
    assert waits[20:] == pytest.approx([APART_S] * 980)


def test_after_a_rush_nothing_waits_for_longer_than_a_moment() -> None:
    """What was sent in minutes of load does not count any more 25 ms after it."""
    pace = _Pace()
    for number in range(10_000):
        pace.sent(20, 100.0 + number * APART_S)
    later = 100.0 + 10_000 * APART_S + 0.025
    pace.sent(1, later)
    assert pace.next_at == later
