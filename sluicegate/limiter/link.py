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

if TYPE_CHECKING:
    import redis.asyncio


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
        self._keys = (keys.state, keys.batch(process_id), keys.leases, keys.days, keys.processes)
        self._quota = quota
        self._process_id = process_id
        self._timeout_s = timeout_s
        self._script = script_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def send(self, batch: Batch, sequence: int) -> Reply:
        """Run the script; the same `sequence` (from 1) again gives the same reply.

        Raises StateUnavailableError when there was no good answer within the timeout.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    raw = await self._client.evalsha(
                        self._sha, len(self._keys), *self._arguments(batch, sequence, must_check=False)
                    )
                except NoScriptError:
                    raw = await self._client.eval(
                        self._script, len(self._keys), *self._arguments(batch, sequence, must_check=True)
                    )
            return decode(raw)
        except (redis.RedisError, OSError, TimeoutError, struct.error) as exc:
            raise StateUnavailableError(
                f"the limiter got no answer from Redis: {type(exc).__name__}"
            ) from exc

    def _arguments(self, batch: Batch, sequence: int, *, must_check: bool) -> list[bytes | int | str]:
        return [
            *self._keys,
            *encode(batch, self._quota, sequence, self._process_id, must_check=must_check),
        ]
