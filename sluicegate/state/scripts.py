"""Running the state's Lua scripts: the one place that sends them to Redis."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from sluicegate.state.translation import redis_errors_translated

_RUN_ID = re.compile(rb"^run_id:([0-9a-f]+)", re.MULTILINE)
_MOST_CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script's text and the SHA-1 by which EVALSHA knows it."""

    text: str
    sha: str


def load_script(name: str) -> Script:
    """Read `<name>.lua` beside this module. SHA-1 is Redis's choice and guards nothing here."""
    text = resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a script. The server's run_id goes in front of `args` as ARGV[1]."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]

    def command(self, run_id: bytes, *, by_text: bool) -> tuple[str | bytes | int, ...]:
        """Return the command: EVALSHA, or EVAL with the whole text."""
        how = ("EVAL", self.script.text) if by_text else ("EVALSHA", self.script.sha)
        return (*how, len(self.keys), *self.keys, run_id, *self.args)


class ScriptRunner:
    """Runs scripts on a Redis client's connections, a few at a time, each within `timeout_s`.

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
        # Scripts take microseconds: a few connections carry all of a process's events.
        self._turns = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def run(self, call: Call) -> Any:
        """Run one script and return its reply. Raises StateUnavailableError."""
        return (await self.run_all((call,)))[0]

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one round trip and return their replies. Raises StateUnavailableError."""
        with redis_errors_translated():
            async with asyncio.timeout(self._timeout_s), self._turns:
                # redis-py leaves these two methods unannotated.
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    return await self._run_on(connection, calls)
                finally:
                    await self._pool.release(connection)

    async def _run_on(self, connection: AbstractConnection, calls: Sequence[Call]) -> list[Any]:
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
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def _ask_run_id(self, connection: AbstractConnection) -> bytes:
        reply = (await _send(connection, [("INFO", "server")]))[0]
        if isinstance(reply, RedisError):
            raise reply
        found = _RUN_ID.search(reply)
        if found is None:
            raise ResponseError("INFO names no run_id")
        return found.group(1)

    def _forget(self, connection: AbstractConnection) -> None:
        self._run_ids.pop(connection, None)


async def _send(
    connection: AbstractConnection, commands: Sequence[tuple[str | bytes | int, ...]]
) -> list[Any]:
    """Send commands together and read their replies; error replies are returned, not raised."""
    if not connection.is_connected:
        raise redis.ConnectionError("the connection was lost")
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except ResponseError as exc:
            replies.append(exc)
    return replies
