"""What the audit topic keeps of replays: who started which, on what, and what came of it. Pure.

A run writes one record when it starts and one when it ends. The start holds the whole snapshot, so that
the same command goes on with it after any interruption: Kafka alone remembers that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from consumers.replay.filters import Filters
from consumers.replay.plan import Command, Snapshot
from sluicegate.kafka.admin import Bounds, Partition
from sluicegate.records import Origin, OutgoingRecord, Record
from sluicegate.retry.headers import ReplaySource


class AuditKind(StrEnum):
    """Which records of the audit are ours."""

    STARTED = "replay-started"
    ENDED = "replay-ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run began, or went on with what an earlier one began. `by_reason` is what it meant to send."""

    replay_id: str
    command: Command
    snapshot: Snapshot
    who: str
    at_ms: int
    is_resumed: bool
    rate_per_s: float
    by_reason: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A replay handled its whole snapshot; `tally` counts what was sent, and what was left out and why."""

    replay_id: str
    who: str
    at_ms: int
    tally: Mapping[str, int]


def audit_record(topic: str, entry: Started | Ended) -> OutgoingRecord:
    """Return the entry as a record; values of events are never in it."""
    match entry:
        case Started():
            told = {
                "kind": AuditKind.STARTED,
                "source": entry.command.source,
                "stream": entry.command.stream,
                "filters": entry.command.filters.as_json(),
                "snapshot": _told(entry.snapshot),
                "is_resumed": entry.is_resumed,
                "rate_per_s": entry.rate_per_s,
                "by_reason": dict(entry.by_reason),
            }
        case Ended():
            told = {"kind": AuditKind.ENDED, "tally": dict(entry.tally)}
    told |= {"replay_id": entry.replay_id, "who": entry.who, "at_ms": entry.at_ms}
    return OutgoingRecord(topic=topic, key=entry.replay_id.encode(), value=orjson.dumps(told), partition=0)


def read_audit(record: Record) -> Started | Ended | None:
    """Return the entry; None for what other commands, or another release, wrote."""
    try:
        told = orjson.loads(record.value or b"")
        match told:
            case {"kind": AuditKind.STARTED}:
                return _started(told)
            case {"kind": AuditKind.ENDED, "tally": dict() as tally}:
                return Ended(
                    replay_id=str(told["replay_id"]),
                    who=str(told["who"]),
                    at_ms=int(told["at_ms"]),
                    tally=Counter({str(name): int(count) for name, count in tally.items()}),
                )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The replays of the audit, oldest first."""

    started: tuple[Started, ...]
    ended: Mapping[str, int]

    @classmethod
    def of(cls, entries: Iterable[Started | Ended | None]) -> History:
        """Collect the entries in the order in which they were written."""
        started: list[Started] = []
        ended: dict[str, int] = {}
        for entry in entries:
            match entry:
                case Started():
                    started.append(entry)
                    # Started afresh under the same name (nothing new had died): it has yet to end again.
                    ended.pop(entry.replay_id, None)
                case Ended():
                    ended[entry.replay_id] = entry.at_ms
                case None:
                    pass
        return cls(started=tuple(started), ended=ended)

    def unfinished(self, command: Command) -> Started | None:
        """Return the last replay that these words started, if it has not ended."""
        last = next((each for each in reversed(self.started) if each.command == command), None)
        return last if last is not None and last.replay_id not in self.ended else None

    def named(self, name: str) -> Started | None:
        """Return the last start of the named replay."""
        return next((each for each in reversed(self.started) if each.replay_id == name), None)


def _told(snapshot: Snapshot) -> dict[str, Any]:
    cut = snapshot.cut
    return {
        "at_ms": snapshot.at_ms,
        "bounds": [
            [place.topic, place.number, bound.low, bound.high]
            for place, bound in sorted(snapshot.bounds.items())
        ],
        "since_ms": snapshot.since_ms,
        "until_ms": snapshot.until_ms,
        "cut": None if cut is None else [cut[0], cut[1].topic, cut[1].partition, cut[1].offset],
    }


def _started(told: Mapping[str, Any]) -> Started:
    snapshot = told["snapshot"]
    cut = snapshot["cut"]
    return Started(
        replay_id=str(told["replay_id"]),
        command=Command(
            source=ReplaySource(told["source"]),
            stream=str(told["stream"]),
            filters=Filters.from_json(told["filters"]),
        ),
        snapshot=Snapshot(
            at_ms=int(snapshot["at_ms"]),
            bounds={
                Partition(topic=topic, number=number): Bounds(low=low, high=high)
                for topic, number, low, high in snapshot["bounds"]
            },
            since_ms=snapshot["since_ms"],
            until_ms=snapshot["until_ms"],
            cut=(None if cut is None else (cut[0], Origin(topic=cut[1], partition=cut[2], offset=cut[3]))),
        ),
        who=str(told["who"]),
        at_ms=int(told["at_ms"]),
        is_resumed=bool(told["is_resumed"]),
        rate_per_s=float(told["rate_per_s"]),
        by_reason={str(reason): int(count) for reason, count in told["by_reason"].items()},
    )
