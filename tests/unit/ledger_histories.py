"""Hand-made histories for the ledger's tests: one event, end, copy or call a line."""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.local.ledger import (
    Call,
    CommittedPlaces,
    Copied,
    Ended,
    EndedAs,
    History,
    Ledger,
    PartitionProgress,
    ProviderHistory,
    Published,
    Quota,
    RunFacts,
    compute_ledger,
)
from sluicegate.records import Origin

START_MS = 1_700_000_000_000
INPUT, RESULTS, DLQ, TIER, DUE = "chat", "chat.results", "g.chat.dlq", "g.chat.retry.1", "g.chat.due"
FACTS = RunFacts(workers=2, kafka="embedded", redis="embedded", seed=7)


def origin(offset: int) -> Origin:
    """Name the input record at this offset of the only partition."""
    return Origin(topic=INPUT, partition=0, offset=offset)


@dataclass
class Story:
    """Collects what happened; times are milliseconds since the start, offsets count up by themselves."""

    published: list[Published] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    parked: list[Copied] = field(default_factory=list)
    released: list[Copied] = field(default_factory=list)
    progress: dict[tuple[str, int], PartitionProgress] = field(default_factory=dict)

    def publish(self, *, key: str = "k", at_ms: int = 0, silent: bool = False, ordered: bool = True) -> int:
        """Publish an event and return its offset."""
        offset = len(self.published)
        self.published.append(
            Published(
                stream="support-chat",
                origin=origin(offset),
                key=key,
                timestamp_ms=START_MS + at_ms,
                event_id=f"event-{offset}",
                ends_silently=silent,
                is_ordered=ordered,
            )
        )
        return offset

    def end(
        self, offset: int, *, kind: EndedAs = EndedAs.RESULT, ce_id: str | None = None, at_ms: int = 0
    ) -> None:
        """Publish a result or a dead letter of the event."""
        topic = RESULTS if kind is EndedAs.RESULT else DLQ
        place = Origin(topic=topic, partition=0, offset=sum(end.place.topic == topic for end in self.ends))
        self.ends.append(
            Ended(
                kind=kind,
                origin=origin(offset),
                ce_id=f"result-{offset}" if ce_id is None else ce_id,
                place=place,
                timestamp_ms=START_MS + at_ms,
            )
        )

    def park(self, offset: int, *, copy: str = "1-a", due_ms: int = 0, at_ms: int = 0) -> None:
        """Put a copy of the event into the tier."""
        self.parked.append(self._copy(TIER, len(self.parked), offset, copy, due_ms, at_ms))

    def release(self, offset: int, *, copy: str = "1-a", due_ms: int = 0, at_ms: int = 0) -> None:
        """Put the copy into `due`."""
        self.released.append(self._copy(DUE, len(self.released), offset, copy, due_ms, at_ms))

    def commit(self, topic: str, offset: int, done_above: frozenset[int] = frozenset()) -> None:
        """Commit the topic's only partition."""
        self.progress[topic, 0] = PartitionProgress(offset=offset, done_above=done_above)

    def history(self) -> History:
        """Return all of it."""
        return History(
            published=tuple(self.published),
            ends=tuple(self.ends),
            parked=tuple(self.parked),
            released=tuple(self.released),
            committed=CommittedPlaces(progress=self.progress),
        )

    def ledger(self, provider: ProviderHistory | None = None) -> Ledger:
        """Compute the ledger; the five fates sum up to what was published, whatever happened."""
        ledger = compute_ledger(self.history(), provider, FACTS)
        fates = (ledger.completed, ledger.recorded, ledger.dead_lettered, ledger.waiting, ledger.lost)
        assert sum(fates) == ledger.published == len(self.published)
        return ledger

    @staticmethod
    def _copy(topic: str, place: int, offset: int, copy: str, due_ms: int, at_ms: int) -> Copied:
        return Copied(
            origin=origin(offset),
            copy=copy,
            due_at_ms=START_MS + due_ms,
            place=Origin(topic=topic, partition=0, offset=place),
            timestamp_ms=START_MS + at_ms,
        )


def call(
    at_s: float, *, request_id: str = "", status: int = 200, tokens: int = 0, completed: bool | None = None
) -> Call:
    """Make a call this long after the start; a 429 is neither admitted nor completed."""
    return Call(
        at_s=START_MS / 1000 + at_s,
        request_id=request_id or f"{at_s}/reply/1",
        status=status,
        is_admitted=status != 429,
        is_completed=status == 200 if completed is None else completed,
        tokens=tokens,
    )


def provider(*calls: Call, quota: Quota | None = None) -> ProviderHistory:
    """Make a provider's records; by default of 60 calls a minute and no limit on tokens."""
    return ProviderHistory(
        calls=calls, quota=quota or Quota(requests_per_minute=60.0, tokens_per_minute=None)
    )
