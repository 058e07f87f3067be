"""The client against real HTTP: the simulator as its own process, and servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.llm.api import CallRequest, Message
from sluicegate.llm.api_key import ApiKeyFile
from sluicegate.llm.client import HttpLlmCaller
from sluicegate.llm.outcomes import (
    Completed,
    Failed,
    Halted,
    Outcome,
    QuotaKind,
    Reason,
    Rejected,
    Throttled,
)
from tests.fixtures.provider import COMMAND, ProviderProcess
from tests.waiting import wait_until, wait_until_sync

_CANARY = "canary-7f3a"
_KEY = "sk-canary-key-91"
_FORMATS = ("openai", "anthropic")


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[ProviderProcess]:
    """One process for all tests that leave its quota alone."""
    with ProviderProcess("--requests-per-minute", "600000", "--tokens-per-minute", "1000000000") as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: ProviderProcess) -> ProviderProcess:
    """The same, without a fault that another test left."""
    shared_provider.clear_faults()
    return shared_provider


def _request(
    number: int = 0, *, json_object: bool = False, text: str = "Where is parcel A-17?"
) -> CallRequest:
    return CallRequest(
        model="small",
        messages=(Message(role="system", text="Be kind."), Message(role="user", text=text)),
        max_output_tokens=100,
        request_id=f"event-{number}/reply/1",
        json_object=json_object,
    )


def _caller(
    base_url: str,
    format: str = "openai",
    *,
    timeout_s: float = 5.0,
    key: str | None = None,
    cap: int = 1 << 20,
) -> HttpLlmCaller:
    return HttpLlmCaller(format, base_url, api_key=lambda: key, timeout_s=timeout_s, max_answer_bytes=cap)


async def _call(base_url: str, format: str = "openai", *, timeout_s: float = 5.0) -> Outcome:
    async with _caller(base_url, format, timeout_s=timeout_s) as caller:
        return await caller.call(_request())


def _without_quotas(outcome: Outcome) -> Outcome:
    return replace(outcome, quotas=())


@asynccontextmanager
async def _server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server on loopback that does with a connection what it likes; gives its base URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://localhost:{port}/v1"
    finally:
        server.close()


def _raw_answer(raw: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()

    return answer


async def test_a_rotated_key_goes_out_with_the_next_call_of_the_same_client(tmp_path: Path) -> None:
    """The file alone is changed: neither the process nor its connections are made anew."""
    path = tmp_path / "key"
    path.write_text("sk-first\n")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.extend(line for line in head.splitlines() if line.lower().startswith(b"authorization"))
        writer.write(b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()

    async with _server(listen) as base_url:
        caller = HttpLlmCaller("openai", base_url, api_key=ApiKeyFile(path), timeout_s=5)
        async with caller:
            await caller.call(_request())
            path.write_text("sk-second\n")
            await caller.call(_request())

    assert [line.partition(b" ")[2] for line in heard] == [b"Bearer sk-first", b"Bearer sk-second"]


@pytest.mark.parametrize("format", _FORMATS)
async def test_a_call_is_answered_and_recorded_with_its_id(provider: ProviderProcess, format: str) -> None:
    """Text, model and usage come back; identity, step and attempt are in the provider's record."""
    outcome = await _call(provider.base_url, format)
    assert isinstance(outcome, Completed)
    assert "A-17" in outcome.text
    assert outcome.usage.input_tokens > 0 < outcome.usage.output_tokens
    call = provider.last_call()
    assert (call["identity"], call["step"], call["attempt"]) == ("event-0", "reply", 1)
    assert (call["format"], call["admitted"], call["status"], call["model"]) == (format, True, 200, "small")
    assert call["completed_at"] > call["received_at"]
    assert call["completion_tokens"] == outcome.usage.output_tokens


async def test_a_call_that_asks_for_json_gets_an_object(provider: ProviderProcess) -> None:
    """`json_object` reaches the provider as its response format."""
    async with _caller(provider.base_url) as caller:
        outcome = await caller.call(_request(json_object=True))
    assert isinstance(outcome, Completed)
    assert set(json.loads(outcome.text)) == {"summary", "tags"}


