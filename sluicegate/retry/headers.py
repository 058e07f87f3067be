"""The retry headers of a parked copy: written single-valued and in ASCII, read as if by an enemy.

Only copies (records of tiers, of `due` and dead letters) are asked for them. On an input record they
mean nothing: whoever publishes there may have copied them from a result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TypeVar

from sluicegate.records import Headers, Origin
from sluicegate.state.api import INPUT_COPY, Copy

_ORIGIN_TOPIC = "retry-origin-topic"
_ORIGIN_PARTITION = "retry-origin-partition"
_ORIGIN_OFFSET = "retry-origin-offset"
_ORIGIN_TIMESTAMP = "retry-origin-timestamp-ms"
_COPY = "retry-copy"
_REPLACES = "retry-replaces"
_ATTEMPT = "retry-attempt"
_COUNTED = "retry-counted-failures"
_DEFERRALS = "retry-deferrals"
_DUE_AT = "retry-due-at-ms"
_TIER = "retry-tier"
_FIRST_FAILED = "retry-first-failed-at-ms"
_SOURCE = "retry-source"
_REASON = "retry-reason"
_STATUS = "retry-http-status"
_REPLAY_ID = "replay-id"
_REPLAY_COUNT = "replay-count"
_REPLAY_SOURCE = "replay-source"
_TRACEPARENT = "retry-traceparent"
DLQ_REASON = "dlq-reason"
"""Why a record lies in the DLQ; on every dead letter, whoever wrote it."""

BAD_HEADERS_REASON = "bad-retry-headers"
"""The reason of a record in a tier that names no origin, copy or existing partition."""

RETRY_HEADER_NAMES = frozenset(
    {
        _ORIGIN_TOPIC,
        _ORIGIN_PARTITION,
        _ORIGIN_OFFSET,
        _ORIGIN_TIMESTAMP,
        _COPY,
        _REPLACES,
        _ATTEMPT,
        _COUNTED,
        _DEFERRALS,
        _DUE_AT,
        _TIER,
        _FIRST_FAILED,
        _SOURCE,
        _REASON,
        _STATUS,
        _REPLAY_ID,
        _REPLAY_COUNT,
        _REPLAY_SOURCE,
        _TRACEPARENT,
    }
)

_Words = TypeVar("_Words", bound=StrEnum)

_MOST_PARTITIONS = 2**31 - 1
_MOST_OFFSETS = 2**63 - 1
_MOST_COUNT = 10**6  # more attempts, deferrals or replays than this are nonsense
_MOST_TIERS = 1000
_MOST_MS = 10**15  # the year 33658

_TOPIC_NAME = re.compile(rb"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}")
_COPY_ID = re.compile(rb"input|[1-9][0-9]{0,5}-[A-Za-z0-9]{1,64}")
_WORD = re.compile(rb"[a-z0-9-]{1,64}")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_TRACE_CONTEXT = re.compile(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TOKEN_DIGITS = 20


class RetrySource(StrEnum):
    """What set a copy's due time."""

    RETRY_AFTER = "retry-after"
    BACKOFF = "backoff"
    RESERVATION = "reservation"
    PREDECESSOR = "predecessor"


class ReplaySource(StrEnum):
    """What a replay reads.

    An event that was ever replayed from the DLQ stays `dlq`, through every copy made later: its followers
    went on without it, so it heeds no order any more.
    """

    DLQ = "dlq"
    RETRY = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryHeaders:
    """What a copy says of itself.

    `attempt` is the number of the call that this copy will make (1-based; the backoff's exponent),
    `counted_failures` how many calls so far count to `max_attempts`, `deferrals` how many deliveries
    ended without a call. `traceparent` is the span of the delivery that made this copy, which the next
    one's is linked to; the event's own `traceparent` stays beside it. `repaired` names the headers that were
    unreadable, duplicated or out of bounds and were replaced; it is never written.
    """

    origin: Origin
    origin_timestamp_ms: int
    copy: Copy
    due_at_ms: int
    attempt: int = 1
    counted_failures: int = 0
    deferrals: int = 0
    tier: int | None = None
    first_failed_at_ms: int | None = None
    source: RetrySource | None = None
    reason: str | None = None
    http_status: int | None = None
    replay_id: str | None = None
    replay_count: int = 0
    replay_source: ReplaySource | None = None
    traceparent: str | None = None
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """When a copy is due and to which partition it returns; `was_mended`: the due time was not believed."""

    partition: int
    due_at_ms: int
    was_mended: bool


