"""The taxonomy: what every answer and every exception of the HTTP client means."""

from __future__ import annotations

import inspect
import ssl
from types import ModuleType

import aiohttp
import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.llm.api import CallRequest, Message
from sluicegate.llm.classify import CALL_ERRORS, read_exception, read_response
from sluicegate.llm.formats import wire_format
from sluicegate.llm.outcomes import (
    Completed,
    Failed,
    Halted,
    Outcome,
    QuotaKind,
    QuotaReport,
    Reason,
    Rejected,
    Throttled,
)

_REQUEST = CallRequest(
    model="small",
    messages=(Message(role="user", text="Where is it?"),),
    max_output_tokens=10,
    request_id="e/reply/1",
)


def _read(
    format: str, status: int, body: object, headers: dict[str, str] | None = None, *, raw: bytes | None = None
) -> Outcome:
    content = orjson.dumps(body) if raw is None else raw
    return read_response(wire_format(format), _REQUEST, status, headers or {}, content, 0.0)


def _openai_error(code: str | None = None, type: str = "x", message: str = "m") -> dict[str, object]:
    return {"error": {"code": code, "type": type, "message": message}}


def _anthropic_error(type: str, message: str = "m") -> dict[str, object]:
    return {"type": "error", "error": {"type": type, "message": message}}


def _throttled(reason: Reason, status: int, wait_s: float | None = None) -> Throttled:
    return Throttled(reason=reason, http_status=status, retry_after_s=wait_s)


def _failed(reason: Reason, status: int) -> Failed:
    return Failed(reason=reason, counts=True, on_the_wire=True, http_status=status)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (429, _openai_error("rate_limit_exceeded", "requests"), _throttled(Reason.RATE_LIMITED, 429)),
        (429, _openai_error("slow_down"), _throttled(Reason.RAMP_LIMITED, 429)),
        (429, _openai_error("insufficient_quota"), Halted(reason=Reason.MONEY, http_status=429)),
        (429, _openai_error(None, "insufficient_quota"), Halted(reason=Reason.MONEY, http_status=429)),
        (429, _openai_error("credit_balance_exhausted"), Halted(reason=Reason.MONEY, http_status=429)),
        (
            429,
            _openai_error("organization_spend_limit_exceeded"),
            Halted(reason=Reason.MONEY, http_status=429),
        ),
        (429, _openai_error("project_spend_limit_exceeded"), Halted(reason=Reason.MONEY, http_status=429)),
        (
            429,
            _openai_error("organization_usage_limit_exceeded"),
            Halted(reason=Reason.MONEY, http_status=429),
        ),
        (
            429,
            _openai_error("rate_limit_exceeded", "tokens", "Request too large for small on TPM"),
            Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=429),
        ),
        (429, {"error": "slow"}, _throttled(Reason.RATE_LIMITED, 429)),
        (
            400,
            _openai_error("context_length_exceeded"),
            Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=400),
        ),
        (400, _openai_error("content_filter"), Rejected(reason=Reason.CONTENT_REFUSED, http_status=400)),
        (400, _openai_error("anything"), Rejected(reason=Reason.BAD_REQUEST, http_status=400)),
    ],
)
def test_openai_errors_are_told_apart_by_code(status: int, body: object, expected: Outcome) -> None:
    """Waiting cures a bucket and a ramp; money halts the scope; size and content end the event."""
    assert _read("openai", status, body) == expected


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (
            429,
            _anthropic_error("rate_limit_error"),
            {"retry-after": "12"},
            _throttled(Reason.RATE_LIMITED, 429, 12.0),
        ),
        (
            429,
            _anthropic_error("rate_limit_error"),
            {},
            Halted(reason=Reason.MONEY, http_status=429),
        ),
        (
            429,
            _anthropic_error("rate_limit_error"),
            {"anthropic-ratelimit-requests-remaining": "0"},
            _throttled(Reason.RATE_LIMITED, 429),
        ),
        (429, _anthropic_error("ramp_limit_exceeded"), {}, _throttled(Reason.RAMP_LIMITED, 429)),
        (
            400,
            _anthropic_error("invalid_request_error", "You have reached your specified API usage limits."),
            {},
            Halted(reason=Reason.MONEY, http_status=400),
        ),
        (
            400,
            _anthropic_error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            {},
            Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=400),
        ),
        (529, _anthropic_error("overloaded_error"), {}, _throttled(Reason.OVERLOADED, 529)),
        (500, _anthropic_error("overloaded_error"), {}, _throttled(Reason.OVERLOADED, 500)),
        (200, _anthropic_error("overloaded_error"), {}, _throttled(Reason.OVERLOADED, 200)),
        (200, _anthropic_error("api_error"), {}, _failed(Reason.SERVER_ERROR, 200)),
        (
            413,
            _anthropic_error("request_too_large"),
            {},
            Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=413),
        ),
    ],
)
def test_anthropic_errors_are_told_apart_by_type_and_headers(
    status: int, body: object, headers: dict[str, str], expected: Outcome
) -> None:
    """A 429 that neither names a wait nor describes a bucket is a limit on spending."""
    assert _read("anthropic", status, body, headers) == expected


