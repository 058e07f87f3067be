"""What `pause` and `resume` share: one question to Redis, and how a pause is said to people."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from sluicegate.cli.wording import duration
from sluicegate.settings import Settings
from sluicegate.state.connecting import connect
from sluicegate.state.pause import Pause, PauseFlags

_T = TypeVar("_T")
_TIMEOUT_S = 2.0


def with_flags(settings: Settings, ask: Callable[[PauseFlags], Awaitable[_T]]) -> _T:
    """Run one question about pauses. Raises StateUnavailableError."""

    async def run() -> _T:
        client = connect(settings.redis, max_connections=1, timeout_s=_TIMEOUT_S)
        try:
            return await ask(PauseFlags(client, group=settings.kafka.group, timeout_s=_TIMEOUT_S))
        finally:
            await client.aclose()

    return asyncio.run(run())


def pauses_of(settings: Settings) -> Mapping[str, Pause]:
    """Return the pause of every stream that is paused. Raises StateUnavailableError."""

    async def ask(flags: PauseFlags) -> Mapping[str, Pause]:
        found = {stream: await flags.find(stream) for stream in settings.streams}
        return {stream: pause for stream, pause in found.items() if pause is not None}

    return with_flags(settings, ask)


def pause_json(pause: Pause | None) -> dict[str, object] | None:
    """Return what programs read of a pause."""
    if pause is None:
        return None
    return {"by": pause.by, "at_ms": pause.at_ms, "reason": pause.reason}


def told(pause: Pause, now_ms: int) -> str:
    """Say who paused, how long ago, and why."""
    why = f": {pause.reason}" if pause.reason else ""
    return f"for {duration((now_ms - pause.at_ms) / 1000)} by {pause.by}{why}"