_FAULTS: list[tuple[dict[str, Any], Outcome]] = [
    (
        {"kind": "status", "status": 429, "retry_after_s": 7},
        Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=7),
    ),
    (
        {"kind": "status", "status": 429, "retry_after_s": 7, "retry_after_as": "date"},
        Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=7),
    ),
    (
        {"kind": "status", "status": 429, "retry_after_s": 0.25, "retry_after_as": "ms", "headers": False},
        Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=0.25),
    ),
    ({"kind": "status", "status": 529}, Throttled(reason=Reason.OVERLOADED, http_status=529)),
    (
        {"kind": "status", "status": 500},
        Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500),
    ),
    ({"kind": "status", "status": 401}, Halted(reason=Reason.CREDENTIALS, http_status=401)),
    ({"kind": "overload"}, Throttled(reason=Reason.OVERLOADED, http_status=200)),
    ({"kind": "filtered"}, Rejected(reason=Reason.CONTENT_REFUSED, http_status=200)),
    (
        {"kind": "redirect"},
        Failed(reason=Reason.REDIRECTED, counts=True, on_the_wire=True, http_status=302),
    ),
    ({"kind": "reset"}, Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=True)),
    ({"kind": "truncated"}, Failed(reason=Reason.MALFORMED_ANSWER, counts=True, on_the_wire=True)),
    *(
        (
            {"kind": kind},
            Failed(reason=Reason.MALFORMED_ANSWER, counts=True, on_the_wire=True, http_status=200),
        )
        for kind in ("empty", "html", "malformed")
    ),
    (
        {"kind": "huge", "bytes": 100_000_000},
        Failed(reason=Reason.ANSWER_TOO_LARGE, counts=True, on_the_wire=True, http_status=200),
    ),
]


@pytest.mark.parametrize("format", _FORMATS)
@pytest.mark.parametrize(("fault", "expected"), _FAULTS, ids=lambda value: str(value)[:40])
async def test_every_injected_fault_becomes_its_outcome(
    provider: ProviderProcess, format: str, fault: dict[str, Any], expected: Outcome
) -> None:
    """What the provider does and what the client says of it; the next call is answered again."""
    assert provider.fault(**fault).status_code == 200
    async with _caller(provider.base_url, format) as caller:
        assert _without_quotas(await caller.call(_request())) == expected
        assert isinstance(await caller.call(_request()), Completed)


_CARRYING: list[tuple[dict[str, Any] | None, type[Outcome]]] = [
    (None, Completed),
    ({"kind": "filtered"}, Rejected),
    ({"kind": "status", "status": 400}, Rejected),
    ({"kind": "status", "status": 401}, Halted),
    ({"kind": "status", "status": 429, "retry_after_s": 7}, Throttled),
    ({"kind": "status", "status": 500}, Failed),
    ({"kind": "huge", "bytes": 10_000_000}, Failed),
    ({"kind": "cut", "for_s": 30}, Throttled),
]


