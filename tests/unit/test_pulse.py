"""What counts as stuck: a promise to be heard of again that was not kept, and work past its own timeout."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest
from prometheus_client import CollectorRegistry

from sluicegate.telemetry.health import HealthServer, HealthThread
from sluicegate.telemetry.pulse import STUCK_S, Pulse, TimedWork
from streams.runtime.liveness import Liveness, Vitals
from tests.waiting import wait_until

HOUR_S = 3600.0


@dataclass
class Hands:
    """A clock that a test moves."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time that it was set to."""
        return self.now_s


@dataclass
class Worker:
    """A worker's signs of life without the worker."""

    clock: Hands = field(default_factory=Hands)
    draining: bool = False
    vitals: Vitals = field(init=False)
    liveness: Liveness = field(init=False)

    def __post_init__(self) -> None:
        self.vitals = Vitals(now_s=self.clock)
        self.liveness = Liveness(
            self.vitals,
            consumer=lambda: None,
            redis_is_up=lambda: True,
            is_draining=lambda: self.draining,
        )


@pytest.fixture
def worker() -> Worker:
    """Return a worker of which nothing was heard yet."""
    return Worker()


def test_silence_counts_from_the_last_beat_and_not_while_it_rests() -> None:
    """What is shown of a pulse is its age, whatever time it gave itself; who rests is not silent."""
    clock = Hands()
    pulse = Pulse("heartbeats", now_s=clock)
    clock.now_s += HOUR_S
    assert pulse.silence_s == 0
    pulse.beat(60)
    clock.now_s += 7
    assert pulse.silence_s == 7
    pulse.rest()
    assert pulse.silence_s == 0


def test_a_pulse_is_stuck_only_when_it_broke_its_own_promise() -> None:
    """Whoever needs longer says so; a rest promises nothing, and extending it does not end it."""
    clock = Hands()
    pulse = Pulse("heartbeats", now_s=clock)
    pulse.extend()
    clock.now_s += HOUR_S
    assert pulse.complaint() is None

    pulse.beat(60)
    clock.now_s += 60
    assert pulse.complaint() is None
    clock.now_s += 1
    assert pulse.complaint() == "heartbeats stuck, 1 s late"

    pulse.extend()
    assert pulse.complaint() is None
    clock.now_s += STUCK_S + 1
    assert pulse.complaint() is not None
    pulse.rest()
    assert pulse.complaint() is None


def test_work_past_its_own_timeout_is_named_however_much_else_ends_in_time() -> None:
    """One call that overstays is seen among thousands that do not, and no longer than it lasts."""
    clock = Hands()
    calls = TimedWork("call", grace_s=20, now_s=clock)
    ended = calls.begun(60)
    clock.now_s += 79
    with calls.within(60):
        assert calls.complaint() is None
    clock.now_s += 2
    with calls.within(60):
        assert calls.complaint() == "call past its own timeout: 1"
    ended()
    ended()
    assert calls.complaint() is None


def test_work_that_fails_is_no_longer_watched() -> None:
    """An error ends a call as an answer does."""
    clock = Hands()
    calls = TimedWork("call", now_s=clock)
    with pytest.raises(ValueError, match="refused"), calls.within(1):
        raise ValueError("refused")
    clock.now_s += HOUR_S
    assert calls.complaint() is None


@pytest.mark.parametrize(
    "name", ["loop", "thread", "heartbeat", "rebalance", "fetcher", "delivery", "agents"]
)
def test_each_part_that_falls_silent_is_reported_within_30_seconds(worker: Worker, name: str) -> None:
    """Every sign of life is looked at: one that nobody judges would be worth nothing."""
    pulse: Pulse = getattr(worker.vitals, name)
    pulse.beat()
    worker.clock.now_s += 30
    assert len(worker.liveness.dead()) == 1


@pytest.mark.parametrize("name", ["calls", "publishes", "fetches"])
def test_a_call_or_publish_is_reported_within_30_seconds_after_its_timeout(worker: Worker, name: str) -> None:
    """A timeout that was swallowed leaves an event that never ends."""
    work: TimedWork = getattr(worker.vitals, name)
    with work.within(60):
        worker.clock.now_s += 60
        assert worker.liveness.dead() == []
        worker.clock.now_s += 30
        assert len(worker.liveness.dead()) == 1


def test_a_drain_is_not_judged_by_the_group_that_it_leaves(worker: Worker) -> None:
    """A pod that waits for paid calls after it left the group is not killed for being silent there."""
    for pulse in worker.vitals.of_consumer:
        pulse.beat()
    worker.draining = True
    worker.clock.now_s += HOUR_S
    assert worker.liveness.dead() == []
    worker.vitals.loop.beat()
    worker.clock.now_s += HOUR_S
    assert len(worker.liveness.dead()) == 1


async def test_a_stuck_event_loop_is_named_by_the_health_port(worker: Worker) -> None:
    """The port is answered beside the loop: a loop that is stuck is reported, not just silent."""
    server = HealthServer(
        host="127.0.0.1",
        port=0,
        port_is_fixed=False,
        registry=CollectorRegistry(),
        live=worker.liveness.dead,
        ready=worker.liveness.not_ready,
    )
    tick = asyncio.create_task(worker.vitals.tick())
    await wait_until(lambda: not worker.vitals.loop.is_resting)
    with HealthThread(server):
        url = f"http://127.0.0.1:{server.port}/livez"
        # A call that blocks, made from the loop itself: while it waits nothing else turns here.
        assert httpx.get(url, timeout=5).status_code == 200  # noqa: ASYNC210 - blocking is the point
        worker.clock.now_s += 30
        answer = httpx.get(url, timeout=5)  # noqa: ASYNC210 - blocking is the point
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["event loop stuck, 10 s late"])
        await wait_until(lambda: worker.liveness.dead() == [], what="a loop that turns again is alive")
    tick.cancel()
