"""Removing from Redis all that is kept of one key: a person who wants to be forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicegate.state.keys import prefix_of
from sluicegate.state.scripts import ScriptRunner
from sluicegate.state.translation import redis_errors_translated
from sluicegate.state.wire import Call, load_script

if TYPE_CHECKING:
    import redis.asyncio

_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """How many keys were removed, and how many events of the key were open. Zero of both: nothing was kept.

    While events are open nothing is removed, unless that was asked for.
    """

    removed: int
    open: int


class Forgetting:
    """Removes what a deployment keeps of single keys. Everything of a key goes at once, or nothing."""

    def __init__(self, client: redis.asyncio.Redis, *, group: str, timeout_s: float = 2.0) -> None:
        self._client = client
        self._runner = ScriptRunner(client, timeout_s=timeout_s)
        self._script = load_script("forget")
        self._group = group
        self._timeout_s = timeout_s

    async def forget(self, stream: str, key: str, *, also_open: bool = False) -> Forgotten:
        """Remove history, steps, rows and gates of the key. `also_open` removes those of open events, too.

        The names have to be looked for among all of the server's, which costs Redis about a second of its
        time per million, in slices. Raises StateUnavailableError; to forget again is safe.
        """
        prefix = prefix_of(self._group, stream, key)
        names = await self._names(prefix)
        rows = sorted(name for name in names if name.startswith(f"{prefix}:row:"))
        gates = sorted(name for name in names if name.startswith(f"{prefix}:gate:"))
        others = sorted(names.difference(rows, gates))
        if not names:
            return Forgotten(removed=0, open=0)
        call = Call(
            script=self._script,
            keys=(*rows, *gates, *others),
            args=(len(rows), len(gates), int(also_open)),
        )
        count_open, removed = await self._runner.run(call)
        return Forgotten(removed=removed, open=count_open)

    async def _names(self, prefix: str) -> set[str]:
        found: set[str] = set()
        cursor = 0
        while True:
            with redis_errors_translated():
                async with asyncio.timeout(self._timeout_s):
                    cursor, names = await self._client.scan(cursor, match=f"{prefix}:*", count=_SCAN_COUNT)
            found.update(name if isinstance(name, str) else name.decode() for name in names)
            if cursor == 0:
                return found
