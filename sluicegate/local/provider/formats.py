"""The two wire formats from the provider's side: reading a call, writing answers, errors and headers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sluicegate.local.provider.answers import Answer, Question
from sluicegate.local.provider.quota import Dimension, Quota

_DEFAULT_MAX_TOKENS = 4096
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorText:
    """What an error says; None leaves the provider's usual word for the status."""

    type: str | None = None
    code: str | None = None
    message: str | None = None


class Format(Protocol):
    """One provider's format. `charge` is what the quota takes when it admits a call.

    `crowded_status` answers more calls at once than an account may make, `overloaded_status` more than the
    provider can bear.
    """

    name: str
    crowded_status: int
    overloaded_status: int

    def read(self, body: Json) -> Question:
        """Return the question. Raises ValueError when the body is not of this format."""

    def charge(self, question: Question) -> Mapping[Dimension, int]:
        """Return what is charged when the call is admitted."""

    def charge_answer(self, answer: Answer) -> Mapping[Dimension, int]:
        """Return what is charged when the answer is given."""

    def answer(self, question: Question, answer: Answer, sequence: int, *, filtered: bool) -> Json:
        """Return the body of a 200."""

    def error(self, status: int, text: ErrorText) -> Json:
        """Return the body of an error."""

    def quota_headers(self, quota: Quota, now_s: float) -> dict[str, str]:
        """Return the rate-limit headers of every answer."""

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """Return what a refused call is told to wait."""


