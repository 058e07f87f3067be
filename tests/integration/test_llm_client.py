"""`sluicegate.LlmClient` on a real Redis and the simulator: own code spends the quota of the workers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio

from sluicegate import LlmClient
from sluicegate.errors import CallFailedError, CircuitOpenError, ClientClosedError, QuotaBlockedError
from sluicegate.settings import Settings, load_settings
from tests.contract.limiter_scope import open_scope, read_scope
from tests.fixtures.provider import ProviderProcess
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
_WIDE_OPEN = ("--requests-per-minute", "600000", "--tokens-per-minute", "1000000000")
_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[ProviderProcess]:
    """One process for all tests that leave its quota alone."""
    with ProviderProcess(*_WIDE_OPEN) as provider:
        yield provider


@pytest.fixture
async def provider(shared_provider: ProviderProcess, redis_client: redis.asyncio.Redis) -> ProviderProcess:
    """The same without faults, and scopes in Redis that are past the guard of a fresh start."""
    shared_provider.clear_faults()
    await open_scope(redis_client, "main")
    await open_scope(redis_client, "backup")
    return shared_provider


def environ_of(provider: ProviderProcess, redis_url: str, **more: str) -> dict[str, str]:
    """Return what points a process at both; limits are above what tests need unless they say otherwise."""
    return {
        "SLUICEGATE_PROVIDERS__MAIN__BASE_URL": provider.base_url,
        "SLUICEGATE_PROVIDERS__BACKUP__BASE_URL": provider.base_url,
        "SLUICEGATE_REDIS__URL": redis_url,
        "SLUICEGATE_LIMITS__MAIN__REQUESTS_PER_MINUTE": "60000",
        **more,
    }


def settings_of(provider: ProviderProcess, redis_url: str, **more: str) -> Settings:
    """Return the same as settings."""
    return load_settings(None, environ_of(provider, redis_url, **more))


@pytest.mark.slow
async def test_a_web_handlers_calls_share_the_quota_with_a_bulk_crowd_and_go_ahead_of_it(
    redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    """Two clients, as two processes have them: not one 429 between them, and no queue for a web handler."""
    per_minute = "2400"
    await open_scope(redis_client, "main")
    with ProviderProcess(
        "--requests-per-minute", per_minute, "--tokens-per-minute", "1000000000", "--burst-s", "0.2"
    ) as provider:
        settings = settings_of(provider, redis_url, SLUICEGATE_LIMITS__MAIN__REQUESTS_PER_MINUTE=per_minute)
        crowd = LlmClient.from_settings(settings, stream="documents")
        web = LlmClient.from_settings(settings, stream="support-chat")
        async with crowd, web:
            bulk = [asyncio.create_task(crowd.complete("bulk", model="bulk", lane="bulk")) for _ in range(60)]
            await wait_until(lambda: sum(call.done() for call in bulk) >= 5, what="bulk work under way")
            answers = await asyncio.gather(*(web.complete("Where is it?", model="web") for _ in range(30)))
            await asyncio.gather(*bulk)
        stats = provider.stats()

    assert {answer.route for answer in answers} == {"main"}
    assert (stats["counts"]["refused"], stats["counts"]["answered"]) == (0, 90)
    order = [call["model"] for call in stats["calls"]]
    first, last = order.index("web"), len(order) - order[::-1].index("web")
    # A tenth is bulk's own share. Without lanes two processes would take turns: thirty.
    assert order[first:last].count("bulk") <= 12


async def test_a_refused_call_is_answered_by_its_next_attempt(
    provider: ProviderProcess, redis_url: str
) -> None:
    """In place, under the same name: the provider's record has both attempts."""
    provider.fault(kind="status", status=429, retry_after_s=0.05, retry_after_as="ms")

    async with LlmClient.from_settings(settings_of(provider, redis_url), stream="support-chat") as llm:
        answer = await llm.complete("Where is parcel A-17?", system="Be kind.", tenant="acme")

    assert "A-17" in answer.text
    refused, answered = provider.stats()["calls"][-2:]
    assert (refused["status"], answered["status"]) == (429, 200)
    assert (refused["attempt"], answered["attempt"]) == (1, 2)
    assert (refused["identity"], refused["step"]) == (answered["identity"], answered["step"])
    assert answer.usage.output_tokens == answered["completion_tokens"]


async def test_a_block_beyond_the_callers_patience_is_told_at_once_in_every_process(
    provider: ProviderProcess, redis_url: str
) -> None:
    """With the wait that the provider asked for, and without another call."""
    provider.fault(kind="cut", for_s=60, retry_after_s=40)
    settings = settings_of(provider, redis_url)
    calls = provider.stats("?summary=1")["counts"]["calls"]

    async with LlmClient.from_settings(settings, stream="support-chat", timeout_s=5) as llm:
        started = time.monotonic()
        with pytest.raises(CallFailedError) as refused:
            await llm.complete("Where is it?")
    async with LlmClient.from_settings(settings, stream="documents", timeout_s=5) as other:
        with pytest.raises(QuotaBlockedError) as blocked:
            await other.complete("Where is it?")

    assert time.monotonic() - started < 4
    assert refused.value.retry_after_s is not None
    assert blocked.value.retry_after_s is not None
    assert 40 <= refused.value.retry_after_s <= 44
    assert 35 < blocked.value.retry_after_s <= 40
    assert provider.stats("?summary=1")["counts"]["calls"] == calls + 1