@pytest.mark.parametrize("format", _FORMATS)
@pytest.mark.parametrize(("fault", "kind"), _CARRYING, ids=lambda value: str(value)[:40])
async def test_every_kind_of_outcome_carries_the_providers_limits(
    provider: ProviderProcess, format: str, fault: dict[str, Any] | None, kind: type[Outcome]
) -> None:
    """Both dimensions, as the simulator's headers have them in each format."""
    if fault is not None:
        provider.fault(**fault)
    outcome = await _call(provider.base_url, format)
    assert type(outcome) is kind
    assert [(quota.kind, quota.limit) for quota in outcome.quotas] == [
        (QuotaKind.REQUESTS, 600_000),
        (QuotaKind.TOKENS, 1_000_000_000),
    ]
    for quota in outcome.quotas:
        assert quota.remaining is not None
        assert quota.reset_s is not None
        assert quota.resolution_s == (0.001 if format == "openai" else 1)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "hang"},
        {"kind": "slow", "delay_s": 30, "where": "headers"},
        {"kind": "slow", "delay_s": 30, "where": "body"},
    ],
    ids=["hang", "slow headers", "slow body"],
)
async def test_one_deadline_bounds_the_whole_call(provider: ProviderProcess, fault: dict[str, Any]) -> None:
    """Bytes that trickle in do not prolong it, and the provider sees the caller leave."""
    provider.fault(**fault)
    started = time.monotonic()
    outcome = await _call(provider.base_url, timeout_s=0.4)
    assert outcome == Failed(reason=Reason.TIMEOUT, counts=True, on_the_wire=True)
    assert time.monotonic() - started < 3.0
    await wait_until(lambda: provider.stats("?summary=1")["in_flight"] == 0, what="the call's end")
    assert provider.last_call()["completed_at"] is None


async def test_a_cut_is_a_429_with_the_time_to_its_end(provider: ProviderProcess) -> None:
    """The outage that the demo shows, as a worker sees it."""
    provider.fault(kind="cut", for_s=30, retry_after_s=20)
    outcome = await _call(provider.base_url)
    assert _without_quotas(outcome) == Throttled(
        reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=20
    )
    assert provider.stats("?summary=1")["timeline"][-1]["cut"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            {"kind": "status", "status": 429, "code": "insufficient_quota", "for_s": 60},
            Halted(reason=Reason.MONEY, http_status=429),
        ),
        (
            {"kind": "status", "status": 401, "for_s": 60},
            Halted(reason=Reason.CREDENTIALS, http_status=401),
        ),
    ],
    ids=["no credit", "no key"],
)
async def test_an_error_of_the_whole_account_strikes_every_call_until_it_is_over(
    provider: ProviderProcess, fault: dict[str, Any], expected: Outcome
) -> None:
    """Not one call gets through: what a circuit is for."""
    provider.fault(**fault)
    async with _caller(provider.base_url) as caller:
        for number in range(3):
            assert _without_quotas(await caller.call(_request(number))) == expected
        provider.clear_faults()
        assert isinstance(await caller.call(_request()), Completed)


def test_spent_credit_is_written_as_the_vendor_writes_it(provider: ProviderProcess) -> None:
    """Type and code of its own, and no time to wait, since none helps."""
    provider.fault(kind="status", status=429, code="insufficient_quota", for_s=60)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{provider.base_url}/chat/completions", json=body, trust_env=False)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert not [name for name in answer.headers if name.startswith("retry-after")]


@pytest.mark.parametrize("format", _FORMATS)
async def test_a_shortage_of_capacity_is_an_overload_without_a_wait(
    provider: ProviderProcess, format: str
) -> None:
    """Calls up to the bound are answered, the one above it is not."""
    provider.fault(kind="slow", delay_s=60, for_s=60)
    provider.fault(kind="capacity", concurrency=2, for_s=60)
    async with _caller(provider.base_url, format, timeout_s=60) as caller, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(caller.call(_request(number))) for number in range(2)]
        await wait_until(lambda: provider.stats("?summary=1")["in_flight"] == 2, what="2 in flight")
        overloaded = await caller.call(_request(2))
        for call in calls:
            call.cancel()
    assert _without_quotas(overloaded) == Throttled(
        reason=Reason.OVERLOADED, http_status=503 if format == "openai" else 529
    )
    assert len(overloaded.quotas) == 2
    assert provider.last_call()["fault"] == "capacity"


