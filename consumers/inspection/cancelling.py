"""Which parked events an operator means, and the copy that brings one to its end before it is due. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from consumers.inspection.copies import WaitingCopy
from sluicegate.processing.decoding import EventDecoder
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, next_copy, with_retry_headers
from sluicegate.state.api import Copy, EventRef
from sluicegate.topics import StreamTopics


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an operator wants ended: every event of a key, or one event by any of its names."""

    key: str | None = None
    id: str | None = None

    def means(self, ref: EventRef, event_id: str) -> bool:
        """Whether this event is meant."""
        if self.key is not None and ref.key != self.key:
            return False
        return self.id is None or self.id in (event_id, ref.identity, str(ref.origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parked event that is meant, with its latest waiting copy. `is_released`: that one is in `due`."""

    ref: EventRef
    event_id: str
    copy: WaitingCopy
    retry: RetryHeaders

    @property
    def is_released(self) -> bool:
        """Whether a worker takes it without our help."""
        return self.copy.tier == 0


def targets_of(
    copies: Iterable[WaitingCopy], wish: Wish, decoder: EventDecoder, topics: StreamTopics
) -> list[Target]:
    """Return the events that are meant, each once, by their origins.

    Copies that name no origin on the stream's input are no worker's: the relay or a worker dead-letters them.
    """
    found: dict[Origin, Target] = {}
    for copy in copies:
        retry = copy.retry
        if retry is None or retry.origin.topic != topics.input:
            continue
        decoded = decoder.decode(copy.record, retry.origin)
        if not wish.means(decoded.ref, decoded.event_id):
            continue
        known = found.get(retry.origin)
        if known is None or retry.copy.hop >= known.retry.copy.hop:
            found[retry.origin] = Target(ref=decoded.ref, event_id=decoded.event_id, copy=copy, retry=retry)
    return [found[origin] for origin in sorted(found)]


def handed_on(
    target: Target, live: str | None, topics: StreamTopics, *, token: str, now_ms: int
) -> OutgoingRecord:
    """Return the copy that a worker takes now: it replaces the live one, as a replay's does.

    The flag is set already, so the worker dead-letters it. The parked record is stale when it is released.
    """
    replaced = Copy(id=live) if live is not None else target.retry.copy
    headers = replace(target.retry, copy=next_copy(replaced, token), due_at_ms=now_ms)
    record = target.copy.record
    return OutgoingRecord(
        topic=topics.due,
        key=record.key,
        value=record.value,
        headers=with_retry_headers(record.headers, headers),
        partition=target.retry.origin.partition,
    )