def parse_due(headers: Headers, *, now_ms: int, horizon_s: float) -> Due | None:
    """Read of a copy's headers what a relay needs, as `parse_retry_headers` would, in a third of the time."""
    reader = _Reader(headers)
    named = reader.origin_and_copy_id()
    if named is None:
        return None
    due_at_ms = reader.due_at_ms(now_ms, horizon_s)
    return Due(partition=named[0].partition, due_at_ms=due_at_ms, was_mended=_DUE_AT in reader.repaired)


def parse_retry_headers(headers: Headers, *, now_ms: int, horizon_s: float) -> RetryHeaders | None:
    """Read a copy's headers; None when the record names no origin or no copy id, so is none of ours.

    Never raises. A due time that is missing, unreadable or negative becomes now, one beyond
    `horizon_s` is clamped to it; both show in `repaired`, as does everything else that was mended.
    Of a duplicated header the last value counts.
    """
    reader = _Reader(headers)
    named = reader.origin_and_copy_id()
    if named is None:
        return None
    return reader.retry_headers(*named, now_ms, horizon_s)


def parse_dead_letter_headers(headers: Headers, *, now_ms: int) -> RetryHeaders | None:
    """Read a dead letter's headers; None when it names no origin, so nobody can say what it was.

    Unlike a copy it may have died as the input record itself, which a missing or unreadable copy id means,
    too. `due_at_ms` is when the worker wrote it. Never raises.
    """
    reader = _Reader(headers)
    origin = reader.origin()
    if origin is None:
        return None
    return reader.retry_headers(origin, reader.text(_COPY, _COPY_ID) or INPUT_COPY, now_ms, horizon_s=0)


def with_retry_headers(headers: Headers, retry: RetryHeaders) -> Headers:
    """Return the headers with all old retry and replay values replaced; others pass through unchanged."""
    numbers = {
        _ATTEMPT: retry.attempt,
        _COUNTED: retry.counted_failures,
        _DEFERRALS: retry.deferrals,
        _DUE_AT: retry.due_at_ms,
        _TIER: retry.tier,
        _FIRST_FAILED: retry.first_failed_at_ms,
        _STATUS: retry.http_status,
        _REPLAY_COUNT: retry.replay_count or None,
    }
    texts = {
        _COPY: retry.copy.id,
        _REPLACES: retry.copy.replaces,
        _SOURCE: retry.source,
        _REASON: retry.reason,
        _REPLAY_ID: retry.replay_id,
        _REPLAY_SOURCE: retry.replay_source,
        _TRACEPARENT: retry.traceparent,
    }
    written = {name: value for name, value in (texts | numbers).items() if value is not None}
    return (
        *without_retry_headers(headers),
        *origin_headers(retry.origin, retry.origin_timestamp_ms),
        *((name, str(value).encode("ascii")) for name, value in written.items()),
    )


def without_retry_headers(headers: Headers) -> Headers:
    """Return the headers that are not ours."""
    return tuple(header for header in headers if header[0] not in RETRY_HEADER_NAMES)


def origin_headers(origin: Origin, timestamp_ms: int) -> Headers:
    """Return the four headers that name an event's origin; every copy and every end carries them."""
    return (
        (_ORIGIN_TOPIC, origin.topic.encode("ascii")),
        (_ORIGIN_PARTITION, b"%d" % origin.partition),
        (_ORIGIN_OFFSET, b"%d" % origin.offset),
        (_ORIGIN_TIMESTAMP, b"%d" % timestamp_ms),
    )


def next_copy(copy: Copy, token: str) -> Copy:
    """Name the copy made from this one. `token` is random letters and digits, at most 64."""
    return Copy(id=f"{copy.hop + 1}-{token}", replaces=copy.id)


def replay_copy(replay_id: str, origin: Origin, *, replaces: Copy, died: Copy) -> Copy:
    """Name the copy that a replay makes: always the same for the same replay and event.

    It replaces the copy that counts, and is later than that and than the one whose record is sent back. The
    worker derives the token again: so it tells this very copy from those that are made from it.
    """
    hop = max(replaces.hop, died.hop) + 1
    return Copy(id=f"{hop}-{_replay_token(replay_id, origin)}", replaces=replaces.id, is_replay=True)


def _replay_token(replay_id: str, origin: Origin) -> str:
    return sha256(f"{replay_id} {origin}".encode()).hexdigest()[:_TOKEN_DIGITS]


