"""From what one call gave to what it tells all others of its scope. Pure."""

from __future__ import annotations

from typing import assert_never

from sluicegate.limiter.api import Signal, SignalKind
from sluicegate.llm.outcomes import Completed, Failed, Halted, Outcome, Reason, Rejected, Throttled

_REFUSALS = {
    Reason.RATE_LIMITED: SignalKind.RATE_LIMITED,
    Reason.RAMP_LIMITED: SignalKind.RAMP_LIMITED,
    Reason.OVERLOADED: SignalKind.OVERLOADED,
}
_DOWN = frozenset({Reason.SERVER_ERROR, Reason.TIMEOUT, Reason.CONNECTION})


def signal_of(outcome: Outcome, event: str) -> Signal:
    """Return what to report of a call that `event` made.

    A malformed, oversized or redirected answer concerns its own event alone: the provider does answer.
    """
    match outcome:
        case Completed():
            return Signal(kind=SignalKind.ALIVE, reason="completed", event=event)
        case Throttled(reason=reason, retry_after_s=retry_after_s):
            return Signal(
                kind=_REFUSALS[reason], reason=reason.value, retry_after_s=retry_after_s, event=event
            )
        case Halted(reason=reason):
            return Signal(kind=SignalKind.HALTED, reason=reason.value, event=event)
        case Failed(reason=reason) if reason in _DOWN:
            return Signal(kind=SignalKind.DOWN, reason=reason.value, event=event)
        case Rejected(reason=reason) | Failed(reason=reason):
            return Signal(kind=SignalKind.ALIVE, reason=reason.value, event=event)
        case _:
            assert_never(outcome)
