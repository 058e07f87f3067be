"""Dead letters: the original record, untouched, with headers that say why it ended and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sluicegate.errors import CallRejectedError
from sluicegate.processing.reading import BadDelivery, Delivered
from sluicegate.processing.signals import StepRejectedError
from sluicegate.records import Headers
from sluicegate.retry.decisions import DeadLetter, LetterReason, Progress
from sluicegate.retry.headers import DLQ_REASON, RETRY_HEADER_NAMES, RetryHeaders, with_retry_headers
from sluicegate.state.api import End, EndKind

REASON = DLQ_REASON
WHERE = "dlq-where"
ERROR_TYPE = "dlq-error-type"
ENDED_AT = "dlq-ended-at-ms"
ORIGINAL_BYTES = "dlq-original-bytes"
DROPPED_HEADERS = "dlq-dropped-headers"
CAUSATION = "ce_causationid"
_OWN_HEADERS = frozenset({REASON, WHERE, ERROR_TYPE, ENDED_AT, ORIGINAL_BYTES, DROPPED_HEADERS})
# By exact name: a prefix would let anybody's large header through.
_KEPT_IN_STUB = _OWN_HEADERS | RETRY_HEADER_NAMES

# What is left of a record that its DLQ does not take whole.
_STUB_VALUE_BYTES = 64 * 1024
_STUB_HEADER_BYTES = 16 * 1024
_ERROR_TYPE_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Why an event ends without a result. Every field comes from a closed set or from our own code.

    `cause` is the last call's reason where `reason` generalises it; `error_type` is the name of an
    exception's class, never its text, which may quote a prompt. `progress` counts the last call, too.
    """

    reason: str
    cause: str | None = None
    http_status: int | None = None
    error_type: str | None = None
    where: str | None = None
    progress: Progress | None = None


def death_by_decision(letter: DeadLetter, progress: Progress) -> Death:
    """Translate what the retry decisions said."""
    cause = letter.cause.value if letter.cause is not None else None
    return Death(reason=letter.reason.value, cause=cause, http_status=letter.http_status, progress=progress)


def death_by_bytes(bad: BadDelivery) -> Death:
    """Translate why a record never became an event."""
    return Death(reason=bad.reason.value, where=bad.where or None)


def death_by_error(error: BaseException) -> Death:
    """Translate what a handler raised.

    A call that the provider rejected and that the handler did not catch ends the event with the
    provider's reason. Anything else is a bug of the handler in view of this one event: it becomes a dead
    letter with the exception's type. It does not stop the process: one conversation that a handler
    stumbles over would stall all others, and after the restart it would be delivered again, for ever.
    A bug that hits every event shows in the dead letters' metric, and a replay repairs it, paid steps
    included. Errors of our own code never come here: they stop the process.
    """
    leaves = _leaves(error)
    rejections = [leaf for leaf in leaves if isinstance(leaf, CallRejectedError)]
    if len(rejections) == len(leaves):
        first = rejections[0]
        return Death(
            reason=first.reason,
            cause=first.reason,
            http_status=first.http_status,
            progress=first.progress if isinstance(first, StepRejectedError) else None,
        )
    bug = next(leaf for leaf in leaves if not isinstance(leaf, CallRejectedError))
    return handler_bug(type(bug).__name__)


def handler_bug(error_type: str) -> Death:
    """Say that the handler failed on this event, with the name of what it raised."""
    name = error_type.encode("ascii", "replace").decode("ascii")[:_ERROR_TYPE_LENGTH]
    return Death(reason=LetterReason.HANDLER_ERROR.value, error_type=name)


def dead_letter(delivered: Delivered, death: Death, now_ms: int, traceparent: str | None = None) -> End:
    """Return the end: original bytes and headers, then ours, each single-valued.

    `traceparent` is the span of the delivery that ends here: what a replay's is linked to.
    """
    record = delivered.record
    last = replace(_last_headers(delivered, death, now_ms), traceparent=traceparent)
    headers = with_retry_headers(record.headers, last)
    own: dict[str, object | None] = {
        REASON: death.reason,
        WHERE: death.where,
        ERROR_TYPE: death.error_type,
        ENDED_AT: now_ms,
    }
    written = tuple((name, str(value).encode()) for name, value in own.items() if value is not None)
    kept = tuple(header for header in headers if header[0] not in _OWN_HEADERS)
    # An event that names its own cause keeps it: its headers are promised intact.
    if all(name != CAUSATION for name, _ in kept):
        written = (*written, (CAUSATION, delivered.event_id.encode()))
    return End(kind=EndKind.DEAD_LETTER, value=record.value, headers=(*kept, *written))


def stub_of(end: End) -> End:
    """Return what can be kept of a dead letter that is too large for its topic, and say what was cut."""
    value = end.value or b""
    kept: list[tuple[str, bytes]] = []
    left_bytes = _STUB_HEADER_BYTES
    for name, content in end.headers:
        size = len(name.encode()) + len(content)
        if name in _KEPT_IN_STUB:
            kept.append((name, content))
        elif size <= left_bytes:
            left_bytes -= size
            kept.append((name, content))
    said = [(ORIGINAL_BYTES, b"%d" % len(value))]
    if dropped := len(end.headers) - len(kept):
        said.append((DROPPED_HEADERS, b"%d" % dropped))
    return replace(end, value=value[:_STUB_VALUE_BYTES], headers=(*kept, *said))


def original_headers(headers: Headers, event_id: str) -> Headers:
    """Return a dead letter's headers without what `dead_letter` added: what its event came with, and retries.

    `event_id` is the event's own: no event causes itself, so that causation is the letter's.
    """
    added = (CAUSATION, event_id.encode())
    return tuple(header for header in headers if header[0] not in _OWN_HEADERS and header != added)


def reason_of(headers: Headers) -> str:
    """Return a dead letter's reason, for the metric's label."""
    return next((value.decode("ascii", "replace") for name, value in headers if name == REASON), "unknown")


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _last_headers(delivered: Delivered, death: Death, now_ms: int) -> RetryHeaders:
    """Return what a copy's headers would be, with the number of the last call for the next one's."""
    before = delivered.retry
    progress = death.progress or Progress.of_delivery(before, None)
    return RetryHeaders(
        origin=delivered.ref.origin,
        origin_timestamp_ms=delivered.origin_timestamp_ms,
        copy=delivered.copy,
        due_at_ms=now_ms,
        attempt=death.progress.attempt if death.progress is not None else delivered.attempt,
        counted_failures=progress.counted_failures,
        deferrals=delivered.deferrals,
        first_failed_at_ms=progress.first_failed_at_ms,
        reason=death.cause or (before.reason if before is not None else None),
        http_status=death.http_status,
        replay_id=before.replay_id if before is not None else None,
        replay_count=before.replay_count if before is not None else 0,
        replay_source=before.replay_source if before is not None else None,
    )
