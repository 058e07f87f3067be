"""Every error that Sluicegate raises on purpose, as one tree.

SluicegateError
├── ConfigurationError        a setting is missing, unknown or contradicts another
├── BadEventError             a record that can never become an event: reason says why
├── StateUnavailableError     Redis did not answer, or refused: nothing is known about the write
├── PublishError              the broker did not confirm a record
│   └── PublishRefusedError   ... and never will: not authorised, unknown topic
│       └── RecordTooLargeError   ... because of this record's own size: others may pass
├── BrokerError               Kafka did not answer a question or refused a change of topics
├── CallRejectedError         the provider will never take this call; a handler may catch it
├── CallUnansweredError       a call of own code got no answer; the same call may get one later
│   ├── QuotaBlockedError     ... the quota takes no call for longer than the caller would wait
│   ├── CircuitOpenError      ... the provider takes no call of anybody, and nobody knows for how long
│   ├── CallFailedError       ... it was refused or failed, and there is no time or no point to try again
│   ├── CallTimeoutError      ... its time was over
│   └── ClientClosedError     ... its client was closed while it waited
└── StackError                a part of the embedded stack did not start or died

Messages are for people and say what to do next. No message ever holds a prompt,
a reply, a record's value or a credential.
"""

from __future__ import annotations

from enum import StrEnum


class SluicegateError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(SluicegateError):
    """A setting is missing, unknown or contradicts another."""


class BadEventReason(StrEnum):
    """Why a record can never become an event. A closed set: it becomes a header and a metric label."""

    TOMBSTONE = "tombstone"
    NOT_UTF8 = "not-utf8"
    NOT_JSON = "not-json"
    WRONG_SCHEMA = "wrong-schema"
    TOO_LARGE = "too-large"
    BAD_ENVELOPE = "bad-envelope"


class BadEventError(SluicegateError):
    """A record that can never become an event."""

    def __init__(self, reason: BadEventReason, where: str = "") -> None:
        """`where` names a field or header, never its content."""
        super().__init__(f"{reason.value}{f' at {where}' if where else ''}")
        self.reason = reason
        self.where = where


class StateUnavailableError(SluicegateError):
    """Redis did not answer or refused: whether the write happened is not known."""


class PublishError(SluicegateError):
    """The broker did not confirm a record; whether it was stored is not known."""


class PublishRefusedError(PublishError):
    """The broker will never take this record: too large, not authorised, unknown topic."""


class RecordTooLargeError(PublishRefusedError):
    """The record is larger than its topic takes: a fault of this record alone, never of the set-up."""


class BrokerError(SluicegateError):
    """Kafka did not answer a question about its topics and groups, or refused a change of them."""


class CallRejectedError(SluicegateError):
    """The provider will never take this call. A handler may catch it and go on without the answer."""

    def __init__(self, reason: str, http_status: int | None = None) -> None:
        """`reason` comes from the closed set `sluicegate.llm.outcomes.Reason`."""
        super().__init__(f"the provider rejected the call: {reason}")
        self.reason = reason
        self.http_status = http_status


class CallUnansweredError(SluicegateError):
    """A call of own code got no answer. The same call may get one later.

    `reason` comes from a closed set. `retry_after_s` is the time (seconds) before which asking again is in
    vain, None where nobody knows it: what a web handler answers as 503 with Retry-After.
    """

    def __init__(self, message: str, *, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class QuotaBlockedError(CallUnansweredError):
    """The quota takes no call for longer than the caller would wait. Raised at once, nothing was sent."""

    def __init__(self, cause: str, wait_s: float) -> None:
        """`cause` is a value of `sluicegate.limiter.api.Dimension`: a block, or a day's limit."""
        super().__init__(
            f"the quota takes no call for {wait_s:.1f} s ({cause}): ask again then, or give it more time",
            reason=cause,
            retry_after_s=wait_s,
        )


class CircuitOpenError(CallUnansweredError):
    """The provider takes no call of anybody. `retry_after_s` is the time to the next probe of it."""

    def __init__(self, reason: str, probe_s: float) -> None:
        """`reason` is why the circuit opened: outage, money, credentials or not-found."""
        super().__init__(
            f"the provider's circuit is open ({reason}); it is probed in {probe_s:.1f} s: "
            "see the log line limiter.circuit-open for what to do",
            reason=reason,
            retry_after_s=probe_s,
        )


class CallFailedError(CallUnansweredError):
    """The call was refused or failed, and another try has no time left or no point."""

    def __init__(
        self, reason: str, *, attempts: int, http_status: int | None, retry_after_s: float | None
    ) -> None:
        """`reason` is a value of `sluicegate.llm.outcomes.Reason`, that of the last of the `attempts`."""
        when = "" if retry_after_s is None else f"; the next try would be in {retry_after_s:.1f} s"
        tries = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(
            f"the provider was called {tries} and gave no answer: {reason}{when}",
            reason=reason,
            retry_after_s=retry_after_s,
        )
        self.attempts = attempts
        self.http_status = http_status


class CallPhase(StrEnum):
    """What a call was doing when its time was over."""

    QUEUE = "waiting-for-quota"  # it never left: the quota is busy, or Redis is away
    ANSWER = "waiting-for-the-answer"
    RETRY = "waiting-to-try-again"


class CallTimeoutError(CallUnansweredError):
    """The call's time was over. What it had booked is given back; a call on the wire is paid for."""

    def __init__(self, phase: CallPhase, timeout_s: float) -> None:
        super().__init__(
            f"no answer within {timeout_s:g} s: the time ended while {phase.value}",
            reason=phase.value,
        )
        self.phase = phase


class ClientClosedError(CallUnansweredError):
    """The client was closed, or broke, while the call waited for its turn."""

    def __init__(self) -> None:
        super().__init__(
            "the client is closed, or broke: then the log has llm-client.broken; open a new one",
            reason="closed",
        )


class StackError(SluicegateError):
    """A part of the embedded stack did not start or died."""
