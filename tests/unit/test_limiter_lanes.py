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
    """Three processes hungry on each lane, 2 minutes: bulk's share is as configured within a fifth of it.

    Within a lane processes get equal parts of it.
    """
    crowd = _crowd(_with_share(quota, share), interactive=3, bulk=3)
    crowd.run(120)
    assert _share(crowd, Lane.BULK) == pytest.approx(share, rel=0.2)
    counts = _counts(crowd)
    assert min(_jain(counts[:3]), _jain(counts[3:])) >= 0.95, counts
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
    counts = _counts(crowd)
    assert min(counts) >= 0.9 * max(counts)


@pytest.mark.parametrize(
    ("slots", "processes", "call_s", "lane"),
    [
        (4, 2, 0.2, Lane.INTERACTIVE),
        (4, 6, 0.2, Lane.BULK),
        (10, 6, 0.5, Lane.INTERACTIVE),
        (1, 2, 0.2, Lane.BULK),
        (10, 4, 2.0, Lane.BULK),
    ],
)
def test_places_go_to_hungry_processes_in_equal_parts(
    slots: int, processes: int, call_s: float, lane: Lane
) -> None:
    """Also to one that comes when all are taken; for at most 4 questions a call, and few places are empty."""
    crowd = Crowd(Quota(concurrency=slots), processes=processes, width=200)
    crowd.provider = lambda call: Outcome(latency_us=int(crowd.random.uniform(0.8, 1.2) * call_s * SECOND_US))
    for process in crowd.processes[1:]:
        process.hungry[lane] = Cost
    crowd.run(10)
    crowd.processes[0].hungry[lane] = Cost
    crowd.run(2)
    from_us, before = crowd.now_us, crowd.sends
    crowd.run(60)

    calls = [call for call in crowd.calls if call.start_us >= from_us]
    counts = _counts(crowd, from_us)
    assert _jain(counts) >= 0.95, counts
    assert len(calls) * call_s >= 0.93 * slots * 60
    assert crowd.sends - before - 60 * processes <= 4 * len(calls)


def test_bulk_processes_take_turns_with_what_they_may_book_ahead() -> None:
    """Half a second ahead is room for 10 of them; 14 that are told to come for it all get their part."""
    crowd = _crowd(_RATES, interactive=0, bulk=14)
    crowd.processes[0].arrive(Lane.INTERACTIVE, Cost())
    crowd.run(40)
    counts = _counts(crowd)
    assert _jain(counts) >= 0.99, counts
    assert (crowd.sends - 40 * len(counts)) / len(crowd.calls) <= 2.2
    assert _use(crowd, 40) >= 0.99


@pytest.mark.parametrize(("interactive", "bulk", "most"), [(6, 0, 1.1), (0, 6, 1.1), (3, 3, 1.8)])
def test_a_call_costs_about_one_script_call(interactive: int, bulk: int, most: float) -> None:
    """Booking answers once; bulk work that waits behind interactive work asks again, but seldom."""
    crowd = _crowd(_RATES, interactive=interactive, bulk=bulk)
    crowd.run(120)
    looks = 120 * len(crowd.processes)
    assert (crowd.sends - looks) / len(crowd.calls) <= most


def _counts(crowd: Crowd, from_us: int = 0) -> list[int]:
    """Return how many calls each process made."""
    made = [call.process for call in crowd.calls if call.start_us >= from_us]
    return [made.count(process.index) for process in crowd.processes]


def _jain(counts: list[int]) -> float:
    """Return Jain's index: 1 when all are equal, 1 / n when one has everything."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))


def _with_share(quota: Quota, share: float) -> Quota:
    return Quota(
        requests_per_minute=quota.requests_per_minute, concurrency=quota.concurrency, bulk_share=share
    )


def _use(crowd: Crowd, seconds: float) -> float:
    """Return the part of the limit that was used: of the rate, or of the places by calls of half a second."""
    if crowd.quota.concurrency is not None:
        return len(crowd.calls) * 0.5 / (crowd.quota.concurrency * seconds)
    return len(crowd.calls) / (seconds * _PER_MINUTE / 60)
