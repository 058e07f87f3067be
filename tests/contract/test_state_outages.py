"""What RedisState does when Redis is not as it should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
import redis.asyncio

from sluicegate.errors import StateUnavailableError
from sluicegate.local.redis_server import RedisServer
from sluicegate.state.api import Copy, End, EndKind, HistoryEntry, Lease, ParkVerdict, Run, Stale
from sluicegate.state.connecting import connect
from sluicegate.state.keys import keys_of
from sluicegate.state.patient import patiently
from sluicegate.state.redis_state import RedisState
from tests.contract.state_stands import GROUP, counted_ids, event
from tests.fixtures.tcp_proxy import TcpProxy


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Return a server of the test's own, which it may kill; it keeps its data."""
    with RedisServer(appendonly=True, extra=("--appendfsync", "always")) as running:
        yield running


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """Return a client of that server that tries once."""
    client = connect(server.url, max_connections=64, timeout_s=2.0)
    yield client
    await client.aclose()


def state_on(client: redis.asyncio.Redis, timeout_s: float = 2.0) -> RedisState:
    """Return the state under test."""
    return RedisState(client, group=GROUP, new_gen=counted_ids(), timeout_s=timeout_s)


async def test_a_flushed_script_cache_is_not_noticed(redis_client: redis.asyncio.Redis) -> None:
    """NOSCRIPT is answered with the whole script, also in the middle of a pipeline."""
    state = state_on(redis_client)
    assert isinstance((await state.take(event(1), Copy())).verdict, Run)
    await redis_client.script_flush()
    assert isinstance((await state.take(event(1), Copy())).verdict, Run)
    await state.renew([Lease(ref=event(1), step=str(step), owner="a") for step in range(3)])


async def test_many_events_share_a_few_connections(redis_client: redis.asyncio.Redis) -> None:
    """Two hundred events at once do not open two hundred connections."""
    state = state_on(redis_client)
    async with asyncio.TaskGroup() as group:
        for offset in range(200):
            group.create_task(state.take(event(offset, key=str(offset)), Copy()))
    assert len(await redis_client.client_list()) <= 20


async def test_a_killed_server_is_unavailable_and_its_return_is_used(
    server: RedisServer, client: redis.asyncio.Redis
) -> None:
    """The error is ours, and no connection of the old server is left to trip over."""
    state = state_on(client)
    await state.take(event(1), Copy())
    server.kill()
    with pytest.raises(StateUnavailableError):
        await state.take(event(1), Copy())
    server.start()
    assert isinstance((await patiently(lambda: state.take(event(1), Copy()))).verdict, Run)


async def test_what_is_written_after_a_restart_carries_the_new_servers_run_id(
    server: RedisServer, client: redis.asyncio.Redis
) -> None:
    """A row is of the server that wrote it, although the process and its pool lived on."""
    state = state_on(client)
    first_run = (await client.info("server"))["run_id"]
    await state.take(event(1), Copy())
    server.kill()
    server.start()
    await patiently(lambda: state.take(event(2), Copy()))
    observer = connect(server.url, max_connections=64, timeout_s=2.0)
    second_run = (await observer.info("server"))["run_id"]
    rows = [await observer.hget(keys_of(GROUP, event(offset)).row, "run") for offset in (1, 2)]
    await observer.aclose()
    assert rows == [first_run.encode(), second_run.encode()]
    assert first_run != second_run


async def test_a_switch_lost_with_a_real_server_is_made_up_for(
    server: RedisServer, client: redis.asyncio.Redis
) -> None:
    """G1 through a stale failover: the copy in Kafka counts, not the row that came back older."""
    state, now_ms = state_on(client), 0
    verdict = (await state.take(event(1), Copy())).verdict
    assert isinstance(verdict, Run)
    first = Copy(id="1-a", replaces="input")
    switched = await state.park(event(1), Copy(), first, verdict.gen, now_ms)
    assert switched is ParkVerdict.SWITCHED
    later = Copy(id="3-c", replaces="2-b")
    assert (await state.take(event(1), later)).verdict == Stale()
    server.kill()
    server.start()
    taken = await patiently(lambda: state.take(event(1), later))
    assert taken.switch_was_lost
    assert isinstance(taken.verdict, Run)