async def test_more_calls_at_once_than_an_account_may_make_are_told_so() -> None:
    """A 429 with a short wait in one format, an overload in the other."""
    provider = ProviderProcess("--concurrency", "1")
    try:
        provider.fault(kind="slow", delay_s=60, for_s=60)
        async with _caller(provider.base_url) as caller, asyncio.TaskGroup() as tasks:
            held = tasks.create_task(caller.call(_request()))
            await wait_until(lambda: provider.stats("?summary=1")["in_flight"] == 1, what="1 in flight")
            refused = await caller.call(_request(1))
            overloaded = await _call(provider.base_url, "anthropic")
            held.cancel()
        assert _without_quotas(refused) == Throttled(
            reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=0.5
        )
        assert _without_quotas(overloaded) == Throttled(reason=Reason.OVERLOADED, http_status=529)
        assert provider.stats("?summary=1")["most_in_flight"] == 2
    finally:
        provider.process.kill()
        provider.process.wait()


async def test_limits_of_input_and_output_are_reported_apart() -> None:
    """As options of the provider, and as reports of the client; strangers' use is seen in them."""
    provider = ProviderProcess("--input-tokens-per-minute", "60000", "--output-tokens-per-minute", "30000")
    try:
        outcome = await _call(provider.base_url, "anthropic")
        assert [(quota.kind, quota.limit) for quota in outcome.quotas] == [
            (QuotaKind.REQUESTS, 3000),
            (QuotaKind.TOKENS, 250_000),
            (QuotaKind.INPUT_TOKENS, 60_000),
            (QuotaKind.OUTPUT_TOKENS, 30_000),
        ]
        assert provider.fault(kind="strangers", share=0.5, for_s=60).status_code == 200
        await wait_until(
            lambda: min(provider.stats("?summary=1")["strangers"].values()) > 0, what="strangers at work"
        )
    finally:
        provider.process.kill()
        provider.process.wait()


async def test_a_thousand_calls_are_on_the_wire_at_once(provider: ProviderProcess) -> None:
    """No pool in the client holds them up: the limiter decides, not the transport."""
    provider.fault(kind="slow", delay_s=60, for_s=60)
    async with _caller(provider.base_url, timeout_s=60) as caller, asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(caller.call(_request(number))) for number in range(1000)]
        await wait_until(
            lambda: provider.stats("?summary=1")["in_flight"] == 1000, timeout_s=30, what="1000 in flight"
        )
        for call in calls:
            call.cancel()


