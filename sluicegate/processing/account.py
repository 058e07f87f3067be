"""What one delivery took and came to: the fields of its one log line."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.llm.outcomes import Completed, Outcome, Usage

DELIVERY_DONE = "delivery.done"


@dataclass(slots=True, kw_only=True)
class Account:
    """Collects while a delivery runs. `waited_s` is for permits, `llm_s` on the wire, sums over all calls."""

    id: str
    origin: str
    attempt: int
    waited_s: float = 0.0
    llm_s: float = 0.0
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    error: str | None = None

    def add_call(self, outcome: Outcome, seconds: float) -> None:
        """Count a call that was on the wire for so long."""
        self.calls += 1
        self.llm_s += seconds
        if isinstance(outcome, Completed):
            self.usage += outcome.usage

    def fields(self, decision: str) -> dict[str, object]:
        """Return the line's fields; nothing in them comes from a value, a key or a provider's text."""
        return {
            "id": self.id,
            "origin": self.origin,
            "attempt": self.attempt,
            "decision": decision,
            "waited_s": round(self.waited_s, 3),
            "llm_s": round(self.llm_s, 3),
            "calls": self.calls,
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "error": self.error,
        }
