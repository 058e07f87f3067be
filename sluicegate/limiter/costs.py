"""What calls of one route cost: reserved before the call, learnt from usage, corrected after it."""

from __future__ import annotations

from sluicegate.limiter.api import Cost
from sluicegate.limiter.profiles import Profile, actual_cost, cost_of
from sluicegate.llm.outcomes import Usage


class CostModel:
    """The costs of one provider's model, as one process learns them."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def reserve(self, prompt_bytes: int, max_output_tokens: int) -> Cost:
        """Return what to reserve for one call."""
        return cost_of(self._profile, prompt_bytes, max_output_tokens)

    def learn(self, prompt_bytes: int, max_output_tokens: int, usage: Usage) -> None:
        """Take note of what a completed call used."""

    def actual(self, reserved: Cost, usage: Usage | None) -> Cost | None:
        """Return what to settle: None keeps the reservation. `usage` is None when there was no answer."""
        return actual_cost(self._profile, reserved, usage)