async def test_a_body_that_was_announced_too_large_is_not_read(provider: ProviderProcess) -> None:
    """Content-Length alone ends the call."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    async with _server(_raw_answer(head)) as base_url:
        outcome = await _call(base_url)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.ANSWER_TOO_LARGE


async def test_an_error_with_an_endless_body_is_still_that_error(provider: ProviderProcess) -> None:
    """The status says what it was; the rest of the body is left on the wire."""
    head = b"HTTP/1.1 500 Oops\r\nContent-Length: 2000000\r\n\r\n" + b" " * 100_000
    async with _server(_raw_answer(head)) as base_url:
        outcome = await _call(base_url)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.http_status) == (Reason.SERVER_ERROR, 500)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
async def test_what_is_not_http_is_malformed(raw: bytes) -> None:
    """Another protocol, a broken status line, a header without end."""
    async with _server(_raw_answer(raw)) as base_url:
        outcome = await _call(base_url)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.counts) == (Reason.MALFORMED_ANSWER, True)


async def test_a_gzip_bomb_is_capped_where_it_unfolds() -> None:
    """The cap holds for the bytes that are read, packed or not."""
    import gzip

    packed = gzip.compress(b" " * 50_000_000)
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: "
        + str(len(packed)).encode()
        + b"\r\n\r\n"
    )
    async with _server(_raw_answer(head + packed)) as base_url:
        outcome = await _call(base_url)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.ANSWER_TOO_LARGE


async def test_a_server_that_hangs_up_without_an_answer_broke_the_connection() -> None:
    """The request was sent, so it may have been paid for."""
    async with _server(_raw_answer(b"")) as base_url:
        outcome = await _call(base_url)
    assert outcome == Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=True)


async def test_a_server_that_never_reads_ends_with_the_deadline() -> None:
    """A prompt of megabytes that nobody takes holds nothing up, not even closing."""

    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with _server(never_read) as base_url:
        started = time.monotonic()
        async with _caller(base_url, timeout_s=0.4) as caller:
            outcome = await caller.call(_request(text="x" * 20_000_000))
    assert outcome == Failed(reason=Reason.TIMEOUT, counts=True, on_the_wire=True)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_outcome_and_nobody_is_called_where_it_leads(status: int) -> None:
    """G7: a prompt and a key go to the configured host alone, whatever it answers."""
    arrived: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.readline())

    async with _server(elsewhere) as other:
        head = (
            f"HTTP/1.1 {status} Elsewhere\r\nLocation: {other}/chat/completions\r\nContent-Length: 0\r\n\r\n"
        )
        async with _server(_raw_answer(head.encode())) as base_url:
            outcome = await _call(base_url)
    assert outcome == Failed(reason=Reason.REDIRECTED, counts=True, on_the_wire=True, http_status=status)
    assert arrived == []


@pytest.mark.parametrize("host", ["http://no-such-host.invalid/v1", "http://127.0.0.1:1/v1"])
async def test_an_unknown_name_and_a_closed_port_never_reached_the_provider(host: str) -> None:
    """A connection error counts to nothing, and no call was made."""
    assert await _call(host) == Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False)


@pytest.fixture
def unknown_tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate of its own making."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subprocess.run(
        [*command, "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


async def test_a_certificate_that_nobody_vouches_for_never_reached_the_provider(
    unknown_tls: ssl.SSLContext,
) -> None:
    """The handshake fails before a byte of the prompt leaves us."""
    async with _server(_raw_answer(b""), unknown_tls) as base_url:
        outcome = await _call(base_url)
    assert outcome == Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False)


async def test_proxies_of_the_environment_are_ignored(
    provider: ProviderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt goes where the settings say and nowhere else."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert isinstance(await _call(provider.base_url), Completed)


async def test_neither_prompt_nor_answer_nor_key_is_logged_or_shown(
    provider: ProviderProcess, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """At every level of every logger, in the client's repr, and in the outcome of a failed call."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "key"
    path.write_text(_KEY)
    provider.fault(kind="status", status=400, message=f"your prompt {_CANARY} is bad")
    caller = HttpLlmCaller("openai", provider.base_url, api_key=ApiKeyFile(path), timeout_s=5)
    async with caller:
        rejected = await caller.call(_request(text=f"My name is {_CANARY}"))
        completed = await caller.call(_request(text=f"My name is {_CANARY}"))
    assert isinstance(completed, Completed)
    assert _without_quotas(rejected) == Rejected(reason=Reason.BAD_REQUEST, http_status=400)
    shown = caplog.text + repr(caller) + repr(vars(caller)) + repr(rejected)
    assert _CANARY not in shown
    assert _KEY not in shown


async def test_a_step_name_cannot_smuggle_a_header(provider: ProviderProcess) -> None:
    """Line breaks and other scripts in an id go out percent-encoded."""
    request = CallRequest(
        model="small",
        messages=(Message(role="user", text="hi"),),
        max_output_tokens=5,
        request_id="e/résumé\r\nX-Evil: 1/1",
    )
    async with _caller(provider.base_url) as caller:
        assert isinstance(await caller.call(request), Completed)
    assert provider.last_call()["request_id"] == "e/r%C3%A9sum%C3%A9%0D%0AX-Evil: 1/1"


async def test_text_that_no_json_can_carry_is_rejected_before_it_is_sent(provider: ProviderProcess) -> None:
    """Half of a surrogate pair ends its event and nothing else."""
    async with _caller(provider.base_url) as caller:
        assert await caller.call(_request(text="\ud800")) == Rejected(reason=Reason.BAD_REQUEST)


def test_an_unknown_format_is_a_configuration_error() -> None:
    """At the start, not at the first call."""
    with pytest.raises(ConfigurationError):
        _caller("http://127.0.0.1:1/v1", "telepathy")


