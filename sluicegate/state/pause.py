"""An operator's pause of a stream: a flag in Redis that every worker of the stream sees within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from sluicegate.errors import StateUnavailableError
from sluicegate.state.translation import redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio

_VERSION = 1
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Who paused a stream, when (Unix time), and why if they said so."""

    by: str
    at_ms: int
    reason: str | None = None


class PauseFlags:
    """The flags of a deployment's streams. They stay until an operator takes them away.

    Every method raises StateUnavailableError when Redis did not answer within `timeout_s`.
    """

    def __init__(self, client: redis.asyncio.Redis, *, group: str, timeout_s: float = 2.0) -> None:
        self._client = client
        self._group = group
        self._timeout_s = timeout_s

    async def pause(self, stream: str, pause: Pause) -> Pause:
        """Set the flag unless it is set; return the one that stands."""
        packed = orjson.dumps(
            {"version": _VERSION, "by": pause.by, "at_ms": pause.at_ms, "reason": pause.reason}
        )
        with redis_errors_translated():
            async with asyncio.timeout(self._timeout_s):
                if await self._client.set(self._key(stream), packed, nx=True):
                    return pause
        return await self.find(stream) or pause

    async def resume(self, stream: str) -> Pause | None:
        """Take the flag away; return what it said, None when there was none."""
        with redis_errors_translated():
            async with asyncio.timeout(self._timeout_s):
                packed = await self._client.getdel(self._key(stream))
        return None if packed is None else _unpacked(packed)

    async def find(self, stream: str) -> Pause | None:
        """Return the stream's pause; None when it is not paused."""
        with redis_errors_translated():
            async with asyncio.timeout(self._timeout_s):
                packed = await self._client.get(self._key(stream))
        return None if packed is None else _unpacked(packed)

    def _key(self, stream: str) -> str:
        return f"{self._group}:pause:{stream}"


class PauseWatch:
    """What one worker knows of its stream's pause, looked up twice a second.

    Until the first answer the stream counts as paused, and while Redis is away what was last known holds:
    neither a start nor an outage lifts a pause. `on_change` hears of a pause that is found or gone.
    """

    def __init__(
        self,
        flags: PauseFlags,
        stream: str,
        *,
        on_change: Callable[[Pause | None], None],
        every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._flags = flags
        self._stream = stream
        self._on_change = on_change
        self._every_s = every_s
        self._is_known = False
        self._pause: Pause | None = None

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be taken."""
        return not self._is_known or self._pause is not None

    async def run(self) -> None:
        """Keep looking for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Look once."""
        try:
            found = await self._flags.find(self._stream)
        except StateUnavailableError:
            return  # the clock and the limiter say that Redis is away
        was_paused = self._pause is not None
        self._is_known, self._pause = True, found
        if was_paused is not (found is not None):
            self._on_change(found)


def _unpacked(packed: bytes | str) -> Pause:
    """Read the flag. That it is there is what counts: one that cannot be read is a pause by nobody known."""
    try:
        found = orjson.loads(packed)
        return Pause(by=str(found["by"]), at_ms=int(found["at_ms"]), reason=found.get("reason"))
    except (ValueError, TypeError, KeyError):
        return Pause(by="unknown", at_ms=0)