@pytest.mark.parametrize("format", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, _failed(Reason.REDIRECTED, 302)),
        (401, Halted(reason=Reason.CREDENTIALS, http_status=401)),
        (402, Halted(reason=Reason.MONEY, http_status=402)),
        (403, Halted(reason=Reason.CREDENTIALS, http_status=403)),
        (404, Halted(reason=Reason.NOT_FOUND, http_status=404)),
        (408, _failed(Reason.TIMEOUT, 408)),
        (409, _failed(Reason.SERVER_ERROR, 409)),
        (413, Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=413)),
        (422, Rejected(reason=Reason.BAD_REQUEST, http_status=422)),
        (429, _throttled(Reason.RATE_LIMITED, 429)),
        (500, _failed(Reason.SERVER_ERROR, 500)),
        (502, _failed(Reason.SERVER_ERROR, 502)),
        (503, _throttled(Reason.OVERLOADED, 503)),
        (504, _failed(Reason.TIMEOUT, 504)),
        (529, _throttled(Reason.OVERLOADED, 529)),
        (999, _failed(Reason.MALFORMED_ANSWER, 999)),
    ],
)
def test_a_body_that_says_nothing_leaves_the_meaning_to_the_status(
    format: str, status: int, expected: Outcome
) -> None:
    """A gateway in front of the provider answers in HTML; its status still counts."""
    assert _read(format, status, None, raw=b"<html>no JSON</html>") == expected


@pytest.mark.parametrize("status", [429, 503, 529])
def test_what_a_throttled_call_is_told_to_wait_is_kept(status: int) -> None:
    """Retry-After reaches whoever decides."""
    outcome = _read("openai", status, {}, {"retry-after-ms": "1500"})
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after_s == 1.5


def test_what_a_failed_call_is_told_to_wait_is_kept() -> None:
    """A 500 may name a wait too."""
    outcome = _read("openai", 500, {}, {"retry-after": "4"})
    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s == 4.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"code": 429, "message": "m"}}, _throttled(Reason.RATE_LIMITED, 200)),
        ({"error": {"type": "rate_limit_error"}}, _throttled(Reason.RATE_LIMITED, 200)),
        ({"error": {"code": "insufficient_quota"}}, Halted(reason=Reason.MONEY, http_status=200)),
        ({"error": {"message": "?"}}, _failed(Reason.SERVER_ERROR, 200)),
    ],
)
def test_an_error_inside_a_200_is_the_error_and_no_answer(body: object, expected: Outcome) -> None:
    """Gateways wrap the upstream's error into a 200; the status on the wire is what is reported."""
    assert _read("openai", 200, body) == expected


@pytest.mark.parametrize("format", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html></html>",
        b'{"choices": [{"mess',
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [7]}',
        b'{"choices": [{"message": {"content": ""}}]}',
        b'{"choices": [{"message": {"content": null}, "finish_reason": "tool_calls"}]}',
        b'{"content": []}',
        b'{"content": "text"}',
        b'{"content": [{"type": "tool_use"}]}',
        b'{"content": [{"type": "text", "text": 7}]}',
        b"\xff\xfe",
        b"[" * 3000,
    ],
)
def test_a_200_that_is_no_answer_is_malformed(format: str, raw: bytes) -> None:
    """Empty, HTML, truncated and misshapen answers count as the provider's failure."""
    assert _read(format, 200, None, raw=raw) == _failed(Reason.MALFORMED_ANSWER, 200)


_ANSWERS: list[tuple[int, bytes | None, type[Outcome]]] = [
    (200, b'{"choices": [{"message": {"content": "hi"}}]}', Completed),
    (200, b'{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}', Rejected),
    (200, b'{"error": {"code": 429}}', Throttled),
    (200, b"<html></html>", Failed),
    (200, None, Failed),
    (302, b"", Failed),
    (400, b"{}", Rejected),
    (401, b"{}", Halted),
    (429, b"{}", Throttled),
    (429, b'{"error": {"code": "insufficient_quota"}}', Halted),
    (500, None, Failed),
    (503, b"{}", Throttled),
]


@pytest.mark.parametrize(("status", "body", "kind"), _ANSWERS)
def test_every_outcome_of_an_answer_carries_what_its_headers_say_of_the_limits(
    status: int, body: bytes | None, kind: type[Outcome]
) -> None:
    """Whatever became of the call, the limiter learns from it."""
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "20ms"}
    outcome = read_response(wire_format("openai"), _REQUEST, status, headers, body, 0.0)
    assert type(outcome) is kind
    assert outcome.quotas == (
        QuotaReport(kind=QuotaKind.REQUESTS, limit=60, reset_s=0.02, resolution_s=0.001),
    )