class _Reader:
    """Takes values out of headers and remembers which had to be mended."""

    def __init__(self, headers: Headers) -> None:
        self.repaired: set[str] = set()
        self._values: dict[str, bytes] = {}
        for name, value in headers:
            if name not in RETRY_HEADER_NAMES:
                continue
            if name in self._values:
                self.repaired.add(name)
            self._values[name] = value

    def origin_and_copy_id(self) -> tuple[Origin, str] | None:
        """Return what makes a record one of ours; None when it is none."""
        origin, copy_id = self.origin(), self.text(_COPY, _COPY_ID)
        if origin is None or copy_id is None or copy_id == INPUT_COPY:
            return None
        return origin, copy_id

    def text(self, name: str, shape: re.Pattern[bytes]) -> str | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not shape.fullmatch(value):
            self.repaired.add(name)
            return None
        return value.decode("ascii")

    def number(self, name: str, least: int, most: int) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        # bytes.isdigit knows ASCII digits alone; the length keeps int() from chewing on megabytes.
        number = int(value) if value.isdigit() and len(value) <= 19 else -1
        if not least <= number <= most:
            self.repaired.add(name)
            return None
        return number

    def origin(self) -> Origin | None:
        topic = self.text(_ORIGIN_TOPIC, _TOPIC_NAME)
        partition = self.number(_ORIGIN_PARTITION, 0, _MOST_PARTITIONS)
        offset = self.number(_ORIGIN_OFFSET, 0, _MOST_OFFSETS)
        if topic is None or partition is None or offset is None:
            return None
        return Origin(topic=topic, partition=partition, offset=offset)

    def retry_headers(self, origin: Origin, copy_id: str, now_ms: int, horizon_s: float) -> RetryHeaders:
        replay_id = self.text(_REPLAY_ID, _ID)
        token = copy_id.partition("-")[2]
        is_replay = replay_id is not None and token == _replay_token(replay_id, origin)
        return RetryHeaders(
            origin=origin,
            origin_timestamp_ms=self.origin_timestamp_ms(now_ms),
            copy=Copy(id=copy_id, replaces=self.text(_REPLACES, _COPY_ID), is_replay=is_replay),
            due_at_ms=self.due_at_ms(now_ms, horizon_s),
            attempt=self.number(_ATTEMPT, 1, _MOST_COUNT) or 1,
            counted_failures=self.number(_COUNTED, 0, _MOST_COUNT) or 0,
            deferrals=self.number(_DEFERRALS, 0, _MOST_COUNT) or 0,
            tier=self.number(_TIER, 1, _MOST_TIERS),
            first_failed_at_ms=self.first_failed_at_ms(now_ms),
            source=self.source(),
            reason=self.text(_REASON, _WORD),
            http_status=self.number(_STATUS, 100, 599),
            replay_id=replay_id,
            replay_count=self.number(_REPLAY_COUNT, 0, _MOST_COUNT) or 0,
            replay_source=self.replay_source(),
            traceparent=self.text(_TRACEPARENT, _TRACE_CONTEXT),
            repaired=tuple(sorted(self.repaired)),
        )

    def origin_timestamp_ms(self, now_ms: int) -> int:
        """Unchanged even when it lies ahead: it is the publisher's clock, and only orders events."""
        value = self.number(_ORIGIN_TIMESTAMP, 0, _MOST_MS)
        if value is None:
            self.repaired.add(_ORIGIN_TIMESTAMP)
            return now_ms
        return value

    def first_failed_at_ms(self, now_ms: int) -> int | None:
        """A moment ahead would let an event outrun its deadline, so it and an unreadable one become now."""
        if _FIRST_FAILED not in self._values:
            return None
        value = self.number(_FIRST_FAILED, 0, now_ms)
        return now_ms if value is None else value

    def due_at_ms(self, now_ms: int, horizon_s: float) -> int:
        value = self.number(_DUE_AT, 0, _MOST_OFFSETS)
        if value is None:
            self.repaired.add(_DUE_AT)
            return now_ms
        latest = now_ms + int(horizon_s * 1000)
        if value > latest:
            self.repaired.add(_DUE_AT)
            return latest
        return value

    def source(self) -> RetrySource | None:
        return self._member(_SOURCE, RetrySource)

    def replay_source(self) -> ReplaySource | None:
        return self._member(_REPLAY_SOURCE, ReplaySource)

    def _member(self, name: str, words: type[_Words]) -> _Words | None:
        word = self.text(name, _WORD)
        try:
            return words(word) if word is not None else None
        except ValueError:
            self.repaired.add(name)
            return None
