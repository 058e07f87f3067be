"""`sluicegate limits` beside limiters at work on a real Redis, and without one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from sluicegate.cli.limits import Observer, named_scopes
from sluicegate.cli.limits_view import as_json
from sluicegate.cli.main import build_app, run
from sluicegate.limiter.api import Ask, Cost, Lane, Permit, Signal, SignalKind
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.quotas import quota_for
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.limiter.stored import ScopeKeys
from sluicegate.llm.outcomes import QuotaKind, QuotaReport
from sluicegate.local.redis_server import RedisServer
from sluicegate.settings import Settings, load_settings
from sluicegate.telemetry.metrics import Metrics
from tests.contract.limiter_scope import open_scope
from tests.waiting import wait_until_sync

_LIMITS = """
[limits.main]
requests_per_minute = 6000
tokens_per_minute = 600000
requests_per_day = 1000
concurrency = 4
"""


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    """Return a file of settings for the test's Redis."""
    return _written(tmp_path, redis_url)


@pytest.fixture
def limited(config: Path) -> Settings:
    """Return those settings."""
    return load_settings(config, {})


@asynccontextmanager
async def at_work(
    client: redis.asyncio.Redis, settings: Settings, scope: str = "main", quota: Quota | None = None
) -> AsyncIterator[RedisLimiter]:
    """Run a limiter of the process `worker-1` on an open scope while the block lasts."""
    await open_scope(client, scope)
    limiter = RedisLimiter(
        client,
        scope=scope,
        quota=quota or quota_for(settings, scope),
        metrics=Metrics(),
        process_id="worker-1",
    )
    loop = asyncio.ensure_future(limiter.run())
    try:
        yield limiter
    finally:
        loop.cancel()
        await asyncio.wait({loop})


async def _permit(limiter: RedisLimiter, tokens: int = 100) -> Permit:
    ask = Ask(lane=Lane.INTERACTIVE, cost=Cost(tokens=tokens), origin_timestamp_ms=0)
    permit = await limiter.acquire(ask)
    assert isinstance(permit, Permit)
    return permit


async def _seen(client: redis.asyncio.Redis, settings: Settings, scope: str = "main") -> dict[str, Any]:
    """Return what `--json` says of the scope, as programs read it."""
    printed = json.loads(json.dumps(as_json(await Observer(client, settings).look())))
    (found,) = (each for each in printed["scopes"] if each["scope"] == scope)
    assert isinstance(found, dict)
    return found


async def test_permits_and_processes_are_seen(redis_client: redis.asyncio.Redis, limited: Settings) -> None:
    """What is on the wire counts against the places and the day, and is reported by its process."""
    async with at_work(redis_client, limited) as limiter:
        permits = [await _permit(limiter) for _ in range(3)]
        found: dict[str, Any] = {}
        async with asyncio.timeout(5):
            while found.get("processes", {}).get("worker-1", {}).get("on_the_wire_calls") != len(permits):
                found = await _seen(redis_client, limited)

    assert found["in_settings"]
    assert found["is_used"]
    assert found["dimensions"]["concurrency"]["used"] == 3
    assert found["dimensions"]["requests-per-day"]["used"] == 3
    assert found["dimensions"]["requests-per-minute"]["limit"] == 6000
    assert found["processes"]["worker-1"]["seen_s_ago"] < 10


