"""The client that our event loops use on Redis."""

from __future__ import annotations

import asyncio

from sluicegate.state.connecting import connect

_MOST_STEPS = 40


async def test_a_cancellation_is_heard_at_every_moment_of_a_command(redis_url: str) -> None:
    """Whatever step of a command the event loop is at, who cancels the caller ends it."""
    client = connect(redis_url, max_connections=1, timeout_s=2.0)

    async def ask_and_stay() -> None:
        async with asyncio.timeout(5):
            await client.ping()
        await asyncio.Event().wait()

    deaf: list[int] = []
    for steps in range(_MOST_STEPS):
        asking = asyncio.ensure_future(ask_and_stay())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=1)
        if not done:
            deaf.append(steps)
            asking.cancel()
            await asyncio.wait({asking})
    assert not deaf
    assert await client.ping()
    await client.aclose()