async def test_a_waiter_that_is_cancelled_gives_back_what_it_had_booked(
    provider: ProviderProcess, redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    """And leaving the client tells Redis so before its connection is closed."""
    settings = settings_of(provider, redis_url, SLUICEGATE_LIMITS__MAIN__REQUESTS_PER_MINUTE="6")

    async def booked_until_us() -> int:
        return (await read_scope(redis_client)).tats_us[0]

    async with LlmClient.from_settings(settings, stream="support-chat") as llm:
        await llm.complete("the only one")
        before_us = await booked_until_us()
        waiting = asyncio.create_task(llm.complete("ten seconds later"))
        while await booked_until_us() == before_us:
            assert not waiting.done()
        waiting.cancel()
        await asyncio.wait({waiting})

    assert waiting.cancelled()
    assert await booked_until_us() == before_us


async def test_leaving_the_client_waits_for_calls_on_the_wire_and_lets_the_waiting_go(
    provider: ProviderProcess, redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    """What was sent is paid for and answered; who waits for quota is told, not left hanging."""
    provider.fault(kind="slow", delay_s=0.5)
    settings = settings_of(provider, redis_url, SLUICEGATE_LIMITS__MAIN__REQUESTS_PER_MINUTE="6")

    async with LlmClient.from_settings(settings, stream="support-chat") as llm:
        on_the_wire = asyncio.create_task(llm.complete("sent"))
        await wait_until(lambda: provider.stats("?summary=1")["in_flight"] == 1, what="a call on the wire")
        waiting = asyncio.create_task(llm.complete("ten seconds later"))
        await asyncio.sleep(0)

    assert on_the_wire.result().route == "main"
    assert isinstance(waiting.exception(), ClientClosedError)
    assert (await read_scope(redis_client)).newest >= 1


@pytest.mark.slow
async def test_an_open_circuit_is_told_at_once_and_closed_by_a_call_that_waits_for_its_probe(
    provider: ProviderProcess, redis_url: str
) -> None:
    """Without any worker own code finds out by itself that the key is good again."""
    provider.fault(kind="status", status=401, for_s=60)

    async with LlmClient.from_settings(settings_of(provider, redis_url), stream="support-chat") as llm:
        with pytest.raises(CallFailedError, match="credentials"):
            await llm.complete("Where is it?", timeout_s=4)
        with pytest.raises(CircuitOpenError, match="credentials") as told:
            await llm.complete("Where is it?", timeout_s=4)
        assert told.value.retry_after_s is not None
        assert 4 < told.value.retry_after_s <= 5
        provider.clear_faults()
        answer = await llm.complete("Where is it?", timeout_s=20)
        at_once = await llm.complete("And this one?", timeout_s=4)

    assert (answer.route, at_once.route) == ("main", "main")


@pytest.mark.slow
async def test_the_fallback_answers_until_a_probe_finds_the_own_provider_well(
    provider: ProviderProcess, redis_url: str
) -> None:
    """From the call that found out, which the answer says, to one of those that could have gone elsewhere."""
    provider.fault(kind="status", status=401)
    client = LlmClient.from_settings(
        settings_of(provider, redis_url), provider="main", model="small", fallback=["backup/large"]
    )

    async with client as llm:
        answers = [await llm.complete("Where is it?", timeout_s=10) for _ in range(2)]
        assert provider.last_call()["model"] == "large"
        async with asyncio.timeout(20):
            while answers[-1].route != "main":
                answers.append(await llm.complete("Where is it?"))

    routes = [answer.route for answer in answers]
    assert routes == ["backup/large"] * (len(routes) - 1) + ["main"]
    assert len(routes) > 2


async def test_another_model_is_asked_under_its_own_limits(
    provider: ProviderProcess, redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    """`model` takes the most exact scope, and what ran in it is known to Redis when the client is closed."""
    await open_scope(redis_client, "main/large")
    environ = {"SLUICEGATE_LIMITS__MAIN/LARGE__REQUESTS_PER_MINUTE": "600"}
    settings = settings_of(provider, redis_url, **environ)

    async with LlmClient.from_settings(settings, stream="support-chat") as llm:
        await llm.complete("Where is it?", model="large")

    assert provider.last_call()["model"] == "large"
    assert (await read_scope(redis_client, "main/large")).newest == 1
    assert (await read_scope(redis_client, "main")).newest == 0


@pytest.mark.slow
async def test_the_example_of_the_documentation_runs_as_it_stands(
    provider: ProviderProcess, redis_url: str, tmp_path: Path
) -> None:
    """With nothing but addresses in the environment."""
    page = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
    example = tmp_path / "example.py"
    example.write_text(_PYTHON_BLOCK.findall(page)[0], encoding="utf-8")

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(example)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ_of(provider, redis_url)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "A-17" in done.stdout
    assert "answered by main" in done.stdout
