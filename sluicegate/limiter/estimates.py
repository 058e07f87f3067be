"""How many tokens a call will be, before anybody has counted them: learnt from what counted ones took.

An upper quantile and not the mean, because an estimate that is too low is found out by the provider's
429, and one that is too high is only refunded late. It is taken from the last 128 calls, so it follows
texts that change, and few enough samples of nonsense cannot move it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from sluicegate.llm.outcomes import Usage

QUANTILE = 0.95
_KEPT = 128
_ENOUGH = 8
# UTF-8 bytes / 4 was 5 to 23 % over real counts of English text.
_COLD_TOKENS_PER_BYTE = 0.25
# No text has as many bytes a token; and what a chat template adds can outweigh only the shortest prompts.
_MIN_TOKENS_PER_BYTE = 1 / 16
_MAX_TOKENS_PER_BYTE = 4.0
# Above the context of any model: a usage beyond it is a mistake, and no limit may be booked by it.
_MAX_TOKENS = 10_000_000


def is_believable(usage: Usage) -> bool:
    """Whether a usage says something: servers that count nothing send 0, broken ones send anything.

    There is no call without input, but there are answers without a word.
    """
    return (
        0 < usage.input_tokens <= _MAX_TOKENS
        and 0 <= usage.cached_input_tokens <= usage.input_tokens
        and 0 <= usage.output_tokens <= _MAX_TOKENS
    )


class RecentQuantile:
    """An upper quantile of the last 128 values, in O(1) memory; ready after 8."""

    def __init__(self) -> None:
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take note of one more value; the oldest is forgotten."""
        if len(self._in_order) == _KEPT:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]
        self._in_order.append(value)
        insort(self._sorted, value)

    def value(self) -> float | None:
        """Return what the next value exceeds in at most 5 % of cases; None while too few were seen.

        Of n values in random order the next one exceeds the k-th smallest with probability
        (n + 1 - k) / (n + 1) at most, whatever their distribution. Below 19 values no k is good enough:
        then it is the largest, which the next one exceeds in 1 / (n + 1) of cases.
        """
        count = len(self._sorted)
        if count < _ENOUGH:
            return None
        rank = min(count, math.ceil(QUANTILE * (count + 1)))
        return self._sorted[rank - 1]


class TokenEstimates:
    """What the prompts and answers of one route come to, as one process learns it."""

    def __init__(self) -> None:
        self._tokens_per_byte = RecentQuantile()
        self._output_tokens = RecentQuantile()

    def learn(self, prompt_bytes: int, max_output_tokens: int, usage: Usage) -> None:
        """Take note of what a completed call used; a usage that is not believable changes nothing."""
        if not is_believable(usage):
            return
        if prompt_bytes > 0:
            ratio = usage.input_tokens / prompt_bytes
            self._tokens_per_byte.add(min(max(ratio, _MIN_TOKENS_PER_BYTE), _MAX_TOKENS_PER_BYTE))
        if usage.output_tokens > 0:
            # Of an answer that reached its bound nobody knows how long it would have been under another.
            was_cut = usage.output_tokens >= max_output_tokens
            self._output_tokens.add(math.inf if was_cut else usage.output_tokens)

    def prompt_tokens(self, prompt_bytes: int) -> int:
        """Return what a prompt of so many bytes of UTF-8 seldom exceeds."""
        return math.ceil(prompt_bytes * (self._tokens_per_byte.value() or _COLD_TOKENS_PER_BYTE))

    def output_tokens(self, max_output_tokens: int) -> int:
        """Return what an answer seldom exceeds: never more than it may have."""
        predicted = self._output_tokens.value()
        return max_output_tokens if predicted is None else int(min(predicted, max_output_tokens))
