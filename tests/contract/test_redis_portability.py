"""Every script runs on all that is sold as Redis: 6.2, later ones, Valkey, and a node of a cluster."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.crc import key_slot

import sluicegate
from sluicegate.limiter.stored import ScopeKeys
from sluicegate.local.redis_server import RedisServer, free_port
from sluicegate.state.connecting import connect
from tests.contract.limiter_crew import SCOPES, Crew
from tests.contract.limiter_scope import open_scope
from tests.waiting import wait_until

SCRIPTS = sorted(Path(sluicegate.__file__).parent.rglob("*.lua"))
OLDEST = (6, 2)
# What the scripting engine of 6.2 offers, of which we use this much.
ENGINE = {"redis.call", "redis.pcall", "redis.error_reply"}


def _code(script: Path) -> str:
    return re.sub(r"--[^\n]*", "", script.read_text(encoding="utf-8"))


@pytest.mark.parametrize("scope", ["main", "main/gpt-4o-mini", "main/org:model-1.5"])
def test_all_keys_of_a_scope_are_in_one_slot(scope: str) -> None:
    """A cluster runs a script only on keys of one slot."""
    keys_of = ScopeKeys.of(scope)
    keys = [keys_of.state, keys_of.leases, keys_of.days, keys_of.processes]
    keys += [keys_of.batch("worker-1"), keys_of.batch("worker-2")]
    assert len({key_slot(key.encode()) for key in keys}) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_needs_no_later_engine(script: Path) -> None:
    """No header of flags (7.0), no functions, none of the objects that came later."""
    assert not script.read_text(encoding="utf-8").startswith("#!")
    code = _code(script)
    assert set(re.findall(r"\b(?:redis|server)\.\w+", code)) <= ENGINE
    # These took an option in 7.0 (NX, XX, GT, LT).
    assert not re.search(r"'P?EXPIRE(?:AT)?',[^\n]*'(?:NX|XX|GT|LT)'", code)


async def test_every_command_in_a_script_was_there_in_the_oldest_server(
    redis_client: redis.asyncio.Redis,
) -> None:
    """The server itself says since when it has each command."""
    assert SCRIPTS
    used = {name for script in SCRIPTS for name in re.findall(r"redis\.p?call\('([A-Z]+)'", _code(script))}
    calls = sum(len(re.findall(r"redis\.p?call\(", _code(script))) for script in SCRIPTS)
    named = sum(len(re.findall(r"redis\.p?call\('[A-Z]+'", _code(script))) for script in SCRIPTS)
    assert calls == named
    if _version((await redis_client.info("server"))["redis_version"]) < (7, 0):
        pytest.skip("this server is too old to say")
    too_new = [name for name in sorted(used) if await _since(redis_client, name) > OLDEST]
    assert too_new == []


async def _since(client: Any, command: str) -> tuple[int, ...]:  # redis-py leaves the method unannotated
    """Return the major and minor version that brought a command."""
    docs = await client.execute_command("COMMAND DOCS", command.lower())
    fields = docs[command.lower().encode()]
    return _version(fields[b"since"].decode())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _port_with_a_bus() -> int:
    """Return a port that leaves a node's second one free: 6.2 knows no other place than 10,000 above."""
    for _ in range(100):
        port = free_port()
        with socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    pytest.fail("no port is free together with the one 10,000 above it")


@pytest.fixture
def cluster_node() -> Iterator[RedisServer]:
    """Return a server that knows only the keys that a script declares, all of one slot."""
    with RedisServer(port=_port_with_a_bus(), extra=("--cluster-enabled", "yes")) as server:
        yield server


async def _own_all_slots(client: Any) -> None:
    await client.execute_command("CLUSTER ADDSLOTS", *range(16384))
    deadline = time.monotonic() + 10
    while "cluster_state:ok" not in str(await client.execute_command("CLUSTER", "INFO")):
        assert time.monotonic() < deadline, "the cluster never became ready"


async def test_the_limiter_works_on_a_node_of_a_cluster(cluster_node: RedisServer) -> None:
    """The server itself refuses a script whose keys are not all of one slot."""
    crew = Crew()
    async with connect(cluster_node.url, max_connections=2, timeout_s=2.0) as client:
        await _own_all_slots(client)
        for scope in SCOPES:
            await open_scope(client, scope)
        async with crew.at_work(cluster_node.url):
            await crew.more(30)
            await wait_until(lambda: crew.up() == [1, 1])
