"""What one delivery of an event has been refused so far, and how patient it may still be."""

from __future__ import annotations

from dataclasses import replace

from sluicegate.retry.decisions import Progress, Retriable
from sluicegate.retry.policy import RetryPolicy


class DeliveryProgress:
    """What the steps of one delivery share: when the event first failed, and its in-place budget.

    Attempts are counted by step: eight chunks side by side that meet the same 429 are one rise of the
    backoff's exponent, not eight.
    """

    def __init__(self, start: Progress, policy: RetryPolicy) -> None:
        self._start = start
        self._policy = policy
        self._first_failed_at_ms = start.first_failed_at_ms
        self._in_place_until_ms: int | None = None
        self.has_called = False

    @property
    def has_failed(self) -> bool:
        """Whether a call of this event was ever refused or failed."""
        return self._first_failed_at_ms is not None

    @property
    def has_failed_here(self) -> bool:
        """Whether one was in this delivery."""
        return self._in_place_until_ms is not None

    def of_step(self) -> Progress:
        """Start a step of this delivery."""
        return self._start

    def after(self, step: Progress, outcome: Retriable, now_ms: int) -> Progress:
        """Count one more refused or failed call of the step."""
        step = self._shared(step).after(outcome, self._policy, now_ms)
        self._first_failed_at_ms = step.first_failed_at_ms
        self._in_place_until_ms = step.in_place_until_ms
        return step

    def patience_s(self, now_ms: int) -> float | None:
        """How long a block may be for the event to wait in its slot; None as long as it takes.

        An event that was never refused keeps its slot; one that was goes back to a tier when its next
        try would lie beyond the in-place budget.
        """
        if self._first_failed_at_ms is None:
            return None
        if self._in_place_until_ms is None:
            return self._policy.in_place_max_s
        return max(0, self._in_place_until_ms - now_ms) / 1000

    def _shared(self, step: Progress) -> Progress:
        return replace(
            step,
            first_failed_at_ms=self._first_failed_at_ms,
            in_place_until_ms=self._in_place_until_ms,
        )
