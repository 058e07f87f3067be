"""Interactive work goes first, bulk work keeps its share, and neither leaves anything unused."""

from __future__ import annotations

import pytest

from sluicegate.limiter.api import Cost, Dimension, Lane
from sluicegate.limiter.booking import Batch, BookingRef, Quota, Request, Settlement, Verdict
from tests.unit.limiter_crowd import Crowd
from tests.unit.limiter_process import SECOND_US, Outcome

_PER_MINUTE = 1_200
_CALL_US = 60 * SECOND_US // _PER_MINUTE
_RATES = Quota(requests_per_minute=_PER_MINUTE)
_SLOTS = Quota(concurrency=10)


def _crowd(quota: Quota, *, interactive: int, bulk: int, seed: int = 1) -> Crowd:
    """Return a crowd in which so many processes are hungry on each lane."""
    crowd = Crowd(quota, processes=interactive + bulk, width=200, seed=seed)
    # Equal latencies would keep the processes in step, which no real ones are.
    crowd.provider = lambda call: Outcome(latency_us=crowd.random.randrange(400_000, 600_000))
    for process in crowd.processes:
        lane = Lane.INTERACTIVE if process.index < interactive else Lane.BULK
        process.hungry[lane] = Cost
    return crowd


def _share(crowd: Crowd, lane: Lane, from_us: int = 0) -> float:
    calls = [call for call in crowd.calls if call.start_us >= from_us]
    return sum(call.lane is lane for call in calls) / len(calls)


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("quota", [_RATES, _SLOTS], ids=["rates", "slots"])
def test_bulk_gets_its_share_beside_hungry_interactive_work(quota: Quota, share: float) -> None:
    """Three processes hungry on each lane, 2 minutes: bulk's share is as configured within a fifth of it."""
    crowd = _crowd(_with_share(quota, share), interactive=3, bulk=3)
    crowd.run(120)
    assert _share(crowd, Lane.BULK) == pytest.approx(share, rel=0.2)
    assert _use(crowd, 120) >= 0.97


@pytest.mark.parametrize("quota", [_RATES, _SLOTS], ids=["rates", "slots"])
@pytest.mark.parametrize(("interactive", "bulk"), [(3, 0), (0, 3)])
def test_a_lane_alone_gets_everything(quota: Quota, interactive: int, bulk: int) -> None:
    """The share is a guarantee and no bound: either lane by itself uses 99 % of the rate."""
    crowd = _crowd(quota, interactive=interactive, bulk=bulk)
    crowd.run(120)
    assert _use(crowd, 120) >= (0.99 if quota is _RATES else 0.97)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_rare_interactive_call_waits_half_a_second_at_most(seed: int) -> None:
    """About one a second beside 20 hungry bulk processes: p99 of its waits is 0.5 s and two calls."""
    crowd = _crowd(_RATES, interactive=0, bulk=20, seed=seed)
    asking = crowd.processes[seed]
    # Before any interactive call was seen, bulk work books as far ahead as it likes.
    asking.arrive(Lane.INTERACTIVE, Cost())
    crowd.run(10)
    from_us = crowd.now_us
    for _ in range(100):
        crowd.run(crowd.random.uniform(0.7, 1.3))  # each by itself: a second one asks after the first
        asking.arrive(Lane.INTERACTIVE, Cost())
    crowd.run(5)
    calls = [call for call in crowd.calls if call.lane is Lane.INTERACTIVE and call.start_us >= from_us]
    waits = sorted(call.waited_us for call in calls)
    assert len(waits) == 100
    assert waits[98] <= 500_000 + 2 * _CALL_US
    assert _use(crowd, crowd.calls[-1].start_us / 1e6 - crowd.calls[0].start_us / 1e6) >= 0.98


def test_without_a_share_bulk_starves_only_while_interactive_work_is_hungry() -> None:
    """With `bulk_share` 0 no bulk call goes beside a hungry lane, and all go within a second of its end."""
    crowd = _crowd(_with_share(_RATES, 0), interactive=2, bulk=2)
    crowd.run(10)
    hungry_from_us = crowd.now_us
    crowd.run(60)
    assert _share(crowd, Lane.BULK, hungry_from_us) == 0

    for process in crowd.processes[:2]:
        process.hungry.clear()
    crowd.run(1)
    fed_from_us, before = crowd.now_us, len(crowd.calls)
    crowd.run(60)
    assert _share(crowd, Lane.BULK, fed_from_us) == 1
    assert len(crowd.calls) - before >= 0.99 * _PER_MINUTE


def test_a_place_that_interactive_work_asked_for_is_not_taken_by_bulk_work() -> None:
    """Who was told to ask again for a place on the wire finds it, though bulk work asks sooner."""
    crowd = Crowd(Quota(concurrency=1, bulk_share=0))
    first, urgent, bulk = (
        Batch(requests=(Request(cost=Cost(), lane=lane),))
        for lane in (Lane.BULK, Lane.INTERACTIVE, Lane.BULK)
    )
    reply = crowd.send(0, first)
    assert crowd.send(1, urgent).answers[0].dimension is Dimension.CONCURRENCY
    held = BookingRef(generation=reply.generation, number=reply.answers[0].number)
    freed = Settlement(booking=held, extra=Cost(requests=0), is_released=True)
    crowd.send(0, Batch(settlements=(freed,)))
    assert crowd.send(2, bulk).answers[0].dimension is Dimension.LANE
    assert crowd.send(1, urgent).answers[0].verdict is Verdict.BOOKED


def test_hungry_processes_of_a_lane_get_equal_parts() -> None:
    """Eight processes hungry on one lane: nobody gets a tenth more calls than another."""
    crowd = _crowd(_RATES, interactive=8, bulk=0)
    crowd.run(60)
    counts = [sum(call.process == process.index for call in crowd.calls) for process in crowd.processes]
    assert min(counts) >= 0.9 * max(counts)


@pytest.mark.parametrize(("interactive", "bulk", "most"), [(6, 0, 1.1), (0, 6, 1.1), (3, 3, 1.8)])
def test_a_call_costs_about_one_script_call(interactive: int, bulk: int, most: float) -> None:
    """Booking answers once; bulk work that waits behind interactive work asks again, but seldom."""
    crowd = _crowd(_RATES, interactive=interactive, bulk=bulk)
    crowd.run(120)
    looks = 120 * len(crowd.processes)
    assert (crowd.sends - looks) / len(crowd.calls) <= most


def _with_share(quota: Quota, share: float) -> Quota:
    return Quota(
        requests_per_minute=quota.requests_per_minute, concurrency=quota.concurrency, bulk_share=share
    )


def _use(crowd: Crowd, seconds: float) -> float:
    """Return the part of the limit that was used: of the rate, or of the places by calls of half a second."""
    if crowd.quota.concurrency is not None:
        return len(crowd.calls) * 0.5 / (crowd.quota.concurrency * seconds)
    return len(crowd.calls) / (seconds * _PER_MINUTE / 60)
