"""From a dead letter or a parked record to an event that may be sent back, or why it cannot be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from consumers.replay.filters import Facts
from sluicegate.errors import BadEventReason
from sluicegate.processing.decoding import Decoded, EventDecoder, Undecodable
from sluicegate.processing.letters import ORIGINAL_BYTES, original_headers, reason_of
from sluicegate.records import Headers, Origin, OutgoingRecord, Record
from sluicegate.retry.headers import (
    ReplaySource,
    RetryHeaders,
    parse_dead_letter_headers,
    parse_retry_headers,
    replay_copy,
    with_retry_headers,
)
from sluicegate.state.api import Copy, EndKind, EventRef, Phase, Standing

_UNKNOWN_REASON = "unknown"


class LeftOut(StrEnum):
    """Why a record is not sent. The first five cannot be helped by waiting."""

    NO_ORIGIN = "no-origin"  # nobody can say which event it was
    FOREIGN_ORIGIN = "foreign-origin"  # it names an origin that is not this stream's input
    CUT_SHORT = "cut-short"  # it was too large for the DLQ: its bytes are not all there
    NO_VALUE = "no-value"  # a tombstone: there is nothing to answer
    TOO_OFTEN = "replayed-too-often"  # see [replay] max_replays
    TOO_LARGE = "too-large"  # `due` does not take it
    ANSWERED = "answered"  # its event has a result, or ended with nothing to publish
    DEAD = "dead"  # parked when it was read, dead by now: it is in the DLQ
    SUPERSEDED = "superseded"  # a later record of the same event counts
    UNDER_WAY = "under-way"  # it was sent back before and is parked, waits or runs
    ENDING = "ending"  # its end is being published
    CANCELLED = "cancelled"  # an operator cancelled it: it is about to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One event that may be sent back, as its record tells it.

    `rank` orders the records of one event: the highest is what became of it last.
    """

    place: Origin
    at_ms: int
    ref: EventRef
    event_id: str
    retry: RetryHeaders
    reason: str
    facts: Facts
    value_bytes: int

    @property
    def rank(self) -> tuple[int, int, Origin]:
        """Later copies are of a higher hop; one copy dies once, though it may be told twice."""
        return self.retry.copy.hop, self.retry.due_at_ms, self.place


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A record that can never be sent back."""

    place: Origin
    at_ms: int
    why: LeftOut
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReader:
    """Reads the records of one source of one stream.

    `partitions` is how many `due` has; a record replayed `max_replays` times is refused.
    """

    source: ReplaySource
    decoder: EventDecoder
    input_topic: str
    partitions: int
    horizon_s: float
    max_replays: int

    def read(self, record: Record, now_ms: int) -> Candidate | Unfit:
        """Return the event to be sent back, or why the record has none. Never raises for what it holds."""
        retry = self._retry_headers(record, now_ms)
        origin = retry.origin if retry is not None else record.place
        decoded = self.decoder.decode(record, origin)
        facts = self._facts(record, retry, decoded)
        if (why := self._why_unfit(record, retry)) is not None or retry is None:
            why = why or LeftOut.NO_ORIGIN
            return Unfit(place=record.place, at_ms=record.timestamp_ms, why=why, facts=facts)
        return Candidate(
            place=record.place,
            at_ms=record.timestamp_ms,
            ref=decoded.ref,
            event_id=decoded.event_id,
            retry=retry,
            reason=facts.reasons[0],
            facts=facts,
            value_bytes=len(record.value or b""),
        )

    def _retry_headers(self, record: Record, now_ms: int) -> RetryHeaders | None:
        match self.source:
            case ReplaySource.DLQ:
                return parse_dead_letter_headers(record.headers, now_ms=now_ms)
            case ReplaySource.RETRY:
                return parse_retry_headers(record.headers, now_ms=now_ms, horizon_s=self.horizon_s)

    def _facts(self, record: Record, retry: RetryHeaders | None, decoded: Decoded | Undecodable) -> Facts:
        cause = retry.reason if retry is not None else None
        own = reason_of(record.headers) if self.source is ReplaySource.DLQ else None
        reasons = tuple(dict.fromkeys(reason for reason in (own, cause) if reason is not None))
        return Facts(
            at_ms=record.timestamp_ms,
            reasons=reasons or (_UNKNOWN_REASON,),
            http_status=retry.http_status if retry is not None else None,
            key=decoded.ref.key,
            tenant=decoded.tenant if isinstance(decoded, Decoded) else None,
            attempt=retry.attempt if retry is not None else 0,
        )

    def _why_unfit(self, record: Record, retry: RetryHeaders | None) -> LeftOut | None:
        if retry is None:
            return LeftOut.NO_ORIGIN
        if retry.origin.topic != self.input_topic or retry.origin.partition >= self.partitions:
            return LeftOut.FOREIGN_ORIGIN
        if any(name == ORIGINAL_BYTES for name, _ in record.headers):
            return LeftOut.CUT_SHORT
        if record.value is None or reason_of(record.headers) == BadEventReason.TOMBSTONE:
            return LeftOut.NO_VALUE
        if retry.replay_count >= self.max_replays:
            return LeftOut.TOO_OFTEN
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the event back as this copy."""

    copy: Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadySent:
    """This very replay sent it before it was killed."""


