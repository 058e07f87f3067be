"""What a replay will take of the quota: calls, tokens, money and time. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.llm.prices import Price
from sluicegate.settings import LimitSettings, StreamSettings

_BYTES_PER_TOKEN = 4
_MICRO = 1_000_000
_DEFAULT_RATE_PER_S = 20.0
_SHARE_OF_QUOTA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the events take if no step of them was paid before; what was is not paid again.

    `dollars` and `at_quota_s` are None where nobody knows the price or the limits.
    """

    events: int
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None
    at_quota_s: float | None

    def rate_per_s(self) -> float:
        """Return events a second that leave half of the quota to fresh events; 20 without a known limit."""
        if not self.at_quota_s or not self.events:
            return _DEFAULT_RATE_PER_S
        return _SHARE_OF_QUOTA * self.events / self.at_quota_s


def estimate(
    values_bytes: Iterable[int], stream: StreamSettings, price: Price | None, limits: LimitSettings | None
) -> Estimate:
    """Estimate from the sizes of the events' values.

    A token is four bytes. An event above `chunk_tokens` counts one call a chunk and one that joins them;
    every answer is taken to be as long as it may be.
    """
    events, calls, input_tokens = 0, 0, 0
    for value_bytes in values_bytes:
        tokens = math.ceil(value_bytes / _BYTES_PER_TOKEN)
        chunks = math.ceil(tokens / stream.chunk_tokens)
        events += 1
        calls += 1 if chunks <= 1 else chunks + 1
        input_tokens += tokens
    output_tokens = calls * stream.max_output_tokens
    return Estimate(
        events=events,
        calls=calls,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        dollars=None if price is None else price.micro_dollars(input_tokens, output_tokens) / _MICRO,
        at_quota_s=_at_quota_s(calls, input_tokens, output_tokens, limits),
    )


def _at_quota_s(
    calls: int, input_tokens: int, output_tokens: int, limits: LimitSettings | None
) -> float | None:
    """Return how long the dimension that binds takes, alone on its quota; None where no rate is limited."""
    if limits is None:
        return None
    each = (
        (calls, limits.requests_per_minute),
        (input_tokens + output_tokens, limits.tokens_per_minute),
        (input_tokens, limits.input_tokens_per_minute),
        (output_tokens, limits.output_tokens_per_minute),
    )
    return max((amount / rate * 60 for amount, rate in each if rate is not None), default=None)