class OpenAI:
    """Chat completions: the prompt at four bytes a token, but never less than max_tokens, charged at once."""

    name = "openai"
    crowded_status = 429
    overloaded_status = 503
    _USUAL: Mapping[int, tuple[str, str | None]] = {
        400: ("invalid_request_error", None),
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "model_not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }
    # Under the status of a rate limit, but of a type of its own.
    _TYPE_OF_CODE: Mapping[str | None, str] = {"insufficient_quota": "insufficient_quota"}

    def read(self, body: Json) -> Question:
        """Read model, messages, max_tokens or max_completion_tokens, and response_format."""
        texts, roles = _messages(body)
        wanted = body.get("response_format")
        asks_for_object = isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")
        system = " ".join(text for text, role in zip(texts, roles, strict=True) if role == "system")
        max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
        return _question(body, texts, roles, max_tokens, asks_for_object or "json" in system.lower())

    def charge(self, question: Question) -> Mapping[Dimension, int]:
        """The vendor's documented rule: max(max_tokens, estimate of the prompt)."""
        tokens = max(question.max_tokens or 0, question.prompt_tokens)
        return {Dimension.REQUESTS: 1, Dimension.TOKENS: tokens}

    def charge_answer(self, answer: Answer) -> Mapping[Dimension, int]:
        """Nothing: the reservation stays."""
        return {}

    def answer(self, question: Question, answer: Answer, sequence: int, *, filtered: bool) -> Json:
        """One choice, and the usage."""
        finish_reason = "length" if answer.is_cut else "stop"
        return {
            "id": f"chatcmpl-{sequence}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": question.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "" if filtered else answer.text},
                    "finish_reason": "content_filter" if filtered else finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": question.prompt_tokens,
                "completion_tokens": answer.tokens,
                "total_tokens": question.prompt_tokens + answer.tokens,
            },
        }

    def error(self, status: int, text: ErrorText) -> Json:
        """An object with message, type and code."""
        kind, code = self._USUAL.get(
            status, ("server_error" if status >= 500 else "invalid_request_error", None)
        )
        return {
            "error": {
                "message": text.message or f"The simulator answered {status}.",
                "type": text.type or self._TYPE_OF_CODE.get(text.code, kind),
                "param": None,
                "code": text.code or code,
            }
        }

    def quota_headers(self, quota: Quota, now_s: float) -> dict[str, str]:
        """`x-ratelimit-*`: remaining of the minute or window, and the time until nothing is used."""
        headers = {}
        for dimension in (Dimension.REQUESTS, Dimension.TOKENS):
            limit, left = quota.per_minute[dimension], quota.left(dimension, now_s)
            full_in_s = quota.meters[dimension].full_in_s(now_s)
            headers[f"x-ratelimit-limit-{dimension}"] = str(int(limit))
            headers[f"x-ratelimit-remaining-{dimension}"] = str(max(0, math.floor(left)))
            headers[f"x-ratelimit-reset-{dimension}"] = _duration(full_in_s)
        return headers

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """Whole seconds for everybody, milliseconds for those who know them."""
        return {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


class Anthropic:
    """Messages: the prompt is charged when admitted, the output when given; max_tokens reserves nothing.

    Where input and output have limits of their own, each is charged there too, and no call is admitted while
    the output is in debt.
    """

    name = "anthropic"
    crowded_status = 529
    overloaded_status = 529
    _USUAL: Mapping[int, str] = {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }

    def read(self, body: Json) -> Question:
        """Read model, system, messages and max_tokens, which this format requires."""
        max_tokens = body.get("max_tokens")
        if max_tokens is None:
            raise ValueError("max_tokens: required")
        texts, roles = _messages(body)
        system = _text(body.get("system", ""))
        return _question(body, [system, *texts], ["system", *roles], max_tokens, "json" in system.lower())

    def charge(self, question: Question) -> Mapping[Dimension, int]:
        """The prompt, and no output yet."""
        return {
            Dimension.REQUESTS: 1,
            Dimension.TOKENS: question.prompt_tokens,
            Dimension.INPUT_TOKENS: question.prompt_tokens,
            Dimension.OUTPUT_TOKENS: 0,
        }

    def charge_answer(self, answer: Answer) -> Mapping[Dimension, int]:
        """What was really given out."""
        return {Dimension.TOKENS: answer.tokens, Dimension.OUTPUT_TOKENS: answer.tokens}

    def answer(self, question: Question, answer: Answer, sequence: int, *, filtered: bool) -> Json:
        """One text block, and the usage."""
        stop_reason = "max_tokens" if answer.is_cut else "end_turn"
        return {
            "id": f"msg_{sequence}",
            "type": "message",
            "role": "assistant",
            "model": question.model,
            "content": [] if filtered else [{"type": "text", "text": answer.text}],
            "stop_reason": "refusal" if filtered else stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": question.prompt_tokens, "output_tokens": answer.tokens},
        }

    def error(self, status: int, text: ErrorText) -> Json:
        """An object with type and message."""
        kind = self._USUAL.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error: dict[str, Any] = {
            "type": text.type or kind,
            "message": text.message or f"The simulator answered {status}.",
        }
        if text.code is not None:
            error["code"] = text.code
        return {"type": "error", "error": error}

    def quota_headers(self, quota: Quota, now_s: float) -> dict[str, str]:
        """`anthropic-ratelimit-*` with the moment of the reset in RFC 3339, whole seconds."""
        headers = {}
        for dimension, limit in quota.per_minute.items():
            name, left = dimension.replace("_", "-"), quota.left(dimension, now_s)
            full_at = time.gmtime(math.ceil(now_s + quota.meters[dimension].full_in_s(now_s)))
            headers[f"anthropic-ratelimit-{name}-limit"] = str(int(limit))
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(max(0, math.floor(left)))
            headers[f"anthropic-ratelimit-{name}-reset"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", full_at)
        return headers

    def retry_headers(self, wait_s: float) -> dict[str, str]:
        """Whole seconds: this provider has nothing finer."""
        return {"retry-after": str(math.ceil(wait_s))}


def _duration(seconds: float) -> str:
    """`250ms`, `1.5s`, `6m0s`: the way this provider writes spans of time."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{int(seconds // 60)}m{seconds % 60:.0f}s"


def _messages(body: Json) -> tuple[list[str], list[str]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: a list with at least one message is required")
    texts, roles = [], []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise ValueError("messages: each is an object with role and content")
        texts.append(_text(message.get("content")))
        roles.append(role)
    return texts, roles


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    raise ValueError("messages: content is a text or a list of parts")


def _question(
    body: Json, texts: list[str], roles: list[str], max_tokens: object, wants_json: bool
) -> Question:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ValueError("model: a text is required")
    if max_tokens is not None and (
        isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1
    ):
        raise ValueError("max_tokens: a whole number above 0")
    own = [text for text, role in zip(texts, roles, strict=True) if role == "user"]
    return Question(
        model=model,
        prompt="".join(texts),
        last_message=own[-1] if own else texts[-1],
        message_count=sum(role != "system" for role in roles),
        max_tokens=max_tokens,
        wants_json=wants_json,
    )
