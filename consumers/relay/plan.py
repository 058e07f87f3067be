"""What becomes of a parked record: waited for, handed on, parked again, or dead-lettered. Pure.

A record is *held* until it is due, or until it has been in its tier for the tier's maximum; then it goes
back to the end of the tier that fits what is left, so that no offset stays unfinished for days.
"""

from __future__ import annotations

import marshal
from dataclasses import dataclass, replace
from enum import StrEnum

from sluicegate.records import Headers, OutgoingRecord, Record
from sluicegate.retry.headers import (
    BAD_HEADERS_REASON,
    DLQ_REASON,
    Due,
    parse_due,
    parse_retry_headers,
    with_retry_headers,
)
from sluicegate.retry.policy import tier_bounds_s, tier_for
from sluicegate.settings import Settings
from sluicegate.topics import stream_topics

# A record is held at least this long before it is parked again: a producer's clock that is far behind
# would else send it round and round through Kafka.
_LEAST_HOLD_MS = 1000
# What CPython takes for a held record and its places in heap and partition, beside the bytes of the record
# (benchmarks/relay_capacity.py).
_OVERHEAD_BYTES = 750


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One retry topic, and where its records can go. `number` is 1-based; bounds are those of its delays."""

    stream: str
    number: int
    topic: str
    least_ms: int
    most_ms: int
    due_topic: str
    dlq_topic: str
    siblings: tuple[str, ...]
    bounds_s: tuple[float, ...]
    horizon_s: float
    retention_s: float


class Mended(StrEnum):
    """What of a due time was not believed. A closed set: it becomes a metric label."""

    UNREADABLE_DUE = "unreadable-due"
    CLAMPED_DUE = "clamped-due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A record and the moment to look at it again; `partition` is where it goes, whatever becomes of it.

    Headers are kept packed: as objects they would take three times a small record's own bytes, and the
    garbage collector would stop the process for half a second to walk over those of 100,000 records.
    """

    tier: Tier
    key: bytes | None
    value: bytes | None
    packed_headers: bytes
    partition: int
    is_ours: bool
    stored_at_ms: int
    due_at_ms: int
    wake_at_ms: int
    mended: Mended | None = None

    @property
    def size_bytes(self) -> int:
        """What the record takes in memory, roughly."""
        return len(self.value or b"") + len(self.key or b"") + len(self.packed_headers) + _OVERHEAD_BYTES

    @property
    def headers(self) -> Headers:
        """The record's headers as they came."""
        headers: Headers = marshal.loads(self.packed_headers)
        return headers


class Move(StrEnum):
    """Where a record goes."""

    RELEASED = "released"
    PARKED_AGAIN = "parked-again"
    DEAD_LETTERED = "dead-lettered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A move and the record that makes it."""

    move: Move
    record: OutgoingRecord


def tiers_of(settings: Settings) -> tuple[Tier, ...]:
    """List every tier of every stream."""
    bounds = tuple(settings.retry.tiers_s)
    found: list[Tier] = []
    for stream in settings.streams:
        topics = stream_topics(settings, stream)
        for number, topic in enumerate(topics.tiers, start=1):
            least_s, most_s = tier_bounds_s(number, bounds)
            found.append(
                Tier(
                    stream=stream,
                    number=number,
                    topic=topic,
                    least_ms=int(least_s * 1000),
                    most_ms=int(most_s * 1000),
                    due_topic=topics.due,
                    dlq_topic=topics.dlq,
                    siblings=topics.tiers,
                    bounds_s=bounds,
                    horizon_s=settings.retry.horizon_s,
                    retention_s=settings.topics.retry_retention_s,
                )
            )
    return tuple(found)


def hold(record: Record, tier: Tier, *, partitions: int | None, now_ms: int) -> Held:
    """Read a record of the tier; nothing in it is trusted.

    `partitions` is how many the due topic has, None when that is not known. The horizon counts from
    when the record was stored, so that a clamped due time stays where it is however often it is read.
    """
    stored_ms = min(record.timestamp_ms, now_ms) if record.timestamp_ms > 0 else now_ms
    due = parse_due(record.headers, now_ms=stored_ms, horizon_s=tier.horizon_s)
    if due is None or (partitions is not None and due.partition >= partitions):
        return _held(record, tier, record.partition, stored_ms, due_at_ms=now_ms, wake_at_ms=now_ms)
    tier_ends_ms = max(stored_ms + tier.most_ms, now_ms + _LEAST_HOLD_MS)
    return _held(
        record,
        tier,
        due.partition,
        stored_ms,
        due_at_ms=due.due_at_ms,
        wake_at_ms=min(due.due_at_ms, tier_ends_ms),
        is_ours=True,
        mended=_mended(due, stored_ms),
    )


def move(held: Held, *, now_ms: int) -> Moved:
    """Say where a held record goes once its `wake_at_ms` is reached; nothing is released before it is due."""
    tier, headers = held.tier, held.headers
    if not held.is_ours:
        kept = tuple(header for header in headers if header[0] != DLQ_REASON)
        reason = (DLQ_REASON, BAD_HEADERS_REASON.encode("ascii"))
        return Moved(move=Move.DEAD_LETTERED, record=_copied(held, tier.dlq_topic, (*kept, reason)))
    if now_ms >= held.due_at_ms:
        return Moved(move=Move.RELEASED, record=_copied(held, tier.due_topic, headers))
    number = tier_for((held.due_at_ms - now_ms) / 1000, tier.bounds_s)
    # Read as they were at `hold`: what was mended then is mended alike, and written out this time.
    retry = parse_retry_headers(headers, now_ms=held.stored_at_ms, horizon_s=tier.horizon_s)
    if retry is not None:
        headers = with_retry_headers(headers, replace(retry, tier=number))
    return Moved(move=Move.PARKED_AGAIN, record=_copied(held, tier.siblings[number - 1], headers))


def _held(
    record: Record,
    tier: Tier,
    partition: int,
    stored_ms: int,
    *,
    due_at_ms: int,
    wake_at_ms: int,
    is_ours: bool = False,
    mended: Mended | None = None,
) -> Held:
    return Held(
        tier=tier,
        key=record.key,
        value=record.value,
        # Not pickle: it is three times as slow and larger. Nobody else ever reads these bytes.
        packed_headers=marshal.dumps(record.headers),
        partition=partition,
        is_ours=is_ours,
        stored_at_ms=stored_ms,
        due_at_ms=due_at_ms,
        wake_at_ms=wake_at_ms,
        mended=mended,
    )


def _mended(due: Due, stored_ms: int) -> Mended | None:
    if not due.was_mended:
        return None
    return Mended.UNREADABLE_DUE if due.due_at_ms <= stored_ms else Mended.CLAMPED_DUE


def _copied(held: Held, topic: str, headers: Headers) -> OutgoingRecord:
    return OutgoingRecord(
        topic=topic, partition=held.partition, key=held.key, value=held.value, headers=headers
    )
