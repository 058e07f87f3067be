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


class StackError(SluicegateError):
    """A part of the embedded stack did not start or died."""
