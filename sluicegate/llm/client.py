"""The LLM client: one HTTP call within one deadline, and a typed outcome for everything that can happen."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from sluicegate.llm.api import CallRequest
from sluicegate.llm.classify import CALL_ERRORS, read_exception, read_response
from sluicegate.llm.formats import wire_format
from sluicegate.llm.outcomes import Failed, Outcome, Reason, Rejected
from sluicegate.llm.spans import end_call, start_call
from sluicegate.telemetry.pulse import TimedWork
from sluicegate.telemetry.traces import NO_TRACES, Traces

_CONNECT_TIMEOUT_S = 10.0
_KEEP_ALIVE_S = 15.0
_ERROR_BODY_BYTES = 64 * 1024
_REQUEST_ID_BYTES = 512
_HEADERS = {
    "Accept": "application/json",
    # Our answers are small: uncompressed, the cap on bytes is a cap on memory too.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "sluicegate",
}

MAX_ANSWER_BYTES = 4 * 1024 * 1024


class HttpLlmCaller:
    """Makes calls of one format to one base URL; as many at once as are asked for.

    `timeout_s` bounds a whole call, from the first byte sent to the last one read; `max_answer_bytes` bounds
    what is read. Redirects are not followed, and neither proxies nor credentials are taken from the
    environment; certificates are checked against the system's store. `api_key` is asked at every call.
    Use it as an async context manager.

    Raises ConfigurationError for an unknown format.
    """

    def __init__(
        self,
        format: str,
        base_url: str,
        *,
        api_key: Callable[[], str | None],
        timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        wall_clock_s: Callable[[], float] = time.time,
        traces: Traces = NO_TRACES,
        watched: TimedWork | None = None,
    ) -> None:
        """`traces` shows every call, `watched` knows of it while it lasts."""
        self._provider = format
        self._traces = traces
        self._wire = wire_format(format)
        self._url = httpx.URL(base_url.rstrip("/") + self._wire.path)
        self._extensions = {"timeout": {"connect": min(_CONNECT_TIMEOUT_S, timeout_s)}}
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._wall_clock_s = wall_clock_s
        self._watched = watched if watched is not None else TimedWork("call")
        self._transport: AiohttpTransport | None = None

    async def __aenter__(self) -> Self:
        trusted = ssl.create_default_context()
        self._transport = AiohttpTransport(
            verify=trusted, trust_env=False, client=lambda: _open_session(trusted)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def call(self, request: CallRequest) -> Outcome:
        """Send the request once and return what became of it; cancelling drops the connection."""
        span = start_call(
            self._traces, request, provider=self._provider, host=self._url.host, port=self._url.port
        )
        try:
            outcome = await self._call(request)
        except BaseException as error:
            span.end(type(error).__name__)
            raise
        end_call(span, outcome)
        return outcome

    async def _call(self, request: CallRequest) -> Outcome:
        try:
            body = orjson.dumps(self._wire.body(request))
        except orjson.JSONEncodeError:  # half of a surrogate pair: text that no JSON can carry
            return Rejected(reason=Reason.BAD_REQUEST)
        headers = {
            **_HEADERS,
            "X-Client-Request-Id": _header_text(request.request_id),
            **self._wire.headers(self._api_key()),
        }
        try:
            with self._watched.within(self._timeout_s):
                async with asyncio.timeout(self._timeout_s):
                    return await self._exchange(request, body, headers)
        except TimeoutError:
            return Failed(reason=Reason.TIMEOUT, counts=True, on_the_wire=True)

    async def _exchange(self, request: CallRequest, body: bytes, headers: Mapping[str, str]) -> Outcome:
        try:
            async with aclosing(await self._open(body, headers)) as response:
                cap = self._max_answer_bytes if response.is_success else _ERROR_BODY_BYTES
                content = await _read_at_most(response, cap)
                return read_response(
                    self._wire,
                    request,
                    response.status_code,
                    response.headers,
                    content,
                    self._wall_clock_s(),
                )
        except CALL_ERRORS as error:
            return read_exception(error)

    async def _open(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Send the request and return the answer's beginning.

        Straight to the transport: of what an httpx client does in between (redirects, cookies, credentials,
        default headers) we want nothing, and it takes as long as the transport itself.
        """
        if self._transport is None:
            raise RuntimeError("the client is open only inside its `async with` block")
        request = httpx.Request("POST", self._url, headers=headers, content=body, extensions=self._extensions)
        return await self._transport.handle_async_request(request)


def _open_session(trusted: ssl.SSLContext) -> aiohttp.ClientSession:
    # The limiter bounds how much is on the wire. The transport's own session would stop at 100 connections
    # and keep cookies.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted, limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def _read_at_most(response: httpx.Response, cap_bytes: int) -> bytes | None:
    """Return the body, or None as soon as it is known to be larger than the cap."""
    announced = response.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > cap_bytes:
        return None
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > cap_bytes:
            return None
    return bytes(content)


def _header_text(request_id: str) -> str:
    # Steps are named by handlers: a line break in a name must not become a header.
    return quote(request_id, safe="/:._~-@+=, ")[:_REQUEST_ID_BYTES]
