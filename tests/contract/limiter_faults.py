"""The ways in which Redis goes away, each on real servers, and one run of a crew through one of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import ResponseError

from sluicegate.local.redis_server import RedisServer, free_port
from sluicegate.state.connecting import connect
from tests.contract.limiter_crew import PROCESSES, SCOPES, Crew
from tests.contract.limiter_scope import open_scope
from tests.fixtures.tcp_proxy import TcpProxy
from tests.waiting import wait_until

PASSWORD = "correct-horse"
GUARD_S = 2.0
_OPTIONS = ("--requirepass", PASSWORD, "--repl-diskless-sync-delay", "0")
_CALLS_BEFORE = 60
_CALLS_AFTER = 60
# Longer than the second for which a booking made before it may still be used.
_AWAY_S = 1.2
_CALLS_OF_A_SECOND = 100


def url_of(port: int) -> str:
    """Return the address with the credentials in it, as an operator would configure it."""
    return f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


def _replica_of(server: RedisServer) -> RedisServer:
    follow = ("--replicaof", f"127.0.0.1 {server.port}", "--masterauth", PASSWORD)
    return RedisServer(extra=(*_OPTIONS, *follow))


@dataclass(slots=True, kw_only=True)
class Place:
    """Where a fault happens: the server, its administrator, and the crew, which may come by the proxy."""

    server: RedisServer
    replica: RedisServer | None
    admin: redis.asyncio.Redis
    proxy: TcpProxy
    crew: Crew


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to go away. The block of `on(place)` is the time for which Redis is away.

    `is_other_run`: another run of Redis answers afterwards, so that the 2 s guard is due.
    """

    name: str
    on: Callable[[Place], AbstractAsyncContextManager[None]]
    is_other_run: bool = False
    by_proxy: bool = False
    with_replica: bool = False
    appendonly: bool = False
    away_s: float = _AWAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A crew's way through a fault, in the event loop's time."""

    crew: Crew
    away_at: float
    back_at: float
    was_up: list[float | None]
    was_up_while_away: list[float | None]

    def between(self, begin: float, end: float) -> list[float]:
        """Return the starts of all calls after `begin` and until `end`."""
        return [at for starts in self.crew.starts.values() for at in starts if begin < at <= end]

    def longest_pause_s(self) -> float:
        """Return the longest time without a call that any scope had from the loss on."""
        return max(
            later - earlier
            for starts in self.crew.starts.values()
            for earlier, later in itertools.pairwise(starts)
            if later > self.away_at
        )

    def pauses_s(self) -> list[float]:
        """Return how long after Redis's return the first call of each scope began."""
        back_at = self.back_at
        return [min(at for at in starts if at > back_at) - back_at for starts in self.crew.starts.values()]


async def pass_through(
    fault: Fault, *, calls_before: int = _CALLS_BEFORE, calls_after: int = _CALLS_AFTER
) -> Passage:
    """Let a crew work, lose Redis, get it back and work on."""
    now, crew = asyncio.get_running_loop().time, Crew()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(appendonly=fault.appendonly, extra=_OPTIONS))
        replica = stack.enter_context(_replica_of(server)) if fault.with_replica else None
        proxy = await stack.enter_async_context(TcpProxy(server.port))
        admin = await stack.enter_async_context(
            connect(url_of(server.port), max_connections=2, timeout_s=2.0)
        )
        for scope in SCOPES:
            await open_scope(admin, scope)
        address = url_of(proxy.port if fault.by_proxy else server.port)
        await stack.enter_async_context(crew.at_work(address))
        await crew.more(calls_before)
        was_up = crew.up()
        async with fault.on(Place(server=server, replica=replica, admin=admin, proxy=proxy, crew=crew)):
            away_at = now()
            await wait_until(lambda: now() > away_at + fault.away_s)
            was_up_while_away = crew.up()
        back_at = now()
        await crew.more(1, timeout_s=GUARD_S + 3)
        await wait_until(lambda: crew.up() == [1] * PROCESSES, timeout_s=2, what="both processes reach it")
        await crew.more(calls_after)
    return Passage(
        crew=crew,
        away_at=away_at,
        back_at=back_at,
        was_up=was_up,
        was_up_while_away=was_up_while_away,
    )


# --- the server is there, and of no use -----------------------------------------------------------------


