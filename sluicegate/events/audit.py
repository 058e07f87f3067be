"""What an operator did, as one record of the audit topic: who, when, what, to which events; no payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from sluicegate.events.timestamps import format_rfc3339
from sluicegate.records import OutgoingRecord

_VERSION = 1

TargetValue = str | int | float | None | tuple[str, ...]


class AuditAction(StrEnum):
    """What operators do that is written down."""

    REPLAY = "replay"
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One action on one stream.

    `id` names the action: a replay's own id, else a random one. `who` is the account and machine that the
    command ran on. `target` says what it was aimed at, in the words of the command's options (source,
    filters, keys, ids; unset ones may be left out), `counts` what came of it.
    """

    action: AuditAction
    id: str
    stream: str
    who: str
    at_ms: int
    target: Mapping[str, TargetValue] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def audit_record(entry: AuditEntry, topic: str) -> OutgoingRecord:
    """Return the entry as a record: JSON, keyed by its stream, with a version for later readers."""
    value = {
        "version": _VERSION,
        "action": entry.action.value,
        "id": entry.id,
        "stream": entry.stream,
        "who": entry.who,
        "at": format_rfc3339(entry.at_ms),
        "target": {name: given for name, given in entry.target.items() if given is not None},
        "counts": dict(entry.counts),
    }
    return OutgoingRecord(
        topic=topic,
        key=entry.stream.encode(),
        value=orjson.dumps(value, option=orjson.OPT_SORT_KEYS),
        headers=(("content-type", b"application/json"),),
    )
