"""From what one call gave to what all others are told."""

from __future__ import annotations

import pytest

from sluicegate.limiter.api import Signal, SignalKind
from sluicegate.limiter.signals import signal_of
from sluicegate.llm.outcomes import Completed, Failed, Halted, Outcome, Reason, Rejected, Throttled, Usage

_FAILURES = {
    Reason.SERVER_ERROR: SignalKind.DOWN,
    Reason.TIMEOUT: SignalKind.DOWN,
    Reason.CONNECTION: SignalKind.DOWN,
    Reason.MALFORMED_ANSWER: SignalKind.ALIVE,
    Reason.ANSWER_TOO_LARGE: SignalKind.ALIVE,
    Reason.REDIRECTED: SignalKind.ALIVE,
}
_REFUSALS = {
    Reason.RATE_LIMITED: SignalKind.RATE_LIMITED,
    Reason.RAMP_LIMITED: SignalKind.RAMP_LIMITED,
    Reason.OVERLOADED: SignalKind.OVERLOADED,
}


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Completed(text="", model="m", usage=Usage()), SignalKind.ALIVE),
        (Rejected(reason=Reason.BAD_REQUEST, http_status=400), SignalKind.ALIVE),
        (Halted(reason=Reason.CREDENTIALS, http_status=401), SignalKind.HALTED),
        *((Throttled(reason=reason, http_status=429), kind) for reason, kind in _REFUSALS.items()),
        *((Failed(reason=reason, counts=True, on_the_wire=True), kind) for reason, kind in _FAILURES.items()),
    ],
)
def test_each_outcome_says_what_it_shows_of_its_scope(outcome: Outcome, kind: SignalKind) -> None:
    """Only what concerns every call is more than a sign of life; a broken answer is one."""
    assert signal_of(outcome, "e-1").kind is kind


def test_a_signal_carries_what_the_provider_asked_for_and_whose_call_it_was() -> None:
    """The wait and the reason are the outcome's own; the event tells an outage from one bad event."""
    outcome = Throttled(reason=Reason.OVERLOADED, http_status=529, retry_after_s=7.0)
    assert signal_of(outcome, "e-1") == Signal(
        kind=SignalKind.OVERLOADED, reason="overloaded", retry_after_s=7.0, event="e-1"
    )


def test_a_failures_own_retry_after_blocks_nobody() -> None:
    """A 500's header speaks for its event's next try and not for the scope."""
    outcome = Failed(reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, retry_after_s=60.0)
    assert signal_of(outcome, "e-1").retry_after_s is None
