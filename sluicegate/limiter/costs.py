"""What calls of one route cost: reserved before the call, learnt from usage, corrected after it."""

from __future__ import annotations

from sluicegate.limiter.api import REFUSED, Cost
from sluicegate.limiter.estimates import TokenEstimates, is_believable
from sluicegate.limiter.profiles import (
    Profile,
    charged_input_tokens,
    charged_tokens,
    counts_refused,
    reserved_tokens,
)
from sluicegate.llm.outcomes import Usage
from sluicegate.llm.prices import Price


class CostModel:
    """The costs of one provider's model, as one process learns them. Without a price, dollars are 0."""

    def __init__(self, profile: Profile, price: Price | None = None) -> None:
        self._profile = profile
        self._price = price
        self._estimates = TokenEstimates()

    def reserve(self, prompt_bytes: int, max_output_tokens: int) -> Cost:
        """Return what to reserve for one call."""
        prompt = self._estimates.prompt_tokens(prompt_bytes)
        output = self._estimates.output_tokens(max_output_tokens)
        return Cost(
            tokens=reserved_tokens(
                self._profile,
                prompt_tokens=prompt,
                output_tokens=output,
                max_output_tokens=max_output_tokens,
            ),
            input_tokens=prompt,
            output_tokens=output,
            micro_dollars=self._micro_dollars(prompt, output),
        )

    def learn(self, prompt_bytes: int, max_output_tokens: int, usage: Usage) -> None:
        """Take note of what a completed call used."""
        self._estimates.learn(prompt_bytes, max_output_tokens, usage)

    def actual(self, reserved: Cost, usage: Usage | None) -> Cost | None:
        """Return what to settle: None keeps the reservation. `usage` is None when there was no answer.

        An answer that does not say what it used, or says what no model can, keeps its reservation too.
        Bills go by usage with every provider; its token limit may not.
        """
        if usage is None or not is_believable(usage):
            return None
        return Cost(
            tokens=charged_tokens(self._profile, reserved.tokens, usage),
            input_tokens=charged_input_tokens(self._profile, usage),
            output_tokens=usage.output_tokens,
            micro_dollars=self._micro_dollars(usage.input_tokens, usage.output_tokens),
        )

    def refused(self) -> Cost | None:
        """Return what to settle for a call that was refused: None keeps the reservation."""
        return None if counts_refused(self._profile) else REFUSED

    def _micro_dollars(self, input_tokens: int, output_tokens: int) -> int:
        return 0 if self._price is None else self._price.micro_dollars(input_tokens, output_tokens)