@asynccontextmanager
async def _hung(place: Place) -> AsyncIterator[None]:
    os.kill(place.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(place.server.pid, signal.SIGCONT)


def _slow(latency_s: float) -> Callable[[Place], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def slow(place: Place) -> AsyncIterator[None]:
        place.proxy.latency_s = latency_s
        yield
        place.proxy.latency_s = 0.0

    return slow


@asynccontextmanager
async def _read_only(place: Place) -> AsyncIterator[None]:
    await place.admin.replicaof("127.0.0.1", free_port())
    yield
    await place.admin.replicaof("NO", "ONE")


@asynccontextmanager
async def _out_of_memory(place: Place) -> AsyncIterator[None]:
    await place.admin.config_set("maxmemory", "1mb")
    yield
    await place.admin.config_set("maxmemory", "0")


@asynccontextmanager
async def _busy(place: Place) -> AsyncIterator[None]:
    await place.admin.config_set("lua-time-limit", 20)
    endless = asyncio.ensure_future(place.admin.eval("while true do end", 0))
    await wait_until(lambda: 0 in place.crew.up())
    yield
    await place.admin.script_kill()
    with suppress(ResponseError):
        await endless


@asynccontextmanager
async def _wrong_password(place: Place) -> AsyncIterator[None]:
    # Connections that are open stay logged in, so they are cut.
    await place.admin.config_set("requirepass", "changed")
    await place.admin.client_kill_filter(_type="normal", skipme=True)
    yield
    await place.admin.config_set("requirepass", PASSWORD)


# --- another run of the server --------------------------------------------------------------------------


@asynccontextmanager
async def _restarted(place: Place) -> AsyncIterator[None]:
    place.server.kill()
    yield
    await asyncio.to_thread(place.server.start)
    # Its connection ended with the server, and the client would find out by an error.
    await place.admin.connection_pool.disconnect()


@asynccontextmanager
async def _restarted_with_its_data(place: Place) -> AsyncIterator[None]:
    await _write(place.admin, "kept")
    async with _restarted(place):
        yield
    assert await _left(place.admin) == {"kept"}


@asynccontextmanager
async def _restarted_with_older_data(place: Place) -> AsyncIterator[None]:
    await _write(place.admin, "kept")
    await place.admin.save()
    await _write(place.admin, "lost")
    await place.crew.more(_CALLS_OF_A_SECOND)
    async with _restarted(place):
        yield
    assert await _left(place.admin) == {"kept"}


@asynccontextmanager
async def _restarted_empty(place: Place) -> AsyncIterator[None]:
    await _write(place.admin, "lost")
    async with _restarted(place):
        yield
    assert await _left(place.admin) == set()


def _failed_over(calls_behind: int) -> Callable[[Place], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def failed_over(place: Place) -> AsyncIterator[None]:
        assert place.replica is not None
        await _write(place.admin, "kept")
        async with connect(url_of(place.replica.port), max_connections=2, timeout_s=2.0) as replica:
            await _until_in_step(replica)
            # From here on its data lag.
            await replica.replicaof("NO", "ONE")
            await _write(place.admin, "lost")
            await place.crew.more(calls_behind)
            place.server.kill()
            yield
            place.proxy.move_to(place.replica.port)
            assert await _left(replica) == {"kept"}

    return failed_over


async def _write(server: redis.asyncio.Redis, mark: str) -> None:
    await server.sadd("marks", mark)


async def _left(server: redis.asyncio.Redis) -> set[str]:
    """Return the marks that came back: a fault that loses no data would prove nothing."""
    return {str(mark, "ascii") for mark in await server.smembers("marks") if isinstance(mark, bytes)}


async def _link(replica: redis.asyncio.Redis) -> str:
    return str((await replica.info("replication"))["master_link_status"])


async def _until_in_step(replica: redis.asyncio.Redis) -> None:
    deadline = asyncio.get_running_loop().time() + 5
    while await _link(replica) != "up" or await _left(replica) != {"kept"}:
        assert asyncio.get_running_loop().time() < deadline, "the replica never followed"
        await asyncio.sleep(0.01)


REFUSED = Fault(name="connection refused", on=_restarted_with_its_data, is_other_run=True, appendonly=True)
HUNG = Fault(name="hung", on=_hung)
TOO_SLOW = Fault(name="slow: 300 ms", on=_slow(0.3), by_proxy=True)
SLOW = Fault(name="slow: 100 ms", on=_slow(0.1), by_proxy=True)
READ_ONLY = Fault(name="read-only", on=_read_only)
OUT_OF_MEMORY = Fault(name="out of memory", on=_out_of_memory)
BUSY = Fault(name="busy with a script", on=_busy)
WRONG_PASSWORD = Fault(name="wrong password", on=_wrong_password)
OLDER_DATA = Fault(name="restart, data a second old", on=_restarted_with_older_data, is_other_run=True)
EMPTY = Fault(name="restart, empty", on=_restarted_empty, is_other_run=True)
FAILOVER = Fault(
    name="failover, data a second old",
    on=_failed_over(_CALLS_OF_A_SECOND),
    is_other_run=True,
    by_proxy=True,
    with_replica=True,
)
FAILOVER_AT_ONCE = Fault(
    name="failover at once, data 0.3 s old",
    on=_failed_over(_CALLS_OF_A_SECOND * 3 // 10),
    is_other_run=True,
    by_proxy=True,
    with_replica=True,
    away_s=0.0,
)
FAULTS = (
    REFUSED,
    HUNG,
    TOO_SLOW,
    SLOW,
    READ_ONLY,
    OUT_OF_MEMORY,
    BUSY,
    WRONG_PASSWORD,
    OLDER_DATA,
    EMPTY,
    FAILOVER,
    FAILOVER_AT_ONCE,
)
