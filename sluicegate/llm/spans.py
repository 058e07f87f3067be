"""Spans of LLM calls, by OpenTelemetry's semantic conventions for generative AI (`gen_ai.*`).

The names are ours to keep in step: the conventions are in development, and no released package has them as
stable constants. Neither prompt nor answer is ever an attribute.
"""

from __future__ import annotations

import re
from typing import Final

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Outcome
from sluicegate.telemetry.traces import Attribute, Span, SpanKind, Traces

_CHAT: Final = "chat"
_NAME = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
_FINISH_REASONS = frozenset(
    {
        "stop",
        "length",
        "content_filter",
        "tool_calls",
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "refusal",
        "tool_use",
        "pause_turn",
    }
)


def start_call(traces: Traces, request: CallRequest, *, provider: str, host: str, port: int | None) -> Span:
    """Start the span of one call below the current one. `provider` is the wire format's."""
    attributes: dict[str, Attribute | None] = {
        "gen_ai.operation.name": _CHAT,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_output_tokens,
        "gen_ai.output.type": "json" if request.json_object else "text",
        "server.address": host,
        "server.port": port,
    }
    return traces.child(f"{_CHAT} {request.model}", SpanKind.CLIENT, attributes)


def end_call(span: Span, outcome: Outcome) -> None:
    """End the span with what became of the call. Words of the provider's stay out unless they are known."""
    if not isinstance(outcome, Completed):
        span.note({"http.response.status_code": outcome.http_status})
        span.end(outcome.reason.value)
        return
    reason = outcome.finish_reason
    span.note(
        {
            "gen_ai.response.model": outcome.model if _NAME.fullmatch(outcome.model) else None,
            "gen_ai.response.finish_reasons": (reason,) if reason in _FINISH_REASONS else None,
            "gen_ai.usage.input_tokens": outcome.usage.input_tokens,
            "gen_ai.usage.output_tokens": outcome.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": outcome.usage.cached_input_tokens or None,
        }
    )
    span.end()
