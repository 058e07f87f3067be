"""Reckoning the server's time between two questions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluicegate.clock import LocalClock
from sluicegate.errors import StateUnavailableError
from sluicegate.local.redis_server import free_port
from sluicegate.state.connecting import connect
from sluicegate.state.redis_clock import RedisClock, SyncRedisClock, TimeSample


@given(
    offset_us=st.integers(-(10**15), 10**15),
    way_there_s=st.floats(0, 1),
    way_back_s=st.floats(0, 1),
    later_s=st.floats(0, 60),
    drift=st.floats(-5e-5, 5e-5),
)
def test_the_clock_is_never_ahead_and_behind_by_the_round_trip_at_most(
    offset_us: int, way_there_s: float, way_back_s: float, later_s: float, drift: float
) -> None:
    """However unequal the ways and whichever clock runs faster, nothing is released early."""
    start_us = 2 * 10**15 + offset_us
    sample = TimeSample(
        asked_s=5.0,
        heard_s=5.0 + way_there_s + way_back_s,
        server_us=start_us + int(way_there_s * 1e6),
    )
    # Exactly: as a float the moment itself would be off by a quarter of a microsecond.
    passed_s = Fraction(way_there_s) + Fraction(way_back_s) + Fraction(later_s) * (1 + Fraction(drift))
    behind_us = start_us + passed_s * 1_000_000 - sample.now_us(sample.heard_s + later_s)
    assert -1 <= behind_us <= (way_back_s + later_s * 2e-4) * 1e6 + 2


async def test_the_clock_agrees_with_the_server(redis_client: redis.asyncio.Redis) -> None:
    """What it says lies between the server's time before and after."""
    clock = RedisClock(redis_client)
    await clock.refresh()
    seconds, micros = await redis_client.time()
    asked_ms = clock.now_ms()
    server_ms = seconds * 1000 + micros // 1000
    assert asked_ms - 500 <= server_ms <= asked_ms + 500


async def test_the_best_of_three_questions_counts() -> None:
    """One slow answer does not make the clock late."""
    ticks = iter([0.0, 0.9, 1.0, 1.01, 2.0, 2.5, 3.0])

    class Server:
        async def time(self) -> tuple[int, int]:
            return (1000, 0)

    # Only `time` is used of the client.
    clock = RedisClock(Server(), monotonic=lambda: next(ticks))  # type: ignore[arg-type]
    await clock.refresh()
    assert clock.now_ms() == 1_000_000 + int(1990 * (1 - 1e-4))


async def test_both_clocks_say_that_redis_is_away() -> None:
    """Before the first answer there is no time; a failed refresh says so in our own words."""
    port = free_port()
    clock = RedisClock(
        connect(f"redis://127.0.0.1:{port}/0", max_connections=1, timeout_s=0.2), timeout_s=0.2
    )
    twin = SyncRedisClock(redis.Redis(port=port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)))
    with pytest.raises(StateUnavailableError, match="has not been set"):
        clock.now_ms()
    with pytest.raises(StateUnavailableError):
        await clock.refresh()
    with pytest.raises(StateUnavailableError):
        twin.refresh()


def test_the_sync_twin_tells_the_same_time(redis_url: str) -> None:
    """Relay and workers agree on now."""
    with redis.Redis.from_url(redis_url, socket_timeout=2.0) as client:
        twin = SyncRedisClock(client)
        twin.refresh()
        seconds, micros = client.time()
        assert abs(twin.now_ms() - (seconds * 1000 + micros // 1000)) <= 500


def test_a_local_clock_goes_on_when_the_machine_is_set_back() -> None:
    """It starts with the wall's time and then counts what has passed."""
    wall_s, passed_s = [1_700_000_000.0], [5.0]
    clock = LocalClock(wall_s=lambda: wall_s[0], monotonic_s=lambda: passed_s[0])
    assert clock.now_ms() == 1_700_000_000_000

    wall_s[0], passed_s[0] = 1_600_000_000.0, 7.5

    assert clock.now_ms() == 1_700_000_002_500
