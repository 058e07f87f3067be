"""Sends planned records back, a few at a time: asked about once more, paced, confirmed, then committed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consumers.replay.candidates import (
    AlreadySent,
    Candidate,
    CandidateReader,
    LeftOut,
    Send,
    Unfit,
    outgoing,
)
from consumers.replay.plan import SENT, Entry, Plan, decide_again
from sluicegate.errors import PublishError, RecordTooLargeError
from sluicegate.kafka.admin import Partition
from sluicegate.records import OutgoingRecord, Record
from sluicegate.state.api import Copy, EventRef, Standing

_LARGEST_CHUNK = 200
_CHUNKS_PER_S = 4

Ask = Callable[[Sequence[EventRef]], Sequence[Standing | None]]
Commit = Callable[[Mapping[Partition, tuple[int, Counter[str]]]], None]


class BatchPublisher(Protocol):
    """Publishes records and says of each whether it is stored."""

    def publish_all(self, records: Sequence[OutgoingRecord]) -> Sequence[PublishError | None]:
        """Return one outcome each, in their order: None when the broker confirmed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPorts:
    """What sending needs of the world. `commit` keeps the next offset and the tally of partitions; `sent`
    hears how many more were stored; `now_ms` is the wall clock."""

    publisher: BatchPublisher
    ask: Ask
    commit: Commit
    sent: Callable[[int], None]
    now_ms: Callable[[], int]
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far one partition of the snapshot is handled, and what came of its records."""

    next_offset: int
    tally: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """A planned record on its way."""

    record: Record
    candidate: Candidate
    entry: Entry
    copy: Copy


class Sender:
    """Handles the records of a plan's snapshot in the order in which they are read."""

    def __init__(
        self,
        plan: Plan,
        *,
        candidates: CandidateReader,
        due_topic: str,
        progress: Mapping[Partition, Progress],
        rate_per_s: float,
        ports: SendPorts,
    ) -> None:
        """`progress` goes on from where an earlier run stopped; copies a second are at most `rate_per_s`."""
        self._plan = plan
        self._candidates = candidates
        self._due_topic = due_topic
        self._progress = progress
        self._rate_per_s = rate_per_s
        self._chunk = min(_LARGEST_CHUNK, max(1, int(rate_per_s / _CHUNKS_PER_S)))
        self._ports = ports
        self._may_send_at = ports.monotonic()
        self._moved: set[Partition] = set()

    def handle(self, batch: Sequence[Record]) -> None:
        """Send what is planned of these records, and commit that they are handled.

        Raises PublishError when a copy is not confirmed: nothing is committed beyond what was confirmed
        before.
        """
        waiting: list[_Due] = []
        for record in batch:
            entry = self._plan.entries.get(record.place)
            if entry is not None:
                if isinstance(entry.decision, Send):
                    waiting.append(self._due(record, entry, entry.decision))
                else:
                    self._count(record, entry.decision)
            place = place_of(record)
            self._progress[place].next_offset = record.offset + 1
            self._moved.add(place)
            if len(waiting) == self._chunk:
                self._send(waiting)
                waiting = []
        self._send(waiting)

    def _due(self, record: Record, entry: Entry, send: Send) -> _Due:
        found = self._candidates.read(record, self._ports.now_ms())
        if isinstance(found, Unfit):
            raise TypeError(f"a record that was planned is unfit now: {found.why}")
        return _Due(record=record, candidate=found, entry=entry, copy=send.copy)

    def _send(self, waiting: Sequence[_Due]) -> None:
        """Send these, then commit everything up to here: none of it is unconfirmed any more."""
        going: list[_Due] = []
        for due, standing in zip(waiting, self._standings(waiting), strict=True):
            decision = decide_again(due.entry, due.candidate, standing, self._plan)
            if isinstance(decision, Send):
                going.append(due)
            else:
                self._count(due.record, decision)
        if going:
            self._keep_pace(len(going))
            stored = 0
            for due, error in zip(going, self._ports.publisher.publish_all(self._copies(going)), strict=True):
                if isinstance(error, RecordTooLargeError):
                    self._count(due.record, LeftOut.TOO_LARGE)
                elif error is not None:
                    raise error
                else:
                    stored += 1
                    self._tally(due.record)[SENT] += 1
            self._ports.sent(stored)
        if not self._moved:
            return
        moved = {place: self._progress[place] for place in sorted(self._moved)}
        self._ports.commit({place: (each.next_offset, each.tally) for place, each in moved.items()})
        self._moved.clear()

    def _standings(self, waiting: Sequence[_Due]) -> Sequence[Standing | None]:
        return self._ports.ask([due.candidate.ref for due in waiting]) if waiting else ()

    def _copies(self, going: Sequence[_Due]) -> list[OutgoingRecord]:
        plan, now_ms = self._plan, self._ports.now_ms()
        return [
            outgoing(
                due.record,
                due.candidate,
                due.copy,
                replay_id=plan.replay_id,
                source=plan.command.source,
                due_topic=self._due_topic,
                now_ms=now_ms,
            )
            for due in going
        ]

    def _keep_pace(self, count: int) -> None:
        """Wait for this chunk's turn; time that was lost (a slow broker) is not made up for by a burst."""
        now = self._ports.monotonic()
        if self._may_send_at > now:
            self._ports.sleep(self._may_send_at - now)
        self._may_send_at = max(self._may_send_at, now) + count / self._rate_per_s

    def _count(self, record: Record, decision: AlreadySent | LeftOut) -> None:
        self._tally(record)[SENT if isinstance(decision, AlreadySent) else decision.value] += 1

    def _tally(self, record: Record) -> Counter[str]:
        return self._progress[place_of(record)].tally


def place_of(record: Record) -> Partition:
    """Return the partition that holds the record."""
    return Partition(topic=record.topic, number=record.partition)
