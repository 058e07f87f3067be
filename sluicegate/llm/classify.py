"""What an answer or an exception means: the taxonomy of provider errors, in one place.

The wire format speaks first (`own_meaning`: money, ramps, sizes, content have names of their own there);
what it leaves open is decided by the status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import aiohttp
import httpx
import orjson

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Failed, Halted, Outcome, Reason, Rejected, Throttled
from sluicegate.llm.quota_headers import read_quotas
from sluicegate.llm.retry_after import retry_after_s
from sluicegate.llm.wire import Refusal, WireFormat

# What an error that arrives inside a 200 would have had for a status.
_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 529,
}
_UNKNOWN_ERROR_STATUS = 500

# Before the request could leave us: name not found, refused, no route, no TLS, no free connection.
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientSSLError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    httpx.ConnectError,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)
# An established connection that falls silent. (A connection that is never made is a connection error.)
_TIMEOUTS = (aiohttp.SocketTimeoutError, httpx.ReadTimeout, httpx.WriteTimeout)
# Bytes came, but not those of an answer.
_MALFORMED = (
    aiohttp.ClientResponseError,
    aiohttp.http_exceptions.HttpProcessingError,
    httpx.DecodingError,
    httpx.RemoteProtocolError,
    httpx.TooManyRedirects,
    httpx.HTTPStatusError,
)

# Everything that the HTTP client raises for what happens on the network.
CALL_ERRORS = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    httpx.CookieConflict,
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    OSError,
)


def read_response(
    wire: WireFormat,
    request: CallRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    now_s: float,
) -> Outcome:
    """Return the outcome of a whole answer, with what its headers say of the account's limits.

    `body` is None when it was larger than the client reads.
    """
    outcome = _read_outcome(wire, request, status, headers, body, now_s)
    quotas = read_quotas(wire.quota_family, headers, now_s)
    return replace(outcome, quotas=quotas) if quotas else outcome


def _read_outcome(
    wire: WireFormat,
    request: CallRequest,
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    now_s: float,
) -> Outcome:
    if not 200 <= status < 300:
        # The status says what it was, whatever became of the body.
        parsed = None if body is None else _parse(body)
        return _meaning(wire, _read_refusal(status, parsed, headers, now_s, inside_answer=False))
    if body is None:
        return _unusable(Reason.ANSWER_TOO_LARGE, status)
    parsed = _parse(body)
    if not isinstance(parsed, Mapping):
        return _unusable(Reason.MALFORMED_ANSWER, status)
    if isinstance(parsed.get("error"), Mapping):
        return _meaning(wire, _read_refusal(status, parsed, headers, now_s, inside_answer=True))
    return wire.read_answer(parsed, request) or _unusable(Reason.MALFORMED_ANSWER, status)


def read_exception(error: Exception) -> Failed:
    """Return the outcome of an error of the HTTP client.

    The transport's own error is looked at before what httpx makes of it: httpx-aiohttp says ConnectTimeout
    for a connection that broke after the request was sent.
    """
    for link in _origin_first(error):
        if isinstance(link, _NEVER_SENT):
            return Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False)
        if isinstance(link, _TIMEOUTS):
            return Failed(reason=Reason.TIMEOUT, counts=True, on_the_wire=True)
        if isinstance(link, _MALFORMED):
            return Failed(reason=Reason.MALFORMED_ANSWER, counts=True, on_the_wire=True)
        if isinstance(link, aiohttp.ClientError):
            break
    if isinstance(error, httpx.ConnectTimeout) and error.__cause__ is None:
        return Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=False)
    return Failed(reason=Reason.CONNECTION, counts=False, on_the_wire=True)


def _origin_first(error: BaseException) -> Iterator[BaseException]:
    if error.__cause__ is not None:
        yield from _origin_first(error.__cause__)
    yield error


def _meaning(wire: WireFormat, refusal: Refusal) -> Outcome:
    return wire.own_meaning(refusal) or _by_status(refusal)


def _by_status(refusal: Refusal) -> Outcome:
    sent, wait_s = refusal.http_status, refusal.retry_after_s
    match refusal.status:
        case 429:
            return Throttled(reason=Reason.RATE_LIMITED, http_status=sent, retry_after_s=wait_s)
        case 503 | 529:
            return Throttled(reason=Reason.OVERLOADED, http_status=sent, retry_after_s=wait_s)
        case 402:
            return Halted(reason=Reason.MONEY, http_status=sent)
        case 401 | 403:
            return Halted(reason=Reason.CREDENTIALS, http_status=sent)
        case 404:
            # A wrong base_url or model: the same for every call, and no event's fault.
            return Halted(reason=Reason.NOT_FOUND, http_status=sent)
        case 413:
            return Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=sent)
        case status if 300 <= status < 400:
            return _failed(Reason.REDIRECTED, refusal)
        case 408 | 504:
            return _failed(Reason.TIMEOUT, refusal)
        case status if status in (409, 425) or 500 <= status < 600:
            return _failed(Reason.SERVER_ERROR, refusal)
        case status if 400 <= status < 500:
            return Rejected(reason=Reason.BAD_REQUEST, http_status=sent)
        case _:
            return _unusable(Reason.MALFORMED_ANSWER, sent)


def _failed(reason: Reason, refusal: Refusal) -> Failed:
    return Failed(
        reason=reason,
        counts=True,
        on_the_wire=True,
        http_status=refusal.http_status,
        retry_after_s=refusal.retry_after_s,
    )


def _unusable(reason: Reason, status: int) -> Failed:
    return Failed(reason=reason, counts=True, on_the_wire=True, http_status=status)


def _parse(body: bytes) -> object:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parsed


def _read_refusal(
    status: int, body: object, headers: Mapping[str, str], now_s: float, *, inside_answer: bool
) -> Refusal:
    """Both formats keep the error in an object `error`; some servers only write a text there."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, Mapping):
        error = {}
    kind, code, message = error.get("type"), error.get("code"), error.get("message")
    return Refusal(
        status=_status_inside(kind, code) if inside_answer else status,
        http_status=status,
        type=kind if isinstance(kind, str) else "",
        code=code if isinstance(code, str) else "",
        message=message.lower() if isinstance(message, str) else "",
        retry_after_s=retry_after_s(headers, now_s),
        has_quota_headers=any("ratelimit-" in name.lower() for name in headers),
    )


def _status_inside(kind: object, code: object) -> int:
    if isinstance(code, int) and 400 <= code < 600:
        return code
    for name in (code, kind):
        if isinstance(name, str) and name in _STATUS_OF_TYPE:
            return _STATUS_OF_TYPE[name]
    return _UNKNOWN_ERROR_STATUS
