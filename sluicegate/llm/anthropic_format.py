"""The Anthropic messages format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Halted, Outcome, Reason, Rejected, Throttled, Usage
from sluicegate.llm.quota_headers import QuotaFamily
from sluicegate.llm.wire import JsonObject, Refusal, read_tokens, read_usage

_VERSION = "2023-06-01"
_MONEY_WORDS = ("specified api usage limits", "credit balance is too low", "spend limit", "usage limits")
_RAMP_WORDS = ("acceleration limit", "ramp limit")
_RAMP_TYPE = "ramp_limit_exceeded"
_TOO_LONG_WORDS = ("prompt is too long", "exceed context limit", "context window")
_FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


class AnthropicFormat:
    """`POST {base_url}/messages` with an `x-api-key`.

    The format has no switch for JSON, and newer models refuse a prefilled answer: `json_object` adds
    nothing here, the prompt itself asks for the object and its reader checks what came.
    """

    path = "/messages"
    quota_family = QuotaFamily.ANTHROPIC

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Return the version that our reading rests on, and the key."""
        headers = {"anthropic-version": _VERSION}
        return headers if api_key is None else {**headers, "x-api-key": api_key}

    def body(self, request: CallRequest) -> dict[str, Any]:
        """Return the call; system messages go into the field of their own that this format has."""
        system = "\n\n".join(message.text for message in request.messages if message.role == "system")
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_output_tokens,
            "messages": [
                {"role": message.role, "content": message.text}
                for message in request.messages
                if message.role != "system"
            ],
        }
        if system:
            body["system"] = system
        return body

    def read_answer(self, answer: JsonObject, request: CallRequest) -> Outcome | None:
        """Join the text blocks. A refusal is rejected, an answer without text is none."""
        if answer.get("stop_reason") == "refusal":
            return Rejected(reason=Reason.CONTENT_REFUSED, http_status=200)
        blocks = answer.get("content")
        if not isinstance(blocks, list):
            return None
        text = "".join(
            block["text"]
            for block in blocks
            if isinstance(block, Mapping)
            and block.get("type") == "text"
            and isinstance(block.get("text"), str)
        )
        if not text:
            return None
        model = answer.get("model")
        stop_reason = answer.get("stop_reason")
        return Completed(
            text=text,
            model=model if isinstance(model, str) and model else request.model,
            usage=_usage(answer.get("usage")),
            finish_reason=_FINISH_REASONS.get(stop_reason, "stop")
            if isinstance(stop_reason, str)
            else "stop",
        )

    def own_meaning(self, refusal: Refusal) -> Outcome | None:
        """Tell overload, money, ramp and size apart by type and, where it has no code, by message."""
        status = refusal.http_status
        if refusal.type == "overloaded_error":
            return Throttled(
                reason=Reason.OVERLOADED, http_status=status, retry_after_s=refusal.retry_after_s
            )
        if any(word in refusal.message for word in _MONEY_WORDS):
            return Halted(reason=Reason.MONEY, http_status=status)
        if _RAMP_TYPE in (refusal.type, refusal.code) or any(word in refusal.message for word in _RAMP_WORDS):
            return Throttled(
                reason=Reason.RAMP_LIMITED, http_status=status, retry_after_s=refusal.retry_after_s
            )
        # A bucket always says when it has room again; a limit on spending never does.
        names_no_wait = refusal.retry_after_s is None and not refusal.has_quota_headers
        if refusal.status == 429 and refusal.type == "rate_limit_error" and names_no_wait:
            return Halted(reason=Reason.MONEY, http_status=status)
        if refusal.type == "request_too_large" or any(w in refusal.message for w in _TOO_LONG_WORDS):
            return Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=status)
        return None


def _usage(usage: object) -> Usage:
    if not isinstance(usage, Mapping):
        return Usage()
    read = read_tokens(usage.get("cache_read_input_tokens"))
    written = read_tokens(usage.get("cache_creation_input_tokens"))
    return read_usage(
        usage.get("input_tokens"), usage.get("output_tokens"), cached=read, apart=read + written
    )
