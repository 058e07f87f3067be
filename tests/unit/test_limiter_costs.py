"""What a call reserves and settles with each provider, in every unit that a limit may count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.limiter.api import REFUSED, Cost
from sluicegate.limiter.costs import CostModel
from sluicegate.limiter.profiles import Profile
from sluicegate.llm.outcomes import Usage
from sluicegate.llm.prices import Price

PRICE = Price(input_dollars_per_million=0.15, output_dollars_per_million=0.60)
RESERVED = Cost(tokens=600, input_tokens=100, output_tokens=500, micro_dollars=315)
USAGE = Usage(input_tokens=100, output_tokens=50, cached_input_tokens=80)

profiles = pytest.mark.parametrize("profile", list(Profile))


def taught(profile: Profile, price: Price | None = None) -> CostModel:
    """Return a model that knows: a token is two bytes, an answer has 100 tokens."""
    model = CostModel(profile, price)
    for _ in range(8):
        model.learn(1_000, 512, Usage(input_tokens=500, output_tokens=100))
    return model


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
    cost = CostModel(profile).reserve(prompt_bytes, max_output_tokens)
    assert cost == Cost(
        requests=1,
        tokens=tokens,
        input_tokens=-(-prompt_bytes // 4),
        output_tokens=max_output_tokens,
        micro_dollars=0,
    )


@pytest.mark.parametrize(
    ("profile", "tokens"),
    [(Profile.OPENAI, 512), (Profile.AZURE, 712), (Profile.ANTHROPIC, 300), (Profile.GENERIC, 300)],
)
def test_what_was_learnt_shrinks_only_what_the_provider_does_not_reserve(
    profile: Profile, tokens: int
) -> None:
    """OpenAI and Azure count the whole of max_tokens; for the others short answers make calls cheaper."""
    cost = taught(profile, PRICE).reserve(400, 512)
    assert cost == Cost(tokens=tokens, input_tokens=200, output_tokens=100, micro_dollars=90)


@pytest.mark.parametrize(
    ("profile", "tokens", "input_tokens"),
    [
        (Profile.OPENAI, 600, 100),
        (Profile.AZURE, 600, 100),
        (Profile.ANTHROPIC, 70, 20),
        (Profile.GENERIC, 150, 100),
    ],
)
def test_an_answer_is_settled_as_its_provider_charges(
    profile: Profile, tokens: int, input_tokens: int
) -> None:
    """OpenAI and Azure keep their reservation, Anthropic leaves cached input out; all bill what was used."""
    assert CostModel(profile, PRICE).actual(RESERVED, USAGE) == Cost(
        tokens=tokens, input_tokens=input_tokens, output_tokens=50, micro_dollars=45
    )


@profiles
@pytest.mark.parametrize("usage", [None, Usage(), Usage(input_tokens=2**62, output_tokens=1)])
def test_a_call_that_does_not_say_what_it_used_keeps_its_reservation(
    profile: Profile, usage: Usage | None
) -> None:
    """Nobody knows what a failed call took, and nonsense that is booked would close the limit for years."""
    assert CostModel(profile, PRICE).actual(RESERVED, usage) is None


@pytest.mark.parametrize(
    ("profile", "settled"),
    [(Profile.OPENAI, None), (Profile.AZURE, None), (Profile.GENERIC, None), (Profile.ANTHROPIC, REFUSED)],
)
def test_a_refused_call_is_settled_as_its_provider_counts_it(profile: Profile, settled: Cost | None) -> None:
    """Where a refusal takes tokens the reservation stays; Anthropic counts the request only."""
    assert CostModel(profile, PRICE).refused() == settled


@profiles
@given(
    sizes=st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)).map(sorted),
    bounds=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).map(sorted),
    is_taught=st.booleans(),
)
def test_a_larger_call_never_reserves_less(
    profile: Profile, sizes: list[int], bounds: list[int], is_taught: bool
) -> None:
    """Every unit grows with the prompt and the bound, and each call is one request."""
    model = taught(profile, PRICE) if is_taught else CostModel(profile, PRICE)
    small, large = (model.reserve(size, bound) for size, bound in zip(sizes, bounds, strict=True))
    assert small.requests == large.requests == 1
    assert small.tokens <= large.tokens
    assert small.input_tokens <= large.input_tokens
    assert small.output_tokens <= large.output_tokens
    assert small.micro_dollars <= large.micro_dollars


@profiles
def test_estimates_that_were_right_settle_to_what_they_reserved(profile: Profile) -> None:
    """A call like all those before it leaves the limit as it was booked."""
    model = taught(profile, PRICE)
    reserved = model.reserve(1_000, 512)
    actual = model.actual(reserved, Usage(input_tokens=500, output_tokens=100))
    assert actual == reserved
    assert reserved == replace(reserved, input_tokens=500, output_tokens=100, micro_dollars=135)
