"""The one place where the limiter talks to Redis: one bounded script call, repeatable without harm."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from typing import TYPE_CHECKING

import redis
from redis.exceptions import NoScriptError

from sluicegate.errors import StateUnavailableError
from sluicegate.limiter.booking import Batch, Quota, Reply
from sluicegate.limiter.stored import ScopeKeys
from sluicegate.limiter.wire import decode, encode, script_text
from sluicegate.state.translation import redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio

_CONNECT_ROUND_TRIPS = 4


class ConnectionLostError(StateUnavailableError):
    """The connection ended, and a new one was made at once: ask again.

    An idle connection that ended with its server says so only when it is used, maybe long after the server
    is back. Such an error is not an outage yet.
    """


class BookingLink:
    """Sends the batches of one process, one at a time.

    `process_id` is unique to this object among all that share the scope: Redis remembers the last batch
    of each, so that a batch may be sent again until it is answered.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        scope: str,
        quota: Quota,
        process_id: str,
        timeout_s: float,
    ) -> None:
        keys = ScopeKeys.of(scope)
        self._client = client
        self._keys = (
            keys.state,
            keys.batch(process_id),
            keys.leases,
            keys.days,
            keys.processes,
            keys.tickets,
        )
        self._quota = quota
        self._process_id = process_id
        self._timeout_s = timeout_s
        self._is_connected = False
        self._must_check = True
        self._script = script_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def send(self, batch: Batch, sequence: int) -> Reply:
        """Run the script; the same `sequence` (from 1) again gives the same reply.

        Raises ConnectionLostError, or StateUnavailableError when there was no good answer within the timeout,
        besides which up to `_CONNECT_ROUND_TRIPS` timeouts are spent on a connection where there is none.
        """
        with redis_errors_translated():
            if not self._is_connected:
                await self._connect()
            self._is_connected = False
            try:
                raw = await self._run(batch, sequence)
            except redis.ConnectionError as exc:
                await self._connect()
                self._is_connected = True
                raise ConnectionLostError("the connection to Redis was lost") from exc
            self._is_connected = True
        try:
            reply = decode(raw)
        except struct.error as exc:
            raise StateUnavailableError("the limiter cannot read what Redis answered") from exc
        self._must_check = False
        return reply

    async def _run(self, batch: Batch, sequence: int) -> bytes:
        count = len(self._keys)
        async with asyncio.timeout(self._timeout_s):
            try:
                arguments = self._arguments(batch, sequence, must_check=self._must_check)
                return bytes(await self._client.evalsha(self._sha, count, *arguments))
            except NoScriptError:
                arguments = self._arguments(batch, sequence, must_check=True)
                return bytes(await self._client.eval(self._script, count, *arguments))

    def _arguments(self, batch: Batch, sequence: int, *, must_check: bool) -> list[bytes | int | str]:
        return [
            *self._keys,
            *encode(batch, self._quota, sequence, self._process_id, must_check=must_check),
        ]

    async def _connect(self) -> None:
        """Have an open connection in the pool, maybe to another server than before.

        A connection that a timeout cut is gone, and opening one takes several round trips: within the
        timeout of a single call a Redis that is merely slow would never be reached again.
        """
        self._must_check = True
        async with asyncio.timeout(_CONNECT_ROUND_TRIPS * self._timeout_s):
            try:
                await self._client.ping()
            except redis.ConnectionError:
                await self._client.ping()  # that one had been idle too: the pool has other users
