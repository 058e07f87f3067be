"""How the duel judges what it saw."""

from __future__ import annotations

import pytest

from benchmarks.duel.bout import Bout, Load, Sent, Served
from benchmarks.duel.figures import figures, ideal_waits, jain, most_in_a_window, utilisation
from benchmarks.duel.workload import Workload
from sluicegate.local.provider.quota import Enforcement, Limits

_IDLE = Load(seconds=10.0, workers_cpu_s=0.0, judge_cpu_s=0.0, redis_cpu_s=0.0, redis_messages=0, script_us=0)
# 1 request/s and 100 tokens/s, watched for 10 s.
_WORK = Workload(
    processes=2,
    callers=5,
    limits=Limits(enforcement=Enforcement.BUCKET, requests_per_minute=60, tokens_per_minute=6_000, burst_s=1),
    window_s=2.0,
    requests_per_window=2,
    tokens_per_window=200,
    warm_up_s=10.0,
    measured_s=10.0,
    seed=1,
    latency_s=0.0,
    mean_tokens=50.0,
    sigma=0.0,
    largest_call_tokens=1_000,
)


def _bout(
    served: list[tuple[float, int]], refused: list[float] | None = None, process_of: int | None = None
) -> Bout:
    return Bout(
        started_at=-10.0,
        served=tuple(
            Served(
                process=i % 2 if process_of is None else process_of,
                asked_at=at,
                sent_at=at,
                tokens=n,
                refusals=0,
            )
            for i, (at, n) in enumerate(served)
        ),
        pending=(),
        sent=tuple(
            sorted(
                [Sent(at=at, tokens=n, process=0, wait_s=0.0) for at, n in served]
                + [Sent(at=at, tokens=1, process=0, wait_s=1.0) for at in refused or []],
                key=lambda sent: sent.at,
            )
        ),
        judge_round_trips_s=(),
        load=_IDLE,
    )


def test_full_use_of_the_dimension_that_binds_is_one() -> None:
    """Ten calls of a second's tokens each in ten seconds are the whole limit; half of them is half of it."""
    assert utilisation(_bout([(float(at), 100) for at in range(10)]), _WORK) == pytest.approx(1.0)
    assert utilisation(_bout([(float(at), 50) for at in range(0, 10, 2)]), _WORK) == pytest.approx(0.5)


def test_a_large_call_at_an_edge_counts_with_the_part_that_is_refilled_inside() -> None:
    """1000 tokens sent 5 s before the measured time, or 5 s before its end, are half inside."""
    assert utilisation(_bout([(-5.0, 1_000)]), _WORK) == pytest.approx(0.5)
    assert utilisation(_bout([(5.0, 1_000)]), _WORK) == pytest.approx(0.5)


def test_the_most_in_a_window_counts_refused_calls_too() -> None:
    """Three calls within one window of two requests are 1.5 of the limit, whatever the provider said."""
    assert most_in_a_window(_bout([(1.0, 1), (2.5, 1)], refused=[2.6]), _WORK) == pytest.approx(1.5)
    assert most_in_a_window(_bout([(1.0, 1), (3.0, 1)]), _WORK) == pytest.approx(0.5)


def test_only_the_measured_time_is_judged() -> None:
    """A refusal during the warm-up is not counted."""
    bout = _bout([(float(at), 1) for at in range(10)], refused=[-3.0, 4.0])

    assert figures(bout, _WORK).refused_per_1000 == pytest.approx(100.0)


def test_an_ideal_queue_waits_for_all_who_stand_before() -> None:
    """Ten callers of a second's tokens each wait ten seconds when an answer takes no time."""
    bout = _bout([(float(at), 100) for at in range(-10, 10)])

    assert ideal_waits(bout, _WORK) == pytest.approx([10.0] * 10)


def test_fairness_is_one_when_all_get_the_same_and_a_share_when_one_gets_all() -> None:
    """Jain's index of n processes lies between 1/n and 1."""
    assert jain([5, 5, 5, 5]) == 1.0
    assert jain([20, 0, 0, 0]) == 0.25
