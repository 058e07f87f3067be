"""What each provider takes from its token quota, which is not the same number as it bills.

OpenAI counts the larger of `max_tokens` and an estimate of the prompt when the call comes in, Azure
their sum; both keep that, whatever the call used, and count failed calls too. Anthropic counts input
that its cache did not serve and produced output, so there `max_tokens` is only what might come, and a
refused call takes a request and no token; a generic server is taken to count all that was read and written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from sluicegate.llm.outcomes import Usage


class Profile(StrEnum):
    """How a provider charges its token limit: the setting `profile`."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    GENERIC = "generic"


def reserved_tokens(
    profile: Profile, *, prompt_tokens: int, output_tokens: int, max_output_tokens: int
) -> int:
    """Return what a call takes from the token limit as it starts; the first two are estimates."""
    match profile:
        case Profile.OPENAI:
            return max(max_output_tokens, prompt_tokens)
        case Profile.AZURE:
            return prompt_tokens + max_output_tokens
        case Profile.ANTHROPIC | Profile.GENERIC:
            return prompt_tokens + output_tokens
        case other:
            assert_never(other)


def charged_tokens(profile: Profile, reserved: int, usage: Usage) -> int:
    """Return what an answered call took from the token limit in the end."""
    match profile:
        case Profile.OPENAI | Profile.AZURE:
            return reserved
        case Profile.ANTHROPIC | Profile.GENERIC:
            return charged_input_tokens(profile, usage) + usage.output_tokens
        case other:
            assert_never(other)


def counts_refused(profile: Profile) -> bool:
    """Return whether a call that was refused takes from the token limit: where it does its retry takes again.

    Of a server that nobody knows it is believed, too: what is kept too much is only time.
    """
    match profile:
        case Profile.OPENAI | Profile.AZURE | Profile.GENERIC:
            return True
        case Profile.ANTHROPIC:
            return False
        case other:
            assert_never(other)


def charged_input_tokens(profile: Profile, usage: Usage) -> int:
    """Return what counts as input. Anthropic leaves out what was read from its cache (most models)."""
    match profile:
        case Profile.ANTHROPIC:
            return usage.input_tokens - usage.cached_input_tokens
        case Profile.OPENAI | Profile.AZURE | Profile.GENERIC:
            return usage.input_tokens
        case other:
            assert_never(other)
