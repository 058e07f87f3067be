"""What an operator did, as one record of the audit topic: who, when, what, to which events; no payload.

A replay's own records stand beside these, in the same words where they say the same: `kind`, `stream`,
`who`, `at_ms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from sluicegate.records import OutgoingRecord


class AuditKind(StrEnum):
    """What is written down of one stream."""

    CANCELLED = "cancelled"
    PAUSED = "paused"
    RESUMED = "resumed"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One action on one stream.

    `who` is the account and machine that the command ran on. `target` says what it was aimed at, in the
    words of the command's options; those that were not given are left out of the record. `counts` says
    what came of it.
    """

    kind: AuditKind
    stream: str
    who: str
    at_ms: int
    target: Mapping[str, str | None] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def audit_record(entry: AuditEntry, topic: str) -> OutgoingRecord:
    """Return the entry as a record: JSON, keyed by its stream."""
    told = {
        "kind": entry.kind,
        "stream": entry.stream,
        "who": entry.who,
        "at_ms": entry.at_ms,
        "target": {name: given for name, given in entry.target.items() if given is not None},
        "counts": dict(entry.counts),
    }
    return OutgoingRecord(topic=topic, key=entry.stream.encode(), value=orjson.dumps(told), partition=0)
