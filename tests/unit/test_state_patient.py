"""Patience with an absent Redis."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import StateUnavailableError
from sluicegate.state.patient import patiently, pause_s


class Flaky:
    """An operation that fails a given number of times; it notes the pauses between."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.pauses: list[float] = []
        self.outages: list[StateUnavailableError] = []

    async def __call__(self) -> str:
        """Fail while failures are left."""
        if self.left:
            self.left -= 1
            raise StateUnavailableError("away")
        return "done"

    async def pause(self, delay_s: float) -> None:
        """Note the pause instead of taking it."""
        self.pauses.append(delay_s)


async def test_an_operation_is_repeated_until_redis_is_back() -> None:
    """The result arrives after any number of failures, and the outage is told once."""
    flaky = Flaky(9)
    done = await patiently(flaky, on_outage=flaky.outages.append, uniform=lambda: 0.0, pause=flaky.pause)
    assert done == "done"
    assert flaky.pauses == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert len(flaky.outages) == 1


async def test_without_an_outage_nobody_is_told() -> None:
    """The usual case pays nothing."""
    flaky = Flaky(0)
    assert await patiently(flaky, on_outage=flaky.outages.append, pause=flaky.pause) == "done"
    assert flaky.pauses == []
    assert flaky.outages == []


async def test_other_errors_are_not_repeated() -> None:
    """Only an absent state is waited for."""

    async def broken() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await patiently(broken)


async def test_waiting_can_be_cancelled() -> None:
    """A drain does not wait for Redis."""
    is_pausing = asyncio.Event()

    async def pause(delay_s: float) -> None:
        is_pausing.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(patiently(Flaky(1), pause=pause))
        await is_pausing.wait()
        task.cancel()
    assert task.cancelled()


@given(failures=st.integers(1, 10_000), draw=st.floats(0, 1, exclude_max=True))
def test_pauses_stay_between_half_their_ceiling_and_two_seconds(failures: int, draw: float) -> None:
    """However long the outage, Redis is asked at least every two seconds and never in a tight loop."""
    assert 0.025 <= pause_s(failures, draw) <= 2.0
