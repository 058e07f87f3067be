"""The OpenAI chat completions format, as api.openai.com, Azure and the many servers that copy it speak it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Halted, Outcome, Reason, Rejected, Throttled, Usage
from sluicegate.llm.quota_headers import QuotaFamily
from sluicegate.llm.wire import JsonObject, Refusal, read_usage

_MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "organization_usage_limit_exceeded",
    }
)
_MONEY_SUFFIX = "_spend_limit_exceeded"
_RAMP_CODES = frozenset({"slow_down", "ramp_limit_exceeded"})
_CONTENT_CODES = frozenset({"content_filter", "content_policy_violation"})
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})


class OpenAIFormat:
    """`POST {base_url}/chat/completions` with a bearer key."""

    path = "/chat/completions"
    quota_family = QuotaFamily.OPENAI

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Return the bearer header; Azure's gateway takes it too."""
        return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def body(self, request: CallRequest) -> dict[str, Any]:
        """Return the call; `max_tokens` is the name that every server of this format knows."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": message.role, "content": message.text} for message in request.messages],
            "max_tokens": request.max_output_tokens,
        }
        if request.json_object:
            body["response_format"] = {"type": "json_object"}
        return body

    def read_answer(self, answer: JsonObject, request: CallRequest) -> Outcome | None:
        """Read the first choice. A filtered or refused one is rejected, one without text is no answer."""
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            return None
        message = choices[0].get("message")
        finish_reason = choices[0].get("finish_reason")
        if finish_reason == "content_filter" or (isinstance(message, Mapping) and message.get("refusal")):
            return Rejected(reason=Reason.CONTENT_REFUSED, http_status=200)
        text = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(text, str) or not text:
            return None
        model = answer.get("model")
        return Completed(
            text=text,
            model=model if isinstance(model, str) and model else request.model,
            usage=_usage(answer.get("usage")),
            finish_reason=finish_reason if isinstance(finish_reason, str) else "stop",
        )

    def own_meaning(self, refusal: Refusal) -> Outcome | None:
        """Tell money, ramp, size and content apart by `code` or `type`, as documented."""
        status = refusal.http_status
        codes = {refusal.code, refusal.type}
        if codes & _MONEY_CODES or any(code.endswith(_MONEY_SUFFIX) for code in codes):
            return Halted(reason=Reason.MONEY, http_status=status)
        if codes & _RAMP_CODES:
            return Throttled(
                reason=Reason.RAMP_LIMITED, http_status=status, retry_after_s=refusal.retry_after_s
            )
        if codes & _CONTENT_CODES:
            return Rejected(reason=Reason.CONTENT_REFUSED, http_status=status)
        # One call above the whole minute's tokens comes as a 429 too, and no wait helps it.
        too_large = refusal.status == 429 and refusal.message.startswith("request too large")
        if codes & _TOO_LONG_CODES or too_large or "maximum context length" in refusal.message:
            return Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=status)
        return None


def _usage(usage: object) -> Usage:
    if not isinstance(usage, Mapping):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return read_usage(usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
