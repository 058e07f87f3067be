"""The headers that records of the outer topics carry, as JSON Schemas of their text."""

from __future__ import annotations

from typing import Final

from sluicegate.contract.schemas import JsonSchema
from sluicegate.errors import BadEventReason
from sluicegate.llm.outcomes import Reason
from sluicegate.retry.decisions import EndReason, LetterReason
from sluicegate.retry.headers import ReplaySource, RetrySource

_NUMBER: Final = "^[0-9]+$"
_ENVELOPE: Final = ("ce_id", "ce_source", "ce_type")


def _text(description: str, **more: object) -> JsonSchema:
    return {"type": "string", "description": description, **more}


def _number(description: str) -> JsonSchema:
    return _text(description, pattern=_NUMBER)


def _object(properties: JsonSchema, required: tuple[str, ...], **more: object) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def _cloud_event(type: JsonSchema) -> JsonSchema:
    return {
        "ce_specversion": _text("CloudEvents version.", const="1.0"),
        "ce_id": _text("Names the event within its source; the same event again has the same id."),
        "ce_source": _text("The publishing service, as a URI reference."),
        "ce_type": type,
        "ce_time": _text("When it happened (RFC 3339).", format="date-time"),
        "content-type": _text("The value's media type.", const="application/json"),
        "traceparent": _text(
            "W3C Trace Context; a result carries its worker's span, its event's where that is not traced."
        ),
    }


_ORIGIN: Final[JsonSchema] = {
    "retry-origin-topic": _text("Topic of the event's input record."),
    "retry-origin-partition": _number("Partition of the event's input record."),
    "retry-origin-offset": _number("Offset of the event's input record."),
    "retry-origin-timestamp-ms": _number("Timestamp of the input record (ms since 1970)."),
}
_CAUSE: Final[JsonSchema] = {
    "ce_causationid": _text("The event's own id: its ce_id, or topic/partition/offset where it had none.")
}
_REASONS: Final = sorted(
    {*map(str, BadEventReason), *map(str, EndReason), *map(str, LetterReason), *map(str, Reason)}
)
_RETRY: Final[JsonSchema] = {
    "retry-copy": _text("Which copy of the event ended: `input`, or the hop and a random part."),
    "retry-attempt": _number("The last call's number, from 1."),
    "retry-counted-failures": _number("Calls that counted to max_attempts."),
    "retry-deferrals": _number("Deliveries that were parked without a call."),
    "retry-due-at-ms": _number("When the letter was written (ms since 1970)."),
}
_RETRY_SOMETIMES: Final[JsonSchema] = {
    "retry-replaces": _text("The copy that this one was made from."),
    "retry-tier": _number("The tier it lay in, from 1."),
    "retry-first-failed-at-ms": _number("The first refused or failed call (ms since 1970)."),
    "retry-source": _text("What set the due time.", enum=sorted(map(str, RetrySource))),
    "retry-reason": _text("The last call's failure.", enum=sorted(map(str, Reason))),
    "retry-http-status": _number("The last call's status."),
    "replay-id": _text("The replay that brought it back."),
    "replay-count": _number("How often it was replayed."),
    "replay-source": _text("What the replay read.", enum=sorted(map(str, ReplaySource))),
    "retry-traceparent": _text("The span of the delivery that ended it (W3C Trace Context)."),
}
_LETTER: Final[JsonSchema] = {
    "dlq-reason": _text("Why the event ended.", enum=_REASONS),
    "dlq-ended-at-ms": _number("When it ended (ms since 1970)."),
}
_LETTER_SOMETIMES: Final[JsonSchema] = {
    "dlq-where": _text("The field or header at fault."),
    "dlq-error-type": _text("Class of the exception that a handler raised."),
    "dlq-original-bytes": _number("Size of a value of which only the beginning is kept."),
    "dlq-dropped-headers": _number("How many headers were too large to keep."),
}


def event_headers(ce_type: str) -> JsonSchema:
    """Return the headers of an event: all may be missing, but of an envelope its three names may not."""
    any_type = _text(f"What it is; ours is {ce_type}, any other is taken, too.")
    return _object(
        _cloud_event(any_type),
        (),
        dependencies={name: [other for other in _ENVELOPE if other != name] for name in _ENVELOPE},
    )


def result_headers(ce_type: str) -> JsonSchema:
    """Return the headers of a result."""
    envelope = _cloud_event(_text("The result's type and version.", const=ce_type))
    sometimes = {
        "traceparent": envelope.pop("traceparent"),
        "llm-routes": _text("Which providers (or provider/model) answered, with commas between."),
        "llm-calls": _number("How many completed LLM calls it took."),
        "llm-input-tokens": _number("What they read."),
        "llm-output-tokens": _number("What they wrote."),
        "predecessor-dead-lettered": _number(
            "Offset of an earlier event of the key that ended as a dead letter, where one did."
        ),
    }
    always = {**envelope, **_CAUSE, **_ORIGIN}
    return _object({**always, **sometimes}, tuple(always))


def letter_headers() -> JsonSchema:
    """Return the headers of a dead letter: its own, and whatever the record came with."""
    always = {**_CAUSE, **_ORIGIN, **_RETRY, **_LETTER}
    return _object({**always, **_RETRY_SOMETIMES, **_LETTER_SOMETIMES}, tuple(always))
