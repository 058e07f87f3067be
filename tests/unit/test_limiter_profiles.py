"""What is reserved and settled for each provider."""

from __future__ import annotations

import pytest

from sluicegate.limiter.api import Cost
from sluicegate.limiter.profiles import Profile, actual_cost, cost_of
from sluicegate.llm.outcomes import Usage


@pytest.mark.parametrize(
    ("profile", "prompt_bytes", "max_output_tokens", "tokens"),
    [
        (Profile.OPENAI, 4_000, 512, 1_000),
        (Profile.OPENAI, 400, 512, 512),
        (Profile.OPENAI, 401, 1, 101),
        (Profile.AZURE, 401, 512, 613),
        (Profile.ANTHROPIC, 400, 512, 612),
        (Profile.GENERIC, 0, 512, 512),
    ],
)
def test_each_profile_reserves_what_its_provider_counts(
    profile: Profile, prompt_bytes: int, max_output_tokens: int, tokens: int
) -> None:
    """OpenAI counts the larger of prompt and max_tokens, the others their sum; part tokens round up."""
    assert cost_of(profile, prompt_bytes, max_output_tokens) == Cost(requests=1, tokens=tokens)


@pytest.mark.parametrize("profile", [Profile.OPENAI, Profile.AZURE])
def test_a_provider_that_counts_reservations_refunds_nothing(profile: Profile) -> None:
    """OpenAI and Azure keep what was reserved, whatever was used."""
    assert actual_cost(profile, Cost(tokens=600), Usage(input_tokens=5, output_tokens=5)) is None


def test_a_provider_that_counts_usage_is_settled_to_it() -> None:
    """Anthropic leaves cached input out; a generic server counts all of it."""
    usage = Usage(input_tokens=100, output_tokens=50, cached_input_tokens=80)
    assert actual_cost(Profile.ANTHROPIC, Cost(tokens=600), usage) == Cost(tokens=70)
    assert actual_cost(Profile.GENERIC, Cost(tokens=600), usage) == Cost(tokens=150)


@pytest.mark.parametrize("profile", list(Profile))
def test_a_call_without_an_answer_keeps_its_reservation(profile: Profile) -> None:
    """Nobody knows what a failed call took."""
    assert actual_cost(profile, Cost(tokens=600), None) is None