async def test_a_hung_server_is_given_up_in_time(server: RedisServer, client: redis.asyncio.Redis) -> None:
    """Every call ends within its timeout, and a late answer is never taken for another call's."""
    state = state_on(client, timeout_s=0.2)
    await state.take(event(1), Copy())
    observer = connect(server.url, max_connections=64, timeout_s=2.0)
    await observer.client_pause(600, all=True)
    with pytest.raises(StateUnavailableError, match="TimeoutError"):
        await state.take(event(1), Copy())
    await observer.client_unpause()
    await observer.aclose()
    assert isinstance((await patiently(lambda: state.take(event(2), Copy()))).verdict, Run)


async def test_a_read_only_server_is_unavailable_with_its_reason(
    server: RedisServer, client: redis.asyncio.Redis
) -> None:
    """A failover that demoted the server under us is waited for like an outage, and named."""
    state = state_on(client)
    await client.replicaof("127.0.0.1", 1)
    with pytest.raises(StateUnavailableError, match=r"\(ReadOnlyError\)"):
        await state.take(event(1), Copy())
    await client.replicaof("NO", "ONE")
    assert isinstance((await state.take(event(1), Copy())).verdict, Run)


async def test_a_server_busy_with_a_script_is_unavailable_with_its_reason(
    server: RedisServer, client: redis.asyncio.Redis
) -> None:
    """Somebody's endless script is waited for like an outage, and named."""
    state = state_on(client)
    await client.config_set("lua-time-limit", 10)
    endless = asyncio.ensure_future(client.eval("while true do end", 0))
    with pytest.raises(StateUnavailableError, match="BUSY"):
        # The first one may come before the script has run for so long, and be answered by a timeout.
        while True:
            await state_on(client).take(event(1), Copy())
    await client.script_kill()
    with suppress(redis.exceptions.ResponseError):
        await endless
    assert isinstance((await state.take(event(1), Copy())).verdict, Run)


async def test_a_slow_server_delays_its_callers_and_not_the_event_loop(server: RedisServer) -> None:
    """Events that need nothing of Redis go on while others wait for it."""
    async with (
        TcpProxy(server.port) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}/0", max_connections=4, timeout_s=2.0) as slow,
    ):
        state = state_on(slow)
        await state.take(event(1), Copy())
        proxy.latency_s = 0.4
        loop = asyncio.get_running_loop()
        taking, turns, longest_s = asyncio.ensure_future(state.take(event(2), Copy())), 0, 0.0
        while not taking.done():
            began = loop.time()
            await asyncio.sleep(0)
            turns, longest_s = turns + 1, max(longest_s, loop.time() - began)
        assert isinstance((await taking).verdict, Run)
    assert turns > 100
    assert longest_s < proxy.latency_s / 2


async def test_a_server_whose_name_does_not_resolve_is_unavailable() -> None:
    """DNS that fails is an outage like any other: it passes, or `doctor` names it."""
    async with connect("redis://redis.invalid:6379/0", max_connections=1, timeout_s=2.0) as nowhere:
        with pytest.raises(StateUnavailableError, match=r"\((ConnectionError|TimeoutError)\)"):
            await state_on(nowhere).take(event(1), Copy())


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [("maxmemory", "1", r"\(OutOfMemoryError\)"), ("requirepass", "secret-1", r"\(AuthenticationError\)")],
)
async def test_a_server_that_refuses_is_unavailable_with_its_reason(
    server: RedisServer, client: redis.asyncio.Redis, setting: str, value: str, code: str
) -> None:
    """Out of memory or a changed password is waited for like an outage, and named; nothing is quoted."""
    state = state_on(client)
    await client.config_set(setting, value)
    await client.connection_pool.disconnect()
    with pytest.raises(StateUnavailableError, match=code) as caught:
        await state.take(event(1), Copy())
    assert "secret" not in str(caught.value)


