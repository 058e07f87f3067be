"""An operator's pause, on a real Redis that may go away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from sluicegate.local.redis_server import RedisServer
from sluicegate.state.connecting import connect
from sluicegate.state.pause import Pause, PauseFlags, PauseWatch

STREAM = "support-chat"
PAUSE = Pause(by="kim@ops-1", at_ms=1_700_000_000_000, reason="wrong prompt")
LATER = Pause(by="lee@ops-2", at_ms=1_700_000_060_000)


@pytest.fixture
def flags(redis_client: redis.asyncio.Redis) -> PauseFlags:
    """Return the flags of one deployment on an empty Redis."""
    return PauseFlags(redis_client, group="g")


@dataclass
class Told:
    """What a watch has told its worker."""

    heard: list[Pause | None] = field(default_factory=list)

    def watch(self, flags: PauseFlags) -> PauseWatch:
        """Return a watch that tells us."""
        return PauseWatch(flags, STREAM, on_change=self.heard.append)


async def test_a_pause_says_who_when_and_why_and_the_first_one_stands(flags: PauseFlags) -> None:
    """Pausing what is paused changes nothing: the one who did it first is the one to ask."""
    assert await flags.find(STREAM) is None
    assert await flags.pause(STREAM, PAUSE) == PAUSE
    assert await flags.pause(STREAM, LATER) == PAUSE
    assert await flags.find(STREAM) == PAUSE


async def test_a_pause_is_one_streams_in_one_deployment(
    flags: PauseFlags, redis_client: redis.asyncio.Redis
) -> None:
    """Neighbours on the same Redis go on."""
    await flags.pause(STREAM, PAUSE)
    assert await flags.find("documents") is None
    assert await PauseFlags(redis_client, group="other").find(STREAM) is None


async def test_resuming_returns_the_pause_that_it_lifts(flags: PauseFlags) -> None:
    """And nothing where there was none."""
    assert await flags.resume(STREAM) is None
    await flags.pause(STREAM, PAUSE)
    assert await flags.resume(STREAM) == PAUSE
    assert await flags.find(STREAM) is None


async def test_a_flag_that_cannot_be_read_is_a_pause(
    flags: PauseFlags, redis_client: redis.asyncio.Redis
) -> None:
    """A newer release or somebody by hand set it: that it is there is what counts."""
    await redis_client.set(f"g:pause:{STREAM}", b"yes")
    found = await flags.find(STREAM)
    assert found is not None
    assert found.by == "unknown"


async def test_a_watch_knows_nothing_before_it_looked_and_hears_of_every_change(flags: PauseFlags) -> None:
    """A worker that starts during a pause takes nothing, not even in its first half second."""
    await flags.pause(STREAM, PAUSE)
    told = Told()
    watch = told.watch(flags)
    assert watch.is_paused
    await watch.look()
    await watch.look()
    assert watch.is_paused
    await flags.resume(STREAM)
    await watch.look()
    assert not watch.is_paused
    assert told.heard == [PAUSE, None]


async def test_a_watch_of_a_stream_that_is_not_paused_has_nothing_to_tell(flags: PauseFlags) -> None:
    """Every start would else log that the stream goes on."""
    told = Told()
    watch = told.watch(flags)
    await watch.look()
    assert not watch.is_paused
    assert told.heard == []


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Return a server of the test's own, which keeps its data."""
    with RedisServer(appendonly=True, extra=("--appendfsync", "always")) as running:
        yield running


async def test_an_outage_of_redis_neither_lifts_a_pause_nor_makes_one(server: RedisServer) -> None:
    """What was last known holds until Redis answers, and then what Redis kept."""
    client = connect(server.url, max_connections=4, timeout_s=2.0)
    flags = PauseFlags(client, group="g")
    told = Told()
    running, paused = told.watch(flags), told.watch(flags)
    await running.look()
    await flags.pause(STREAM, PAUSE)
    await paused.look()
    server.kill()
    await running.look()
    await paused.look()
    assert not running.is_paused
    assert paused.is_paused
    server.start()
    await paused.look()
    await running.look()
    assert paused.is_paused
    assert running.is_paused
    assert told.heard == [PAUSE, PAUSE]
    await client.aclose()
