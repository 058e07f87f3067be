"""Somebody else on the same quota: evenly, never more than is there, and the same however often one looks."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.local.ledger.stats import read_stats
from sluicegate.local.provider.formats import OpenAI
from sluicegate.local.provider.quota import Dimension, Enforcement, Limits, Quota
from sluicegate.local.provider.simulator import Admitted, Configuration, Refused, Simulator, Verdict

_START_S = 1_800_000_000.0
_STEPS_A_S = 64


def _limits(enforcement: Enforcement, requests: float = 600) -> Limits:
    return Limits(
        enforcement=enforcement,
        requests_per_minute=requests,
        tokens_per_minute=60_000,
        burst_s=1.0,
        window_s=6.0,
    )


class _World:
    """A simulator whose clock stands until it is set."""

    def __init__(self, enforcement: Enforcement = Enforcement.BUCKET, **limits: float) -> None:
        self.now_s = _START_S
        self.simulator = Simulator(
            Configuration(limits=_limits(enforcement, **limits)),
            now_s=lambda: self.now_s,
            random=lambda: 0.5,
        )

    def call(self, *, tokens: int = 50) -> Verdict:
        format = OpenAI()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
        sequence, verdict = self.simulator.receive(format, format.read(body), "e/reply/1")
        self.simulator.finish(sequence, status=200, completion_tokens=0, whole=True)
        return verdict

    def fault(self, **spec: Any) -> None:
        self.simulator.begin_fault(orjson.dumps(spec))

    def taken(self) -> tuple[float, float]:
        strangers = self.simulator.stats()["strangers"]
        return strangers["requests"], strangers["tokens"]


def _used(quota: Quota, now_s: float) -> float:
    return quota.meters[Dimension.REQUESTS].used(now_s)


_CHARGES = st.lists(st.tuples(st.integers(0, 5 * _STEPS_A_S), st.integers(0, 25)), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(enforcement=st.sampled_from(Enforcement), charges=_CHARGES, share=st.floats(0.05, 0.9))
def test_strangers_take_what_a_stranger_of_small_steps_takes(
    enforcement: Enforcement, charges: list[tuple[int, int]], share: float
) -> None:
    """One step over a span of time, against 64 a second that each look what is there.

    Our own charges in between may leave a debt, in which strangers take nothing.
    """
    limits = _limits(enforcement)
    at_once, stepped = Quota(limits, _START_S), Quota(limits, _START_S)
    meter, burst = stepped.meters[Dimension.REQUESTS], limits.burst(Dimension.REQUESTS)
    bit, taken, taken_in_steps, now_s = share * 10 / _STEPS_A_S, 0.0, 0.0, _START_S
    # Of a log each memory may be late by a cell, and each look by a step.
    tolerance = (bit + share * 10 * limits.window_s / 240) * (2 + len(charges)) + 1e-6
    for steps, cost in charges:
        until_s = now_s + steps / _STEPS_A_S
        taken += at_once.take_evenly(share, now_s, until_s)[Dimension.REQUESTS]
        for _ in range(steps):
            found = max(0.0, min(bit, burst - meter.used(now_s)))
            meter.charge(found, now_s)
            taken_in_steps += found
            now_s += 1 / _STEPS_A_S
        assert taken == pytest.approx(taken_in_steps, abs=tolerance)
        assert _used(at_once, now_s) == pytest.approx(_used(stepped, now_s), abs=tolerance)
        for quota in (at_once, stepped):
            quota.charge({Dimension.REQUESTS: cost}, now_s)


@settings(max_examples=80, deadline=None)
@given(
    enforcement=st.sampled_from(Enforcement),
    looks=st.lists(st.floats(0, 20), max_size=20),
    share=st.floats(0.05, 1),
    own=st.integers(0, 30),
)
def test_looking_often_changes_nothing(
    enforcement: Enforcement, looks: list[float], share: float, own: int
) -> None:
    """However the time is cut into pieces, as much is taken, never above the rate nor what is there."""
    limits = _limits(enforcement)
    once, often = Quota(limits, _START_S), Quota(limits, _START_S)
    for quota in (once, often):
        quota.charge({Dimension.REQUESTS: own}, _START_S)
    taken = once.take_evenly(share, _START_S, _START_S + 20)[Dimension.REQUESTS]
    at_s, in_pieces = _START_S, 0.0
    for look in [*sorted(looks), 20.0]:
        in_pieces += often.take_evenly(share, at_s, _START_S + look)[Dimension.REQUESTS]
        at_s = _START_S + look
        assert _used(often, at_s) <= max(own, limits.burst(Dimension.REQUESTS)) + 1e-6
    cells = 2 * share * 10 * limits.window_s / 240 if enforcement is Enforcement.LOG else 0
    assert in_pieces == pytest.approx(taken, abs=cells * (1 + len(looks)) + 1e-5)
    assert taken <= share * 10 * 20 + 1e-6


def test_seconds_of_unequal_shares_give_strangers_what_each_has() -> None:
    """100 a minute are 1, 2, 2 a second: all of the rate finds 1 in every third, 5/3 in the others."""
    quota = Quota(_limits(Enforcement.SLICE, requests=100), _START_S)
    taken = quota.take_evenly(1.0, _START_S + 0.5, _START_S + 60)[Dimension.REQUESTS]
    first_half = 0.5 * 5 / 3
    assert taken == pytest.approx(first_half + 19 * 1 + 40 * 5 / 3)


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_a_caller_is_left_what_strangers_do_not_take(enforcement: Enforcement) -> None:
    """At 30 % of 600 a minute, asked a hundred times a second: seven in ten, and no more in all than ten."""
    world = _World(enforcement)
    world.fault(kind="strangers", share=0.3)
    admitted = 0
    for tick in range(6000):
        world.now_s = _START_S + tick / 100
        admitted += isinstance(world.call(), Admitted)
    requests, tokens = world.taken()
    burst = _limits(enforcement).burst(Dimension.REQUESTS)
    assert admitted >= 0.65 * 600
    assert admitted + requests <= 600 + burst
    assert requests <= 0.3 * 600 + 1e-6
    assert tokens == pytest.approx(0.3 * 60_000, rel=0.01)


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_a_week_in_which_nobody_looked_is_caught_up_at_once(enforcement: Enforcement) -> None:
    """Bounded work, and exactly what was due."""
    world = _World(enforcement)
    world.fault(kind="strangers", share=0.3)
    world.call()
    world.now_s += 7 * 86400
    started = time.perf_counter()
    assert isinstance(world.call(), Admitted)
    assert time.perf_counter() - started < 0.1
    requests, tokens = world.taken()
    assert requests == pytest.approx(3 * 7 * 86400)
    assert tokens == pytest.approx(300 * 7 * 86400)


def test_strangers_stay_as_long_as_was_asked_for() -> None:
    """Ten seconds of 3 a second, whenever it is looked at; then the fault is no longer active."""
    world = _World()
    world.fault(kind="strangers", share=0.3, for_s=10)
    world.now_s += 5
    assert world.taken()[0] == pytest.approx(15)
    assert world.simulator.stats()["faults"][0]["active"]
    world.now_s += 3600
    assert world.taken()[0] == pytest.approx(30)
    assert not world.simulator.stats()["faults"][0]["active"]


def test_newer_strangers_take_the_place_of_older_ones_and_clearing_ends_them() -> None:
    """One share holds at a time, and the history of faults says which."""
    world = _World()
    world.fault(kind="strangers", share=0.3)
    world.now_s += 10
    world.fault(kind="strangers", share=0.1)
    world.now_s += 10
    assert [fault["active"] for fault in world.simulator.stats()["faults"]] == [False, True]
    world.simulator.clear_faults()
    world.now_s += 10
    assert world.taken()[0] == pytest.approx(30 + 10)
    assert [fault["active"] for fault in world.simulator.stats()["faults"]] == [False, False]


def test_strangers_get_nothing_of_a_cut() -> None:
    """A cut admits nobody, whenever it is looked at; before it and after it they take."""
    world = _World()
    world.fault(kind="strangers", share=0.3)
    world.now_s += 10
    world.fault(kind="cut", for_s=20)
    world.now_s += 5
    world.simulator.stats()
    world.now_s += 25
    assert world.taken()[0] == pytest.approx(3 * (10 + 10))


def test_strangers_follow_other_limits() -> None:
    """Their share is of the rate that holds."""
    world = _World()
    world.fault(kind="strangers", share=0.3)
    world.now_s += 10
    world.fault(kind="limits", requests_per_minute=60)
    world.now_s += 10
    assert world.taken()[0] == pytest.approx(30 + 3)


def test_what_strangers_take_is_seen_in_levels_and_headers_and_in_no_count_of_ours() -> None:
    """The caller learns of them as of any use; the record, the ideal and the ledger have our calls alone."""
    world = _World()
    for _ in range(10):
        world.call()
    assert isinstance(world.call(), Refused)
    world.fault(kind="strangers", share=0.5)
    world.now_s += 1
    stats = world.simulator.stats()
    assert stats["levels"]["requests"]["available"] == pytest.approx(5)
    assert world.simulator.quota_headers(OpenAI())["x-ratelimit-reset-requests"] == "500ms"
    assert stats["strangers"] == {"requests": pytest.approx(5), "tokens": pytest.approx(500)}
    assert stats["counts"]["admitted"] == 10
    assert (stats["ideal"]["requests"], stats["ideal"]["tokens"]) == (10, 500)
    assert stats["ideal"]["ideal_s"] == pytest.approx(0.1)
    history = read_stats({**stats, "calls": list(world.simulator.log.rows())}, burst_s=1.0)
    assert len(history.calls) == 11


@pytest.mark.parametrize("spec", [{}, {"share": 0}, {"share": 1.1}, {"share": 0.3, "calls": 3}])
def test_strangers_of_no_share_are_not_understood(spec: dict[str, float]) -> None:
    """More than the whole rate is more than there ever is."""
    with pytest.raises(ValueError, match="strangers"):
        _World().fault(kind="strangers", **spec)