async def test_a_debt_is_seen_as_the_next_calls_wait(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """100,000 of 600,000 tokens a minute take ten seconds to refill; a usual call's worth may go before."""
    async with at_work(redis_client, limited) as limiter:
        await _permit(limiter, tokens=1_000)
        await _permit(limiter, tokens=100_000)
        found = await _seen(redis_client, limited)

    assert 8 < found["dimensions"]["tokens-per-minute"]["refilled_in_s"] <= 10
    assert 8 < found["next_call"]["wait_s"] <= 10
    assert found["next_call"]["bound_by"] == "tokens-per-minute"


async def test_a_refusal_is_seen_as_a_block(redis_client: redis.asyncio.Redis, limited: Settings) -> None:
    """Cause, end, the lower rate and the climb after it are there as soon as it was reported."""
    async with at_work(redis_client, limited) as limiter:
        permit = await _permit(limiter)
        await limiter.report(
            permit, Signal(kind=SignalKind.RATE_LIMITED, reason="rate-limited", retry_after_s=30)
        )
        found = await _seen(redis_client, limited)

    assert found["blocked"]["cause"] == "rate-limited"
    assert 25 < found["blocked"]["for_s"] <= 30
    assert found["next_call"]["bound_by"] == "blocked"
    assert found["safe_factor"] < 1
    assert found["slow_start"]["factor"] == 0.5


async def test_an_overload_is_seen_as_fewer_places(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """The ceiling is in force beside the four that are configured."""
    async with at_work(redis_client, limited) as limiter:
        permits = [await _permit(limiter) for _ in range(4)]
        await limiter.report(permits[-1], Signal(kind=SignalKind.OVERLOADED, reason="overloaded"))
        found = await _seen(redis_client, limited)

    assert found["dimensions"]["concurrency"]["limit"] == 2
    assert found["dimensions"]["concurrency"]["configured"] == 4
    assert found["overload_ceiling_calls"] == 2


async def test_a_halt_is_seen_as_an_open_circuit(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """Its reason, its age, and when the next probe goes."""
    async with at_work(redis_client, limited) as limiter:
        permit = await _permit(limiter)
        await limiter.report(permit, Signal(kind=SignalKind.HALTED, reason="money"))
        found = await _seen(redis_client, limited)

    assert found["circuit"]["reason"] == "money"
    assert found["circuit"]["open_for_s"] < 5
    assert 0 < found["circuit"]["next_probe_s"] <= 5
    assert not found["circuit"]["is_probing"]


async def test_a_limit_told_by_headers_is_seen_beside_the_configured_one(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """Operators see that the provider's own number is followed."""
    told = (QuotaReport(kind=QuotaKind.REQUESTS, limit=3000.0),)
    async with at_work(redis_client, limited) as limiter:
        for _ in range(3):
            limiter.settle(await _permit(limiter), None, told)
        found: dict[str, Any] = {}
        async with asyncio.timeout(5):
            while not found or found["dimensions"]["requests-per-minute"]["learnt"] is None:
                found = await _seen(redis_client, limited)

    requests = found["dimensions"]["requests-per-minute"]
    assert (requests["configured"], requests["learnt"], requests["limit"]) == (6000, 3000, 3000)


async def test_a_scope_of_another_deployment_is_found_and_marked(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """Only scopes are: neither their other keys nor those of events."""
    await redis_client.set("sluicegate:lim:{x}", "an event's")
    async with at_work(redis_client, limited, "their/model", Quota(requests_per_minute=600)) as limiter:
        await _permit(limiter)
        looks = await Observer(redis_client, limited).look()

    assert [(look.scope, look.is_named) for look in looks] == [("main", True), ("their/model", False)]


async def test_a_report_of_another_layout_is_left_out(
    redis_client: redis.asyncio.Redis, limited: Settings
) -> None:
    """A process of another version is no reason to show nothing."""
    await open_scope(redis_client)
    await redis_client.hset(ScopeKeys.of("main").processes, "other-version", b"short")

    assert (await _seen(redis_client, limited))["processes"] == {}


def test_fallbacks_and_lone_sections_have_scopes(tmp_path: Path) -> None:
    """Whatever calls may be booked on is shown, streams' own routes first."""
    path = tmp_path / "routes.toml"
    path.write_text(
        '[providers.backup]\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[streams.support-chat]\nfallback = ["backup"]\n'
        '[limits."main/unused"]\nrequests_per_minute = 1\n'
    )

    assert named_scopes(load_settings(path, {})) == ("main", "backup", "main/unused")


def test_one_look_is_one_object_on_stdout(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command exits 0 and leaves stderr empty."""
    code = run(build_app(), ["limits", "--json", "--config", str(config)])

    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert [each["scope"] for each in json.loads(captured.out)["scopes"]] == ["main"]


def test_people_get_a_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every limit that is configured."""
    code = run(build_app(), ["limits", "--config", str(config)])

    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert all(name in captured.out for name in ("main", "tokens-per-minute", "600,000", "concurrency"))


def test_without_redis_one_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is shown a traceback, and stdout stays empty."""
    config = _written(tmp_path, "redis://127.0.0.1:1/0")

    code = run(build_app(), ["limits", "--json", "--config", str(config)])

    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("sluicegate: Redis did not do what it was asked (ConnectionError)")
    assert captured.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("hangs_at_the_end", "code"), [(False, 0), (True, 1)])
def test_a_watch_outlives_redis_and_says_how_it_ended(
    tmp_path: Path, hangs_at_the_end: bool, code: int
) -> None:
    """It says so while Redis hangs, goes on when it answers, and exits 1 only if it ends without."""
    with RedisServer() as server:
        config = _written(tmp_path, server.url)
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            watching = subprocess.Popen(
                [sys.executable, "-m", "sluicegate", "limits", "--watch", "--json", "--config", str(config)],
                stdout=stdout,
                stderr=stderr,
            )
        try:
            _wait_for_lines(out, 1)
            os.kill(server.pid, signal.SIGSTOP)
            _wait_for_lines(err, 1)
            os.kill(server.pid, signal.SIGCONT)
            _wait_for_lines(out, len(_lines(out)) + 2)
            if hangs_at_the_end:
                os.kill(server.pid, signal.SIGSTOP)
                _wait_for_lines(err, len(_lines(err)) + 1)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(timeout=10) == code
        finally:
            os.kill(server.pid, signal.SIGCONT)
            watching.kill()
            watching.wait()

    assert all(line.endswith("trying again") for line in _lines(err))
    assert all(json.loads(line)["scopes"] for line in _lines(out))


def _written(folder: Path, url: str) -> Path:
    path = folder / "sluicegate.toml"
    path.write_text(f'[redis]\nurl = "{url}"\n{_LIMITS}')
    return path


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def _wait_for_lines(file: Path, count: int) -> None:
    wait_until_sync(lambda: len(_lines(file)) >= count, timeout_s=20, what=f"{count} lines in {file.name}")
