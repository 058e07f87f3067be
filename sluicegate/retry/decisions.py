"""From what a call gave to what happens to its event next: in place, parked, or dead-lettered. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from sluicegate.limiter.api import Blocked, Dimension
from sluicegate.llm.outcomes import Failed, Halted, Reason, Rejected, Throttled
from sluicegate.retry.headers import RetryHeaders, RetrySource
from sluicegate.retry.policy import (
    RetryPolicy,
    Uniform,
    behind_delay_s,
    due_at_ms,
    has_expired,
    in_place_delay_s,
    spread_delay_s,
    tier_delay_s,
    tier_for,
)

Retriable = Throttled | Failed | Halted
Unanswered = Retriable | Rejected
_TOO_MANY_REQUESTS = 429
_LEAST_WAIT_S = 1.0
_LEAST_CIRCUIT_WAIT_S = 5.0


class EndReason(StrEnum):
    """Why an event ended that its calls alone would not have ended."""

    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    DEADLINE_PASSED = "deadline-passed"
    EXPIRED = "expired"


class LetterReason(StrEnum):
    """Why an event ended that neither its bytes nor its calls would have ended."""

    HANDLER_ERROR = "handler-error"
    CANCELLED = "cancelled"
    RESULT_TOO_LARGE = "result-too-large"
    COPY_TOO_LARGE = "copy-too-large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an event has come. Before any call it is what the copy's headers say.

    `attempt` counts the calls made so far, `counted_failures` those of them that count to
    `max_attempts`; `first_failed_at_ms` is the event's first refused or failed call ever;
    `in_place_until_ms` ends the in-place budget of this delivery (first failure + `in_place_max_s`).
    `event_time_ms` is what `expires_after_s` counts from: `ce_time`.
    """

    attempt: int = 0
    counted_failures: int = 0
    first_failed_at_ms: int | None = None
    in_place_until_ms: int | None = None
    event_time_ms: int | None = None
    last_reason: Reason | None = None
    last_http_status: int | None = None

    @classmethod
    def of_delivery(cls, retry: RetryHeaders | None, event_time_ms: int | None) -> Progress:
        """Start a delivery; `retry` None is the input record."""
        if retry is None:
            return cls(event_time_ms=event_time_ms)
        return cls(
            attempt=retry.attempt - 1,
            counted_failures=retry.counted_failures,
            first_failed_at_ms=retry.first_failed_at_ms,
            event_time_ms=event_time_ms,
        )

    def after(self, outcome: Unanswered, policy: RetryPolicy, now_ms: int) -> Progress:
        """Count one more refused or failed call."""
        counts = isinstance(outcome, Failed) and outcome.counts
        until_ms = now_ms + int(policy.in_place_max_s * 1000)
        return replace(
            self,
            attempt=self.attempt + 1,
            counted_failures=self.counted_failures + counts,
            first_failed_at_ms=now_ms if self.first_failed_at_ms is None else self.first_failed_at_ms,
            in_place_until_ms=until_ms if self.in_place_until_ms is None else self.in_place_until_ms,
            last_reason=outcome.reason,
            last_http_status=outcome.http_status,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryInPlace:
    """Wait in the slot and call again."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Publish to a tier. `reason` and `http_status` are those of the last call, if one failed."""

    due_at_ms: int
    tier: int
    source: RetrySource
    reason: Reason | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """End the event. `cause` is the last call's reason, which `reason` may generalise."""

    reason: Reason | EndReason
    cause: Reason | None = None
    http_status: int | None = None


Decision = RetryInPlace | Park | DeadLetter


def judged(outcome: Retriable, *, circuit_is_open: bool) -> Retriable:
    """Return the outcome as it counts: a failure while the scope's circuit is open is no event's fault."""
    if circuit_is_open and isinstance(outcome, Failed):
        return replace(outcome, counts=False)
    return outcome


def decide(
    outcome: Unanswered,
    progress: Progress,
    policy: RetryPolicy,
    now_ms: int,
    random: Uniform,
    *,
    another_route: bool = False,
) -> Decision:
    """Say what follows a call that gave no answer, as `judged`; `progress` already counts it.

    Refusals (429, 503, 529) and connection errors end no event by count, and a halted scope ends none
    by deadline either: it is nobody's fault and concerns all. The deadline is looked at only here.
    `another_route`: the one that was called is closed now and another is open, so nothing needs to wait.
    """
    if isinstance(outcome, Rejected):
        return DeadLetter(reason=outcome.reason, cause=outcome.reason, http_status=outcome.http_status)
    if (ended := _ended_by(outcome, progress, policy, now_ms)) is not None:
        return ended
    if another_route:
        return _in_place(0.0, outcome, progress, policy, now_ms)
    match outcome:
        case Halted():
            delay_s = tier_delay_s(progress.attempt, policy, random)
            return _park(delay_s, RetrySource.BACKOFF, outcome, progress, policy, now_ms)
        case Throttled() | Failed():
            return _retry(outcome, progress, policy, now_ms, random)
        case _:
            assert_never(outcome)


def decide_blocked(
    blocked: Blocked, progress: Progress, policy: RetryPolicy, now_ms: int, random: Uniform
) -> Park | DeadLetter:
    """Park an event that was refused or failed before and whose scope takes no call for a while.

    It ends now when it would have expired by then.

    Of a circuit only the next probe is known, so one that is due now is no reason to come back at once.
    """
    least_s = _LEAST_CIRCUIT_WAIT_S if blocked.cause is Dimension.CIRCUIT else _LEAST_WAIT_S
    delay_s = spread_delay_s(max(blocked.wait_s, least_s), policy, random)
    if has_expired(progress.event_time_ms, policy, due_at_ms(now_ms, delay_s)):
        return expired(progress)
    return _parked(
        delay_s,
        RetrySource.RESERVATION,
        policy,
        now_ms,
        progress.last_reason,
        progress.last_http_status,
    )


def expired(progress: Progress) -> DeadLetter:
    """End an event whose answer nobody wants any more, with what its last call came to."""
    return DeadLetter(
        reason=EndReason.EXPIRED, cause=progress.last_reason, http_status=progress.last_http_status
    )


def decide_behind(
    predecessor_due_at_ms: int, deferrals: int, policy: RetryPolicy, now_ms: int, random: Uniform
) -> Park:
    """Park an event behind an earlier one of its key, never due before it. No attempt is counted."""
    wait_s = (predecessor_due_at_ms - now_ms) / 1000
    delay_s = behind_delay_s(wait_s, deferrals, policy, random)
    return _parked(delay_s, RetrySource.PREDECESSOR, policy, now_ms, None, None)


def _ended_by(outcome: Retriable, progress: Progress, policy: RetryPolicy, now_ms: int) -> DeadLetter | None:
    if isinstance(outcome, Halted):
        return None
    if isinstance(outcome, Failed) and outcome.counts and progress.counted_failures >= policy.max_attempts:
        return _end(EndReason.ATTEMPTS_EXHAUSTED, outcome)
    first_ms = progress.first_failed_at_ms
    if first_ms is not None and now_ms - first_ms >= policy.deadline_s * 1000:
        return _end(EndReason.DEADLINE_PASSED, outcome)
    return None


def _retry(
    outcome: Throttled | Failed, progress: Progress, policy: RetryPolicy, now_ms: int, random: Uniform
) -> Decision:
    attempt, header_s = progress.attempt, outcome.retry_after_s
    source = RetrySource.BACKOFF
    in_place_s = in_place_delay_s(attempt, policy, random)
    # "Retry at once" from a provider that just refused is no account of anything: the backoff grows.
    if header_s is None or header_s <= 0:
        if _fits_in_place(in_place_s, progress, policy, now_ms):
            return _in_place(in_place_s, outcome, progress, policy, now_ms)
        return _park(tier_delay_s(attempt, policy, random), source, outcome, progress, policy, now_ms)
    asked_s = spread_delay_s(header_s, policy, random)
    # A 429's header is the provider's own account of its limit; elsewhere it only bounds our backoff.
    # Where it wins it brings its own spread: a bare maximum would release everybody at one moment.
    only_header = outcome.http_status == _TOO_MANY_REQUESTS
    delay_s = asked_s if only_header else max(in_place_s, asked_s)
    if _fits_in_place(delay_s, progress, policy, now_ms):
        return _in_place(delay_s, outcome, progress, policy, now_ms)
    backoff_s = 0.0 if only_header else tier_delay_s(attempt, policy, random)
    source = RetrySource.RETRY_AFTER if asked_s >= backoff_s else RetrySource.BACKOFF
    return _park(max(asked_s, backoff_s), source, outcome, progress, policy, now_ms)


def _fits_in_place(delay_s: float, progress: Progress, policy: RetryPolicy, now_ms: int) -> bool:
    until_ms = progress.in_place_until_ms
    budget_s = policy.in_place_max_s if until_ms is None else (until_ms - now_ms) / 1000
    return delay_s <= budget_s


def _in_place(
    delay_s: float, outcome: Unanswered, progress: Progress, policy: RetryPolicy, now_ms: int
) -> RetryInPlace | DeadLetter:
    if has_expired(progress.event_time_ms, policy, due_at_ms(now_ms, delay_s)):
        return _end(EndReason.EXPIRED, outcome)
    return RetryInPlace(delay_s=delay_s)


def _park(
    delay_s: float,
    source: RetrySource,
    outcome: Unanswered,
    progress: Progress,
    policy: RetryPolicy,
    now_ms: int,
) -> Park | DeadLetter:
    """Park, unless the answer would come when nobody wants it any more."""
    if has_expired(progress.event_time_ms, policy, due_at_ms(now_ms, delay_s)):
        return _end(EndReason.EXPIRED, outcome)
    return _parked(delay_s, source, policy, now_ms, outcome.reason, outcome.http_status)


def _parked(
    delay_s: float,
    source: RetrySource,
    policy: RetryPolicy,
    now_ms: int,
    reason: Reason | None,
    http_status: int | None,
) -> Park:
    due_ms = due_at_ms(now_ms, delay_s)
    return Park(
        due_at_ms=due_ms,
        tier=tier_for((due_ms - now_ms) / 1000, policy.tiers_s),
        source=source,
        reason=reason,
        http_status=http_status,
    )


def _end(reason: EndReason, outcome: Unanswered) -> DeadLetter:
    return DeadLetter(reason=reason, cause=outcome.reason, http_status=outcome.http_status)
