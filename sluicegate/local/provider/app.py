"""The simulator's HTTP side: routes, and the many ways in which an answer can be spoilt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import assert_never

import orjson
from aiohttp import web

from sluicegate.llm.retry_after import http_date
from sluicegate.local.provider.answers import Question
from sluicegate.local.provider.faults import (
    BrokenFault,
    HugeFault,
    LateFault,
    RedirectFault,
    SlowFault,
    StatusFault,
)
from sluicegate.local.provider.formats import Anthropic, ErrorText, Format, OpenAI
from sluicegate.local.provider.simulator import Admitted, Crowded, Refused, Simulator, StruckEarly

_LARGEST_REQUEST_BYTES = 64 * 1024 * 1024
_ROWS_AT_ONCE = 2000
_TOO_MANY = 429
_CROWDED_WAIT_S = 0.5
_SLOW_PIECES = 20
_HUGE_CHUNK = b" " * 65536
_HTML = b"<!doctype html><html><body><h1>Bad gateway</h1></body></html>"
_JSON = "application/json"


def build_app(simulator: Simulator) -> web.Application:
    """Return the HTTP application of one simulator."""
    app = web.Application(client_max_size=_LARGEST_REQUEST_BYTES)
    app.router.add_post("/v1/chat/completions", _endpoint(simulator, OpenAI()))
    app.router.add_post("/v1/messages", _endpoint(simulator, Anthropic()))
    admin = _Administration(simulator)
    app.router.add_get("/healthz", admin.healthz)
    app.router.add_get("/stats", admin.stats)
    app.router.add_post("/faults", admin.begin_fault)
    app.router.add_delete("/faults", admin.clear_faults)
    return app


class _Administration:
    """What is asked of the simulator beside calls."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def healthz(self, request: web.Request) -> web.Response:
        return _json(200, {"status": "ok"})

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """Write the calls in pieces, so that a million of them hold up no call."""
        head = orjson.dumps(self._simulator.stats())
        if request.query.get("summary"):
            return web.Response(body=head, content_type=_JSON)
        try:
            after = int(request.query.get("after", "-1"))
        except ValueError:
            return _json(400, {"error": "after: a whole number"})
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        await response.prepare(request)
        await response.write(head[:-1] + b',"calls":[')
        rows: list[bytes] = []
        first = True
        for row in self._simulator.log.rows(after):
            rows.append(orjson.dumps(row))
            if len(rows) == _ROWS_AT_ONCE:
                await response.write((b"" if first else b",") + b",".join(rows))
                await asyncio.sleep(0)
                rows, first = [], False
        if rows:
            await response.write((b"" if first else b",") + b",".join(rows))
        await response.write_eof(b"]}")
        return response

    async def begin_fault(self, request: web.Request) -> web.Response:
        try:
            fault = self._simulator.begin_fault(await request.read())
        except ValueError as exc:
            return _json(400, {"error": str(exc)})
        return _json(200, {"accepted": fault.model_dump()})

    async def clear_faults(self, request: web.Request) -> web.Response:
        self._simulator.clear_faults()
        return _json(200, {"cleared": True})


def _endpoint(simulator: Simulator, format: Format) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            if not isinstance(body, dict):
                raise ValueError("the body is no JSON object")  # noqa: TRY004 - answered as 400, below
            question = format.read(body)
        except ValueError as exc:
            return _json(400, format.error(400, ErrorText(message=str(exc))))
        return await _Exchange(simulator, format, request, question).run()

    return handle