@pytest.mark.parametrize("format", _FORMATS)
async def test_the_quota_refuses_with_headers_that_the_client_reads(format: str) -> None:
    """A burst of one, then a wait that the provider names."""
    provider = ProviderProcess("--requests-per-minute", "6", "--burst-s", "0.1")
    try:
        async with _caller(provider.base_url, format) as caller:
            assert isinstance(await caller.call(_request()), Completed)
            refused = await caller.call(_request())
        assert isinstance(refused, Throttled)
        assert refused.retry_after_s is not None
        assert 8 < refused.retry_after_s <= 10
        assert provider.stats()["counts"] == {
            "calls": 2,
            "admitted": 1,
            "refused": 1,
            "answered": 1,
            "by_status": {"200": 1, "429": 1},
        }
    finally:
        provider.process.kill()
        provider.process.wait()


@pytest.mark.parametrize("enforcement", ["fixed", "log"])
async def test_a_window_refuses_for_a_time_and_a_call_above_it_for_good(enforcement: str) -> None:
    """The wait is within the window; what no window holds is rejected by its message."""
    provider = ProviderProcess(
        *("--enforcement", enforcement, "--window-s", "6000"),
        *("--requests-per-minute", "0.01", "--tokens-per-minute", "4"),
    )
    try:
        async with _caller(provider.base_url) as caller:
            too_large = await caller.call(_request(text="x" * 4000))
            assert isinstance(await caller.call(_request()), Completed)
            refused = await caller.call(_request())
        assert _without_quotas(too_large) == Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=429)
        assert isinstance(refused, Throttled)
        assert refused.retry_after_s is not None
        assert 0 < refused.retry_after_s <= 6000
    finally:
        provider.process.kill()
        provider.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_provider_ends_at_once_with_calls_at_work(number: signal.Signals) -> None:
    """Exit code 0 and no waiting for a call that hangs."""
    provider = ProviderProcess()
    provider.fault(kind="hang", calls=5)
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    waiting = socket.create_connection(("127.0.0.1", int(provider.address.rsplit(":", 1)[1])))
    waiting.sendall(head.encode() + body)
    wait_until_sync(lambda: provider.stats("?summary=1")["in_flight"] == 1, what="a call at work")
    provider.process.send_signal(number)
    wait_until_sync(lambda: provider.process.poll() is not None, timeout_s=5, what="the end of the provider")
    waiting.close()
    assert provider.process.returncode == 0


def test_what_the_provider_cannot_do_is_wrong_usage() -> None:
    """A limit of nothing is none, and a window that no call fits into is none either."""
    for options, said in (
        (["--requests-per-minute", "0"], "must be above 0"),
        (["--window-s", "0"], "must be above 0"),
        (["--concurrency", "0"], "must be above 0"),
        (["--output-tokens-per-minute", "-1"], "must be above 0"),
        (["--enforcement", "log", "--requests-per-minute", "30", "--window-s", "1"], "raise --window-s"),
    ):
        done = subprocess.run(
            [*COMMAND, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_a_taken_port_is_one_line_and_exit_code_one(provider: ProviderProcess) -> None:
    """The message says what to do."""
    port = provider.address.rsplit(":", 1)[1]
    done = subprocess.run(
        [*COMMAND, "--port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_calls_are_paged_and_faults_are_checked(provider: ProviderProcess) -> None:
    """A live reader asks for what is new; a wrong fault is 400 with the place."""
    httpx.post(
        f"{provider.base_url}/chat/completions",
        json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        trust_env=False,
    )
    last = provider.last_call()["sequence"]
    assert [call["sequence"] for call in provider.stats(f"?after={last - 1}")["calls"]] == [last]
    assert "calls" not in provider.stats("?summary=1")
    answer = provider.fault(kind="status", status=42)
    assert answer.status_code == 400
    assert "status" in answer.json()["error"]
    assert httpx.get(f"{provider.address}/healthz", trust_env=False).status_code == 200
    assert httpx.post(f"{provider.base_url}/messages", content=b"[]", trust_env=False).status_code == 400