Decision = Send | AlreadySent | LeftOut


def decide(candidate: Candidate, standing: Standing | None, replay_id: str, source: ReplaySource) -> Decision:
    """Say what the replay does with an event that stands so.

    A dead letter whose event is open, and that died as the copy that counts or a later one, is sent: the
    state keeps an end before it is published, so Redis lost it, and nobody else will come.
    """
    own, live = candidate.retry.copy, None if standing is None else standing.live
    copy = replay_copy(
        replay_id, candidate.ref.origin, replaces=own if live is None else Copy(id=live), died=own
    )
    if standing is None:
        return Send(copy=copy)
    if live is not None and _token(live) == _token(copy.id):
        return AlreadySent()
    match standing.phase:
        case Phase.CLAIMED:
            return LeftOut.ENDING
        case Phase.DONE if standing.kind is not EndKind.DEAD_LETTER:
            return LeftOut.ANSWERED
        case Phase.DONE:
            return Send(copy=copy) if source is ReplaySource.DLQ else LeftOut.DEAD
        case Phase.OPEN:
            pass
    if standing.is_cancelled:
        return LeftOut.CANCELLED
    if live is None or live == own.id:
        return Send(copy=copy)
    match source:
        case ReplaySource.DLQ:
            return Send(copy=copy) if Copy(id=live).hop < own.hop else LeftOut.UNDER_WAY
        case ReplaySource.RETRY:
            return Send(copy=copy) if live == own.replaces else LeftOut.SUPERSEDED


def _token(copy_id: str) -> str:
    return copy_id.partition("-")[2]


def outgoing(
    record: Record,
    candidate: Candidate,
    copy: Copy,
    *,
    replay_id: str,
    source: ReplaySource,
    due_topic: str,
    now_ms: int,
) -> OutgoingRecord:
    """Return what is sent: the original bytes and headers, counted anew, to the origin's partition."""
    before = candidate.retry
    # Once its followers went on without it, an event stays out of order.
    is_loose = ReplaySource.DLQ in (source, before.replay_source)
    retry = RetryHeaders(
        origin=before.origin,
        origin_timestamp_ms=before.origin_timestamp_ms,
        copy=copy,
        due_at_ms=now_ms,
        replay_id=replay_id,
        replay_count=before.replay_count + 1,
        replay_source=ReplaySource.DLQ if is_loose else ReplaySource.RETRY,
    )
    headers: Headers = original_headers(record.headers, candidate.event_id)
    return OutgoingRecord(
        topic=due_topic,
        key=record.key,
        value=record.value,
        headers=with_retry_headers(headers, retry),
        partition=before.origin.partition,
    )