def test_an_answer_larger_than_is_read_is_the_providers_failure() -> None:
    """An error stays the error that its status says; only an answer needs its body."""
    assert read_response(wire_format("openai"), _REQUEST, 200, {}, None, 0.0) == _failed(
        Reason.ANSWER_TOO_LARGE, 200
    )
    assert read_response(wire_format("openai"), _REQUEST, 500, {}, None, 0.0) == _failed(
        Reason.SERVER_ERROR, 500
    )


_SHAPES = ("choices", "message", "content", "finish_reason", "refusal", "stop_reason")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*_SHAPES, "error", "type", "code", "text", "usage", "prompt_tokens", "model"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(format=st.sampled_from(["openai", "anthropic"]), status=st.integers(100, 999), body=_JSON)
def test_no_answer_can_make_the_reading_fail(format: str, status: int, body: object) -> None:
    """Any JSON under any status is some outcome."""
    outcome = _read(format, status, body)
    assert isinstance(outcome, Completed | Throttled | Rejected | Failed | Halted)


# Not raised by a request: WebSockets, forms, a payload stream's own end, warnings.
_UNRELATED = {
    aiohttp.WSMessageTypeError,
    aiohttp.WebSocketError,
    aiohttp.EofStream,
    aiohttp.BadContentDispositionHeader,
    aiohttp.BadContentDispositionParam,
}


def _exceptions(module: ModuleType) -> set[type[Exception]]:
    return {
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Exception) and found.__module__.split(".")[0] in ("httpx", "aiohttp")
    }


_ALL = sorted(
    (_exceptions(httpx) | _exceptions(aiohttp) | _exceptions(aiohttp.client_exceptions))
    | _exceptions(aiohttp.http_exceptions),
    key=lambda found: (found.__module__, found.__name__),
)


def test_the_list_of_exceptions_is_the_libraries_own() -> None:
    """The test below would prove nothing on an empty list."""
    assert {httpx.ReadError, aiohttp.ClientConnectorDNSError, aiohttp.http_exceptions.LineTooLong} <= set(
        _ALL
    )
    assert len(_ALL) > 60


@pytest.mark.parametrize(
    "kind", [found for found in _ALL if found not in _UNRELATED], ids=lambda k: k.__name__
)
def test_every_exception_of_the_http_libraries_is_translated(kind: type[Exception]) -> None:
    """None can escape the client: each is caught, and each is a failed call."""
    error = kind.__new__(kind)
    assert isinstance(error, CALL_ERRORS)
    assert isinstance(read_exception(error), Failed)


def _wrapped(outer: Exception, inner: type[Exception]) -> Exception:
    outer.__cause__ = inner.__new__(inner)
    return outer


@pytest.mark.parametrize(
    ("error", "reason", "counts", "on_the_wire"),
    [
        (
            _wrapped(httpx.ConnectError(""), aiohttp.ClientConnectorDNSError),
            Reason.CONNECTION,
            False,
            False,
        ),
        (
            _wrapped(httpx.ConnectError(""), aiohttp.ClientConnectorCertificateError),
            Reason.CONNECTION,
            False,
            False,
        ),
        (
            _wrapped(httpx.ConnectTimeout(""), aiohttp.ConnectionTimeoutError),
            Reason.CONNECTION,
            False,
            False,
        ),
        (
            _wrapped(httpx.ConnectTimeout(""), aiohttp.ServerDisconnectedError),
            Reason.CONNECTION,
            False,
            True,
        ),
        (_wrapped(httpx.ConnectTimeout(""), aiohttp.ClientOSError), Reason.CONNECTION, False, True),
        (_wrapped(httpx.ReadTimeout(""), aiohttp.SocketTimeoutError), Reason.TIMEOUT, True, True),
        (_wrapped(httpx.ReadError(""), aiohttp.ClientPayloadError), Reason.CONNECTION, False, True),
        (httpx.ConnectTimeout(""), Reason.CONNECTION, False, False),
        (httpx.DecodingError(""), Reason.MALFORMED_ANSWER, True, True),
        (ConnectionResetError(), Reason.CONNECTION, False, True),
        (ssl.SSLError(), Reason.CONNECTION, False, True),
    ],
)
def test_the_transports_own_error_decides_whether_the_call_was_sent(
    error: Exception, reason: Reason, counts: bool, on_the_wire: bool
) -> None:
    """What httpx-aiohttp makes of an error says too little: a broken connection is a ConnectTimeout there."""
    assert isinstance(error, CALL_ERRORS)
    assert read_exception(error) == Failed(reason=reason, counts=counts, on_the_wire=on_the_wire)
