"""What one replay sends and what it leaves out, decided from what was read of Kafka and the state. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from consumers.replay.candidates import AlreadySent, Candidate, Decision, LeftOut, Send, Unfit, decide
from consumers.replay.filters import Filters, Matcher
from sluicegate.kafka.admin import Bounds, Partition
from sluicegate.records import Origin
from sluicegate.retry.headers import ReplaySource
from sluicegate.state.api import Standing

_ID_DIGITS = 16
SENT = "sent"
"""What a tally calls the records that were sent; it calls all others by their LeftOut."""

# In the order in which an event died or was parked; places break ties.
Cut = tuple[int, Origin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What an operator asked for: it finds the unfinished replay that the same words started."""

    source: ReplaySource
    stream: str
    filters: Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one replay is about: these records, with the filters' times fixed when it was started.

    `cut` is the last one within the filters' limit; None where there is no limit or nothing beyond it.
    """

    at_ms: int
    bounds: Mapping[Partition, Bounds]
    since_ms: int | None = None
    until_ms: int | None = None
    cut: Cut | None = None


def replay_id(command: Command, bounds: Mapping[Partition, Bounds]) -> str:
    """Return 16 hex digits that name the replay: the hash of source, stream, filters and end offsets."""
    ends = sorted((place.topic, place.number, bound.high) for place, bound in bounds.items())
    told = json.dumps([command.source, command.stream, command.filters.as_json(), ends], sort_keys=True)
    return sha256(told.encode()).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record that the filters mean, and what happens to it."""

    at_ms: int
    decision: Decision
    reason: str
    value_bytes: int
    origin: Origin | None = None
    rank: tuple[int, int, Origin] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a replay will do, by the place of each record, and what it did before it was interrupted."""

    replay_id: str
    command: Command
    snapshot: Snapshot
    entries: Mapping[Origin, Entry]
    done_before: Counter[str] = field(default_factory=Counter)
    beyond_limit: int = 0

    @property
    def sends(self) -> tuple[Entry, ...]:
        """The records that are still to be sent."""
        return tuple(entry for entry in self.entries.values() if isinstance(entry.decision, Send))

    @property
    def by_reason(self) -> Counter[str]:
        """How many are still to be sent, by the reason why they died or were parked."""
        return Counter(entry.reason for entry in self.sends)

    @property
    def left_out(self) -> Counter[LeftOut]:
        """How many are not sent, and why; those that were decided before an interruption are not in it."""
        return Counter(
            entry.decision for entry in self.entries.values() if isinstance(entry.decision, LeftOut)
        )

    @property
    def already_sent(self) -> int:
        """How many this replay has sent: by its checkpoint, or seen to have arrived."""
        seen = sum(isinstance(entry.decision, AlreadySent) for entry in self.entries.values())
        return self.done_before[SENT] + seen


class Planner:
    """Collects a snapshot's records into a plan.

    What lies beyond the snapshot is shown to it, too: an event that died again since is no longer what the
    snapshot says of it. Memory grows with the records that the filters mean, without their values, and with
    one small entry for every event.
    """

    def __init__(
        self,
        command: Command,
        snapshot: Snapshot,
        name: str,
        *,
        handled: Mapping[Partition, int],
        done_before: Counter[str],
    ) -> None:
        """`handled` has the next offset of each partition that an interrupted run came to."""
        self._command = command
        self._snapshot = snapshot
        self._name = name
        self._handled = handled
        self._done_before = done_before
        self._matcher = Matcher(
            filters=command.filters, since_ms=snapshot.since_ms, until_ms=snapshot.until_ms
        )
        self._entries: dict[Origin, Entry] = {}
        self._newest: dict[Origin, tuple[int, int, Origin]] = {}

    def note(self, found: Iterable[Candidate | Unfit]) -> list[Candidate]:
        """Take note of records and return those whose events' standings must be known."""
        asked: list[Candidate] = []
        for each in found:
            if isinstance(each, Candidate) and self._command.source is ReplaySource.DLQ:
                # Also of those that the filters do not mean: an older record must not speak for the event.
                self._note_rank(each.ref.origin, each.rank)
            if not self._is_meant(each):
                continue
            if isinstance(each, Candidate):
                asked.append(each)
            else:
                self._entries[each.place] = Entry(
                    at_ms=each.at_ms, decision=each.why, reason=each.facts.reasons[0], value_bytes=0
                )
        return asked

    def judge(self, candidates: Sequence[Candidate], standings: Sequence[Standing | None]) -> None:
        """Decide on records by how their events stand, in the same order."""
        for each, standing in zip(candidates, standings, strict=True):
            decision = decide(each, standing, self._name, self._command.source)
            if isinstance(decision, Send):
                self._note_rank(each.ref.origin, each.rank)
            self._entries[each.place] = Entry(
                at_ms=each.at_ms,
                decision=decision,
                reason=each.reason,
                value_bytes=each.value_bytes,
                origin=each.ref.origin,
                rank=each.rank,
            )

    def plan(self) -> Plan:
        """Return the plan: one record of each event, and no more of them than the limit allows."""
        entries = {place: self._without_rivals(entry) for place, entry in self._entries.items()}
        order = sorted(
            (entry.at_ms, place) for place, entry in entries.items() if isinstance(entry.decision, Send)
        )
        limit, cut = self._command.filters.limit, self._snapshot.cut
        if cut is None and limit is not None and limit < len(order):
            cut = order[limit - 1]
        beyond = [] if cut is None else [place for at_ms, place in order if (at_ms, place) > cut]
        for place in beyond:
            del entries[place]
        return Plan(
            replay_id=self._name,
            command=self._command,
            snapshot=replace(self._snapshot, cut=cut),
            entries=entries,
            done_before=self._done_before,
            beyond_limit=len(beyond),
        )

    def _is_meant(self, each: Candidate | Unfit) -> bool:
        place = Partition(topic=each.place.topic, number=each.place.partition)
        bounds = self._snapshot.bounds.get(place)
        return (
            bounds is not None
            and each.place.offset < bounds.high
            and each.place.offset >= self._handled.get(place, 0)
            and self._matcher.matches(each.facts)
        )

    def _note_rank(self, origin: Origin, rank: tuple[int, int, Origin]) -> None:
        self._newest[origin] = max(self._newest.get(origin, rank), rank)

    def _without_rivals(self, entry: Entry) -> Entry:
        if isinstance(entry.decision, LeftOut) or entry.origin is None or entry.rank is None:
            return entry
        newest = self._newest.get(entry.origin, entry.rank)
        return entry if entry.rank == newest else replace(entry, decision=LeftOut.SUPERSEDED)


def decide_again(entry: Entry, candidate: Candidate, standing: Standing | None, plan: Plan) -> Decision:
    """Say what happens to a planned record right before it is sent.

    It goes as the copy that was planned: if another counts by now, Take would drop it, so it is left out.
    """
    if not isinstance(entry.decision, Send):
        return entry.decision
    now = decide(candidate, standing, plan.replay_id, plan.command.source)
    if isinstance(now, Send) and now.copy != entry.decision.copy:
        return entry.decision if standing is None else LeftOut.SUPERSEDED
    return now
