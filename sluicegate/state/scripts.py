"""Running the state's Lua scripts: the one place that sends them to Redis."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sluicegate.state.translation import redis_errors_translated
from sluicegate.state.wire import INFO_SERVER, Call, PackedCall

_RUN_ID = re.compile(rb"^run_id:([0-9a-f]+)", re.MULTILINE)
# Bounds how long the event loop is at one batch's replies (some 20 us each).
_MOST_AT_ONCE = 200
# A round trip costs the process as much as five scripts: a busy one makes them this far apart. A lone event
# asks six times in some 50 ms, one after the other, and shall not wait each time.
_LEAST_APART_S = 0.002
_CALM_CALLS = 8
_CALM_CALLS_PER_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    """What one caller wants: its calls, answered together until `deadline` (the event loop's time)."""

    calls: Sequence[PackedCall]
    deadline: float
    replies: asyncio.Future[list[Any]]

    def fail(self, error: Exception) -> None:
        """Tell the caller, with an exception of its own: one that many raise would collect their frames."""
        if not self.replies.done():
            own = copy(error)
            own.__cause__ = error.__cause__
            self.replies.set_exception(own)


class _Pace:
    """When the next round trip may start: at once, or 2 ms after the last one where many calls are made."""

    def __init__(self) -> None:
        self.next_at = 0.0
        self._sent_at = 0.0
        self._beyond_calm = 0.0  # a bucket that leaks as fast as a calm process may fill it

    def sent(self, calls: int, now: float) -> None:
        """Note that a round trip with so many calls starts now."""
        left = max(0.0, self._beyond_calm - (now - self._sent_at) * _CALM_CALLS_PER_S)
        self._beyond_calm = min(left + calls, 2 * _CALM_CALLS)
        self._sent_at = now
        self.next_at = now + _LEAST_APART_S if self._beyond_calm > _CALM_CALLS else now


class ScriptRunner:
    """Runs scripts on a Redis client's connections, each within `timeout_s`.

    What is asked for while Redis is still answering goes out together in the next round trip, and above 400
    calls a second so does what is asked for within 2 ms of the last one's start: a write, a read and a
    connection's coming and going cost far more than a script, and a busy process pays them once for dozens
    of calls. Calls of one batch share its connection and so its outages, but nothing else: an error reply, a
    NOSCRIPT and a cancellation are one caller's alone.

    Every failure is a StateUnavailableError. The scripts may be repeated, so nothing is retried here.

    A row's `run` is the `run_id` of the server that wrote it. Asking for it inside the scripts would
    cost as much as the rest of them, and a value remembered per process could outlive the server. So it
    is asked for once per connection, forgotten when that connection is made anew, and each script is
    sent on the very connection its argument was asked on: a TCP connection ends with its server, hence
    the argument is never an earlier server's. That is why the pool is used directly, and why a script is
    sent only while the socket stands (redis-py would reconnect silently in the middle).
    """

    def __init__(self, client: redis.asyncio.Redis, *, timeout_s: float) -> None:
        self._pool = client.connection_pool
        self._timeout_s = timeout_s
        self._run_ids: WeakKeyDictionary[AbstractConnection, bytes] = WeakKeyDictionary()
        self._waiting: deque[_Waiting] = deque()
        self._pace = _Pace()
        # Belongs to all callers of a burst and to none: it must survive the cancellation of each of them.
        self._sender: asyncio.Task[None] | None = None

    async def run(self, call: Call) -> Any:
        """Run one script and return its reply. Raises StateUnavailableError."""
        return (await self.run_all((call,)))[0]

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one round trip and return their replies. Raises StateUnavailableError."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            # Packed here, where text that has no bytes fails its own caller only.
            calls=[call.packed() for call in calls],
            deadline=loop.time() + self._timeout_s,
            replies=loop.create_future(),
        )
        self._waiting.append(waiting)
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send_waiting())
        replies = await waiting.replies
        for reply in replies:
            if isinstance(reply, RedisError):
                with redis_errors_translated():
                    raise reply
        return replies

    async def _send_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if (early_s := self._pace.next_at - loop.time()) > 0:
                await asyncio.sleep(early_s)
            batch = self._take_batch()
            self._pace.sent(sum(len(each.calls) for each in batch), loop.time())
            try:
                await self._exchange(batch)
            except Exception as error:  # noqa: BLE001 - it is raised where the calls were asked for
                for each in batch:
                    each.fail(error)
            finally:
                for each in batch:
                    each.replies.cancel()  # those that have no answer: the event loop ends

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and size < _MOST_AT_ONCE:
            waiting = self._waiting.popleft()
            if not waiting.replies.done():  # else its caller was cancelled
                batch.append(waiting)
                size += len(waiting.calls)
        return batch

    async def _exchange(self, batch: Sequence[_Waiting]) -> None:
        """Bring the batch to Redis and its replies to their callers, before the oldest one's deadline."""
        if not batch:
            return
        with redis_errors_translated():
            async with asyncio.timeout_at(batch[0].deadline):
                # redis-py leaves these two methods unannotated.
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    replies = await self._run_on(connection, [call for each in batch for call in each.calls])
                finally:
                    await self._pool.release(connection)
        start = 0
        for each in batch:
            end = start + len(each.calls)
            if not each.replies.done():
                each.replies.set_result(replies[start:end])
            start = end

    async def _run_on(self, connection: AbstractConnection, calls: Sequence[PackedCall]) -> list[Any]:
        run_id = self._run_ids.get(connection)
        if run_id is None:
            connection.register_connect_callback(self._forget)  # type: ignore[no-untyped-call]
            run_id = await self._ask_run_id(connection)
            self._run_ids[connection] = run_id
        replies = await _send(connection, [call.command(run_id, by_text=False) for call in calls])
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = [calls[index].command(run_id, by_text=True) for index in unknown]
            for index, reply in zip(unknown, await _send(connection, again), strict=True):
                replies[index] = reply
        return replies

    async def _ask_run_id(self, connection: AbstractConnection) -> bytes:
        reply = (await _send(connection, [INFO_SERVER]))[0]
        if isinstance(reply, RedisError):
            raise reply
        found = _RUN_ID.search(reply)
        if found is None:
            raise ResponseError("INFO names no run_id")
        return found.group(1)

    def _forget(self, connection: AbstractConnection) -> None:
        self._run_ids.pop(connection, None)


async def _send(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Any]:
    """Send commands together and read their replies; error replies are returned, not raised."""
    if not connection.is_connected:
        raise redis.ConnectionError("the connection was lost")
    await connection.send_packed_command(commands, check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as exc:
            replies.append(exc)
    return replies