NEXT = Copy(id="1-a", replaces="input")
RESULT = End(kind=EndKind.RESULT)
LEASE = Lease(ref=event(1), step="reply", owner="a")
METHODS: dict[str, Callable[[RedisState], Awaitable[object]]] = {
    "take": lambda state: state.take(event(1), Copy()),
    "intend_park": lambda state: state.intend_park(event(1), 0),
    "park": lambda state: state.park(event(1), Copy(), NEXT, "gen-1", 0),
    "claim": lambda state: state.claim(event(1), "gen-1", RESULT),
    "finish": lambda state: state.finish(event(1), "gen-1", RESULT),
    "begin": lambda state: state.begin(LEASE, "h1"),
    "complete": lambda state: state.complete(LEASE, "h1", b"answer"),
    "earlier": lambda state: state.earlier(event(1)),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_newer_layout_is_left_alone(redis_client: redis.asyncio.Redis, method: str) -> None:
    """During a rolling upgrade an old worker waits instead of misreading."""
    state, keys = state_on(redis_client), keys_of(GROUP, event(1))
    await redis_client.hset(keys.row, mapping={"v": "2", "gen": "gen-1", "live": "input"})
    await redis_client.hset(keys.steps, "v", "2")
    with pytest.raises(StateUnavailableError, match="LAYOUT"):
        await METHODS[method](state)


async def test_the_gate_outlives_the_rows_that_opened_it(redis_client: redis.asyncio.Redis) -> None:
    """A follower must find its predecessor open for as long as a copy of that may come."""
    state, keys = state_on(redis_client), keys_of(GROUP, event(1))
    gate_keys = (keys.gate, keys.gate_entries)
    verdict = (await state.take(event(1), NEXT)).verdict
    assert isinstance(verdict, Run)
    adopted_ms = [await redis_client.pttl(key) for key in gate_keys]
    seconds, _ = await redis_client.time()
    due_at_ms = (seconds + 48 * 3600) * 1000
    await state.park(event(1), NEXT, Copy(id="2-b", replaces="1-a"), verdict.gen, due_at_ms)
    parked_ms = [await redis_client.pttl(key) for key in gate_keys]
    day_ms = 86_400_000
    assert adopted_ms == [pytest.approx(8 * day_ms, abs=5000)] * 2
    assert parked_ms == [pytest.approx(9 * day_ms, abs=5000)] * 2


async def test_a_finished_event_leaves_no_content_and_a_history_of_a_week(
    redis_client: redis.asyncio.Redis,
) -> None:
    """G7: what was claimed goes with the end; the conversation goes a week after its last line."""
    state, keys = state_on(redis_client), keys_of(GROUP, event(1))
    said = HistoryEntry(speaker="agent", text="hello")
    spoken = End(kind=EndKind.RESULT, value=b"private", history=(said,))
    await state.claim(event(1), "gen-1", spoken)
    await state.finish(event(1), "gen-1", spoken)
    assert "private" not in str(await redis_client.hgetall(keys.row))
    assert await redis_client.pttl(keys.history) == pytest.approx(7 * 86_400_000, abs=5000)


async def test_every_key_begins_with_the_group_and_names_no_customer(
    redis_client: redis.asyncio.Redis,
) -> None:
    """G7, and an ACL user limited to its prefix: keys carry one hash tag and the key's hash only."""
    state = state_on(redis_client)
    ref = event(1, key="jane.doe@example.com")
    taken = await state.take(ref, Copy())
    assert isinstance(taken.verdict, Run)
    await state.park(ref, Copy(), Copy(id="1-a", replaces="input"), taken.verdict.gen, 0)
    await state.begin(Lease(ref=ref, step="reply", owner="a"), "h1")
    names = [key.decode() async for key in redis_client.scan_iter()]
    tags = {name.partition("{")[2].partition("}")[0] for name in names}
    assert len(names) == 4
    assert len(tags) == 1
    assert all(name.startswith(f"{GROUP}:{{support-chat/") for name in names)
    assert not any("jane" in name for name in names if ":steps:" not in name)
