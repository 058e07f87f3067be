"""What each provider takes from its token quota, which is not the same number as it bills.

OpenAI counts the larger of `max_tokens` and an estimate of the prompt when the call comes in, Azure
their sum; both keep that, whatever the call used, and count failed calls too. Anthropic counts input
and produced output, so there `max_tokens` is only what might come; a generic server is taken to do
the same.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from sluicegate.limiter.api import Cost
from sluicegate.limiter.estimates import prompt_tokens
from sluicegate.llm.outcomes import Usage


class Profile(StrEnum):
    """How a provider charges its token limit: the setting `profile`."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    GENERIC = "generic"


def cost_of(profile: Profile, prompt_bytes: int, max_output_tokens: int) -> Cost:
    """Return what to reserve for one call."""
    prompt = prompt_tokens(prompt_bytes)
    match profile:
        case Profile.OPENAI:
            return Cost(tokens=max(max_output_tokens, prompt))
        case Profile.AZURE | Profile.ANTHROPIC | Profile.GENERIC:
            return Cost(tokens=prompt + max_output_tokens)
        case other:
            assert_never(other)


def actual_cost(profile: Profile, reserved: Cost, usage: Usage | None) -> Cost | None:
    """Return what to settle: None keeps the reservation. `usage` is None when the call gave no answer.

    Anthropic does not count input read from its cache (most models); `usage.input_tokens` includes it.
    """
    match profile:
        case Profile.OPENAI | Profile.AZURE:
            return None
        case Profile.ANTHROPIC:
            if usage is None:
                return None
            uncached_tokens = max(0, usage.input_tokens - usage.cached_input_tokens)
            return Cost(requests=reserved.requests, tokens=uncached_tokens + usage.output_tokens)
        case Profile.GENERIC:
            return None if usage is None else Cost(requests=reserved.requests, tokens=usage.total_tokens)
        case other:
            assert_never(other)
