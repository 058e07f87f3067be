"""Reads records and commits for the ledger, with its own few lines: headers, done-maps, key and speaker.

Whatever does not parse is left out, so that the event behind it shows as lost.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluicegate.local.ledger.history import Copied, Ended, EndedAs, PartitionProgress, Published
from sluicegate.records import Origin, Record

_CRC_BYTES = 4
_MOST_BITMAP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """What the ledger must know of a stream: its id field, its order, and the speaker who gets no reply."""

    name: str
    id_field: str
    is_ordered: bool
    silent_speaker: str | None = None


def read_published(record: Record, rules: StreamRules) -> Published:
    """Read an input record; one that is no JSON object is an event too, with an end to come."""
    value = _json_object(record.value)
    headers = _headers(record)
    key = record.key.decode("utf-8", "replace") if record.key is not None else str(value.get(rules.id_field))
    return Published(
        stream=rules.name,
        origin=record.place,
        key=key,
        timestamp_ms=record.timestamp_ms,
        event_id=headers.get("ce_id", str(record.place)),
        ends_silently=rules.silent_speaker is not None and value.get("speaker") == rules.silent_speaker,
        is_ordered=rules.is_ordered,
    )


def read_ended(record: Record, kind: EndedAs, events: Mapping[Origin, Published]) -> Ended | None:
    """Read a result or a dead letter; None when it names no event, or says that another one caused it."""
    headers = _headers(record)
    origin = _origin(headers)
    event = None if origin is None else events.get(origin)
    if origin is None or event is None or ("ce_id" not in headers and kind is EndedAs.RESULT):
        return None
    if kind is EndedAs.RESULT and headers.get("ce_causationid") != event.event_id:
        return None
    return Ended(
        kind=kind,
        origin=origin,
        ce_id=headers.get("ce_id", ""),
        place=record.place,
        timestamp_ms=record.timestamp_ms,
    )


def read_copy(record: Record) -> Copied | None:
    """Read a record of a retry tier or of `due`; None when its headers do not say whose copy it is."""
    headers = _headers(record)
    origin = _origin(headers)
    copy, due_at = headers.get("retry-copy"), headers.get("retry-due-at-ms", "")
    if origin is None or copy is None or not due_at.isdecimal():
        return None
    return Copied(
        origin=origin,
        copy=copy,
        due_at_ms=int(due_at),
        place=record.place,
        timestamp_ms=record.timestamp_ms,
    )


def read_progress(offset: int, metadata: str) -> PartitionProgress:
    """Read a commit; a done-map that is damaged or of another offset says nothing.

    `d1:<offset>:<base85 of CRC-32 and raw-deflated bitmap>`; bit i, lowest first, is offset + i.
    """
    version, _, rest = metadata.partition(":")
    base, _, text = rest.partition(":")
    if version != "d1" or base != str(offset):
        return PartitionProgress(offset=offset)
    try:
        packed = base64.b85decode(text.encode("ascii"))
        inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        bitmap = inflater.decompress(packed[_CRC_BYTES:], _MOST_BITMAP_BYTES)
    except (ValueError, zlib.error):
        return PartitionProgress(offset=offset)
    expected = zlib.crc32(bitmap, zlib.crc32(base.encode("ascii")))
    if not inflater.eof or int.from_bytes(packed[:_CRC_BYTES], "big") != expected:
        return PartitionProgress(offset=offset)
    done = (offset + index for index in range(len(bitmap) * 8) if bitmap[index // 8] >> (index % 8) & 1)
    return PartitionProgress(offset=offset, done_above=frozenset(done))


def _headers(record: Record) -> dict[str, str]:
    return {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}


def _origin(headers: Mapping[str, str]) -> Origin | None:
    topic = headers.get("retry-origin-topic")
    partition, offset = headers.get("retry-origin-partition", ""), headers.get("retry-origin-offset", "")
    if topic is None or not partition.isdecimal() or not offset.isdecimal():
        return None
    return Origin(topic=topic, partition=int(partition), offset=int(offset))


def _json_object(value: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(value or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
