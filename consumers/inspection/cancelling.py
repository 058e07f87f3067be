"""Which parked events an operator means, and the copies that bring them to workers now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from consumers.inspection.copies import WaitingCopy
from sluicegate.processing.decoding import EventDecoder
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, RetrySource, next_copy, with_retry_headers
from sluicegate.state.api import Copy, EventRef
from sluicegate.topics import StreamTopics

_FAR = 2**63


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
    """Return the events that are meant, each once, by their origins."""
    return _each_once(
        target for target in _targets(copies, decoder, topics) if wish.means(target.ref, target.event_id)
    )


def followers_of(
    copies: Iterable[WaitingCopy], heads: Sequence[Target], decoder: EventDecoder, topics: StreamTopics
) -> list[Target]:
    """Return the parked events that stand behind a head: they are due after it, so for nothing now."""
    first: dict[tuple[int, str], int] = {}
    for head in heads:
        lane = (head.ref.origin.partition, head.ref.key)
        first[lane] = min(first.get(lane, head.ref.origin.offset), head.ref.origin.offset)
    origins = {head.ref.origin for head in heads}
    return _each_once(
        target
        for target in _targets(copies, decoder, topics)
        if target.retry.source is RetrySource.PREDECESSOR
        and not target.is_released
        and target.ref.origin not in origins
        and first.get((target.ref.origin.partition, target.ref.key), _FAR) < target.ref.origin.offset
    )


def _targets(copies: Iterable[WaitingCopy], decoder: EventDecoder, topics: StreamTopics) -> Iterator[Target]:
    """Yield what a worker will take: copies that name no origin on the input are dead-lettered."""
    for copy in copies:
        retry = copy.retry
        if retry is not None and retry.origin.topic == topics.input:
            decoded = decoder.decode(copy.record, retry.origin)
            yield Target(ref=decoded.ref, event_id=decoded.event_id, copy=copy, retry=retry)


def _each_once(targets: Iterable[Target]) -> list[Target]:
    """Keep the latest copy of each event, in the order of the origins."""
    found: dict[Origin, Target] = {}
    for target in targets:
        known = found.get(target.ref.origin)
        if known is None or target.retry.copy.hop >= known.retry.copy.hop:
            found[target.ref.origin] = target
    return [found[origin] for origin in sorted(found)]


def handed_on(
    target: Target, live: str | None, topics: StreamTopics, *, token: str, now_ms: int
) -> OutgoingRecord:
    """Return the copy that a worker takes now: it replaces the live one, as a replay's does.

    A worker dead-letters one that is flagged and runs another. The parked record is stale when it is due.
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
