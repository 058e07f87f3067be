"""Token estimates: how they start, what they learn, and what cannot fool them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.limiter.estimates import QUANTILE, RecentQuantile, TokenEstimates
from sluicegate.llm.outcomes import Usage

PROMPT_BYTES = 4_000
MAX_OUTPUT = 1_000
ALMOST_ENOUGH = 7


def learn(
    estimates: TokenEstimates, *, times: int, input_tokens: int = 800, output_tokens: int = 100
) -> None:
    """Let the estimates see the same call so many times."""
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    for _ in range(times):
        estimates.learn(PROMPT_BYTES, MAX_OUTPUT, usage)


def predicted(estimates: TokenEstimates) -> tuple[int, int]:
    """Return the estimates of the usual call's prompt and answer."""
    return estimates.prompt_tokens(PROMPT_BYTES), estimates.output_tokens(MAX_OUTPUT)


@pytest.mark.parametrize(("prompt_bytes", "tokens"), [(0, 0), (1, 1), (4, 1), (401, 101)])
def test_before_anything_is_known_a_token_is_four_bytes(prompt_bytes: int, tokens: int) -> None:
    """A cold estimate is the bytes / 4, rounded up, and the longest answer allowed."""
    cold = TokenEstimates()
    assert (cold.prompt_tokens(prompt_bytes), cold.output_tokens(MAX_OUTPUT)) == (tokens, MAX_OUTPUT)


def test_a_handful_of_usages_replaces_a_cold_estimate_that_was_three_times_too_high() -> None:
    """A few calls are chance; from the eighth on what was seen counts."""
    estimates = TokenEstimates()
    learn(estimates, times=ALMOST_ENOUGH, input_tokens=333, output_tokens=20)
    assert predicted(estimates) == (1_000, MAX_OUTPUT)
    learn(estimates, times=1, input_tokens=333, output_tokens=20)
    assert predicted(estimates) == (333, 20)


def test_estimates_follow_a_text_that_changes_its_language() -> None:
    """More tokens per byte are believed after a few calls, fewer once the old ones are forgotten."""
    estimates = TokenEstimates()
    learn(estimates, times=200, input_tokens=800)
    learn(estimates, times=10, input_tokens=2_000)
    assert predicted(estimates)[0] == 2_000
    learn(estimates, times=128, input_tokens=500)
    assert predicted(estimates)[0] == 500


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(output_tokens=5),
        Usage(output_tokens=-1, input_tokens=5),
        Usage(input_tokens=5, output_tokens=5, cached_input_tokens=6),
        Usage(input_tokens=10**9, output_tokens=5),
        Usage(input_tokens=5, output_tokens=2**62),
    ],
)
def test_a_usage_that_no_model_can_have_teaches_nothing(usage: Usage) -> None:
    """Servers that count nothing send 0 and broken ones send anything: the estimates stay cold."""
    estimates = TokenEstimates()
    for _ in range(300):
        estimates.learn(PROMPT_BYTES, MAX_OUTPUT, usage)
    assert predicted(estimates) == (1_000, MAX_OUTPUT)


def test_an_answer_without_a_word_does_not_shorten_the_next() -> None:
    """It may as well come from a server that counts prompts only."""
    estimates = TokenEstimates()
    learn(estimates, times=20, output_tokens=0)
    assert predicted(estimates) == (800, MAX_OUTPUT)


@pytest.mark.parametrize(("input_tokens", "estimate"), [(9_999_999, 16_000), (1, 250)])
def test_tokens_per_byte_are_bounded(input_tokens: int, estimate: int) -> None:
    """A server that always says the same nonsense gets at most 4 tokens a byte, and at least 1/16."""
    estimates = TokenEstimates()
    learn(estimates, times=20, input_tokens=input_tokens)
    assert predicted(estimates)[0] == estimate


def test_a_few_wild_usages_move_nothing() -> None:
    """Fewer than one in twenty are the tail that the quantile leaves out."""
    estimates = TokenEstimates()
    learn(estimates, times=128)
    learn(estimates, times=5, input_tokens=16_000, output_tokens=999)
    assert predicted(estimates) == (800, 100)


def test_an_answer_that_was_cut_says_that_longer_ones_are_wanted() -> None:
    """What stops at its bound would have been longer under a higher one, so that one is reserved."""
    estimates = TokenEstimates()
    for _ in range(20):
        estimates.learn(PROMPT_BYTES, 16, Usage(input_tokens=800, output_tokens=16))
    assert [estimates.output_tokens(bound) for bound in (16, 700)] == [16, 700]


@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 10**7),
            st.integers(1, 10**6),
            st.builds(Usage, input_tokens=st.integers(-1, 2**40), output_tokens=st.integers(-1, 2**40)),
        ),
        max_size=150,
    ),
    sizes=st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)).map(sorted),
    bounds=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).map(sorted),
)
def test_whatever_was_seen_more_is_never_estimated_as_less(
    calls: list[tuple[int, int, Usage]], sizes: list[int], bounds: list[int]
) -> None:
    """Estimates grow with the prompt and the bound, and an answer stays between 1 token and its bound."""
    estimates = TokenEstimates()
    for prompt_bytes, bound, usage in calls:
        estimates.learn(prompt_bytes, bound, usage)
    small, large = (estimates.prompt_tokens(size) for size in sizes)
    short, long = (estimates.output_tokens(bound) for bound in bounds)
    assert 0 <= small <= large
    assert 1 <= short <= long
    assert short <= bounds[0]
    assert long <= bounds[1]


@given(st.lists(st.floats(0, 10), max_size=400))
def test_the_quantile_is_that_of_the_last_128_values(values: list[float]) -> None:
    """The sorted window never drifts from the values that it is of."""
    recent = RecentQuantile()
    for value in values:
        recent.add(value)
    last = sorted(values[-128:])
    rank = min(len(last), math.ceil(QUANTILE * (len(last) + 1)))
    assert recent.value() == (last[rank - 1] if len(last) >= 8 else None)


@pytest.mark.parametrize(
    ("draw", "least_share"),
    [
        (lambda random: random.lognormvariate(5, 0.8), 0.04),
        (lambda random: random.uniform(10, 500), 0.04),
        (lambda random: random.choice([20, 900]), 0.0),
    ],
    ids=["long-tail", "even", "two-kinds"],
)
def test_one_call_in_twenty_is_larger_than_estimated(
    draw: Callable[[random.Random], float], least_share: float
) -> None:
    """Whatever the distribution, the share that exceeds its estimate is the quantile's, or below."""
    numbers = random.Random(7)
    estimates = TokenEstimates()
    exceeded = 0
    for _ in range(20_000):
        tokens = math.ceil(draw(numbers))
        exceeded += tokens > estimates.output_tokens(10**6)
        exceeded += 4 * tokens > estimates.prompt_tokens(PROMPT_BYTES)
        usage = Usage(input_tokens=4 * tokens, output_tokens=tokens)
        estimates.learn(PROMPT_BYTES, 10**6, usage)
    assert least_share <= exceeded / 40_000 <= 1 - QUANTILE + 0.003