class _Exchange:
    """One call from its arrival to the last byte of its answer."""

    def __init__(
        self, simulator: Simulator, format: Format, request: web.Request, question: Question
    ) -> None:
        self._simulator = simulator
        self._format = format
        self._request = request
        self._question = question
        self._status: int | None = None
        self._completion_tokens = 0
        self._whole = False

    async def run(self) -> web.StreamResponse:
        request_id = self._request.headers.get("X-Client-Request-Id", "")
        sequence, verdict = self._simulator.receive(self._format, self._question, request_id)
        try:
            match verdict:
                case Refused():
                    return await self._refuse(verdict.wait_s)
                case Crowded():
                    return await self._turn_away(verdict.status)
                case StruckEarly():
                    return await self._strike_early(verdict.fault)
                case Admitted():
                    if verdict.latency_s > 0:
                        await asyncio.sleep(verdict.latency_s)
                    return await self._answer(sequence, verdict)
                case _:
                    assert_never(verdict)
        except ConnectionError:
            # The caller went away while it was answered; nobody is left to be told.
            return web.Response()
        finally:
            self._simulator.finish(
                sequence,
                status=self._status,
                completion_tokens=self._completion_tokens,
                whole=self._whole,
            )

    async def _refuse(self, wait_s: float) -> web.StreamResponse:
        headers = self._quota_headers()
        text = ErrorText(message="Rate limit reached. Try again later.")
        if math.isfinite(wait_s):
            headers.update(self._format.retry_headers(wait_s))
        else:
            text = ErrorText(
                type="tokens" if self._format.name == "openai" else "request_too_large",
                message="Request too large: it needs more tokens than the limit ever admits.",
            )
        return await self._send(_TOO_MANY, orjson.dumps(self._format.error(_TOO_MANY, text)), headers)

    async def _turn_away(self, status: int) -> web.StreamResponse:
        """A limit of the account names a short wait; a provider that is overloaded knows none."""
        headers, text = self._quota_headers(), ErrorText(message="Overloaded")
        if status == _TOO_MANY:
            headers.update(self._format.retry_headers(_CROWDED_WAIT_S))
            text = ErrorText(message="Too many concurrent requests. Try again in a moment.")
        return await self._send(status, orjson.dumps(self._format.error(status, text)), headers)

    async def _strike_early(self, fault: StatusFault | RedirectFault) -> web.StreamResponse:
        match fault:
            case RedirectFault():
                return await self._send(fault.status, b"", {"Location": fault.location})
            case StatusFault():
                headers = self._quota_headers() if fault.headers else {}
                if fault.retry_after_s is not None:
                    headers.update(self._asked_to_wait(fault, fault.retry_after_s))
                text = ErrorText(type=fault.type, code=fault.code, message=fault.message)
                return await self._send(
                    fault.status, orjson.dumps(self._format.error(fault.status, text)), headers
                )
            case _:
                assert_never(fault)

    def _asked_to_wait(self, fault: StatusFault, wait_s: float) -> dict[str, str]:
        match fault.retry_after_as:
            case "seconds":
                return self._format.retry_headers(wait_s)
            case "ms":
                return {"retry-after-ms": f"{wait_s * 1000:g}"}
            case "date":
                now_s = self._simulator.now_s()
                return {"Date": http_date(now_s), "Retry-After": http_date(now_s + math.ceil(wait_s))}
            case _:
                assert_never(fault.retry_after_as)

    async def _answer(self, sequence: int, admitted: Admitted) -> web.StreamResponse:
        # Charged before the fault: what is spoilt on its way was made all the same.
        self._completion_tokens = admitted.answer.tokens
        self._simulator.answered(sequence, self._format, admitted.answer)
        fault = admitted.fault
        is_filtered = isinstance(fault, BrokenFault) and fault.kind == "filtered"
        body = orjson.dumps(
            self._format.answer(self._question, admitted.answer, sequence, filtered=is_filtered)
        )
        if fault is None or is_filtered:
            return await self._send(200, body, self._quota_headers())
        return await self._spoil(fault, body)

    async def _spoil(self, fault: LateFault, body: bytes) -> web.StreamResponse:
        match fault:
            case SlowFault(where="headers"):
                await asyncio.sleep(fault.delay_s)
                return await self._send(200, body, self._quota_headers())
            case SlowFault():
                return await self._trickle(body, fault.delay_s)
            case HugeFault():
                return await self._flood(fault.bytes)
            case BrokenFault():
                return await self._break(fault, body)
            case _:
                assert_never(fault)

    async def _break(self, fault: BrokenFault, body: bytes) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await asyncio.Event().wait()  # the server cancels it when the caller goes away
                return web.Response()
            case "reset":
                return self._reset(web.Response())
            case "empty":
                return await self._send(200, b"", {})
            case "html":
                return await self._send(200, _HTML, {}, content_type="text/html")
            case "malformed":
                return await self._send(200, body[: len(body) // 2], {})
            case "overload":
                error = Anthropic().error(529, ErrorText(message="Overloaded"))
                return await self._send(200, orjson.dumps(error), {})
            case "truncated":
                return await self._truncate(body)
            case "filtered":
                return await self._send(200, body, self._quota_headers())
            case _:
                assert_never(fault.kind)

    async def _truncate(self, body: bytes) -> web.StreamResponse:
        response = await self._begin(len(body))
        await response.write(body[: len(body) // 2])
        if self._request.transport is not None:
            self._request.transport.close()
        return response

    async def _trickle(self, body: bytes, delay_s: float) -> web.StreamResponse:
        response = await self._begin(len(body))
        size = -(-len(body) // _SLOW_PIECES)
        for start in range(0, len(body), size):
            await asyncio.sleep(delay_s / _SLOW_PIECES)
            await response.write(body[start : start + size])
        await response.write_eof()
        self._whole = True
        return response

    async def _flood(self, size_bytes: int) -> web.StreamResponse:
        response = await self._begin(None)
        for start in range(0, size_bytes, len(_HUGE_CHUNK)):
            await response.write(_HUGE_CHUNK[: size_bytes - start])
        await response.write_eof()
        self._whole = True
        return response

    def _reset(self, response: web.StreamResponse) -> web.StreamResponse:
        if self._request.transport is not None:
            self._request.transport.abort()
        return response

    async def _begin(self, length: int | None) -> web.StreamResponse:
        """Send the headers of a 200 whose body follows in pieces; without a length it comes chunked."""
        response = web.StreamResponse(headers={"Content-Type": _JSON, **self._quota_headers()})
        response.content_length = length
        self._status = 200
        await response.prepare(self._request)
        return response

    async def _send(
        self, status: int, body: bytes, headers: dict[str, str], content_type: str = _JSON
    ) -> web.StreamResponse:
        response = web.Response(status=status, body=body, headers=headers, content_type=content_type)
        await response.prepare(self._request)
        self._status = status
        await response.write_eof()
        self._whole = True
        return response

    def _quota_headers(self) -> dict[str, str]:
        return self._simulator.quota_headers(self._format)


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type=_JSON)
