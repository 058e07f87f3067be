"""What becomes of a parked record: waited for, handed on, parked again, or dead-lettered. Pure.

A record is *held* until it is due, or until it has been in its tier for the tier's maximum; then it goes
back to the end of the tier that fits what is left, so that no offset stays unfinished for days.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from sluicegate.records import Headers, OutgoingRecord, Record
from sluicegate.retry.headers import (
    BAD_HEADERS_REASON,
    DLQ_REASON,
    RetryHeaders,
    parse_retry_headers,
    with_retry_headers,
)
from sluicegate.retry.policy import tier_bounds_s, tier_for
from sluicegate.settings import Settings
from sluicegate.topics import stream_topics

_DUE_AT = "retry-due-at-ms"
# A record is held at least this long before it is parked again: a producer's clock that is far behind
# would else send it round and round through Kafka.
_LEAST_HOLD_MS = 1000


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
    """A record and the moment to look at it again; `retry` None: it can only be dead-lettered."""

    record: Record
    tier: Tier
    retry: RetryHeaders | None
    due_at_ms: int
    wake_at_ms: int
    mended: Mended | None = None

    @property
    def size_bytes(self) -> int:
        """What the record takes in memory, roughly."""
        headers = sum(len(name) + len(value) for name, value in self.record.headers)
        return len(self.record.value or b"") + len(self.record.key or b"") + headers


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
    retry = parse_retry_headers(record.headers, now_ms=stored_ms, horizon_s=tier.horizon_s)
    if retry is None or (partitions is not None and retry.origin.partition >= partitions):
        return Held(record=record, tier=tier, retry=None, due_at_ms=now_ms, wake_at_ms=now_ms)
    tier_ends_ms = max(stored_ms + tier.most_ms, now_ms + _LEAST_HOLD_MS)
    return Held(
        record=record,
        tier=tier,
        retry=retry,
        due_at_ms=retry.due_at_ms,
        wake_at_ms=min(retry.due_at_ms, tier_ends_ms),
        mended=_mended(retry, stored_ms),
    )


def move(held: Held, *, now_ms: int) -> Moved:
    """Say where a held record goes once its `wake_at_ms` is reached; nothing is released before it is due."""
    record, tier, retry = held.record, held.tier, held.retry
    if retry is None:
        headers = (
            *(header for header in record.headers if header[0] != DLQ_REASON),
            (DLQ_REASON, BAD_HEADERS_REASON.encode("ascii")),
        )
        return Moved(
            move=Move.DEAD_LETTERED, record=_copied(record, tier.dlq_topic, record.partition, headers)
        )
    partition = retry.origin.partition
    if now_ms >= held.due_at_ms:
        released = _copied(record, tier.due_topic, partition, record.headers)
        return Moved(move=Move.RELEASED, record=released)
    number = tier_for((held.due_at_ms - now_ms) / 1000, tier.bounds_s)
    headers = with_retry_headers(record.headers, replace(retry, tier=number))
    again = _copied(record, tier.siblings[number - 1], partition, headers)
    return Moved(move=Move.PARKED_AGAIN, record=again)


def _mended(retry: RetryHeaders, stored_ms: int) -> Mended | None:
    if _DUE_AT not in retry.repaired:
        return None
    return Mended.UNREADABLE_DUE if retry.due_at_ms <= stored_ms else Mended.CLAMPED_DUE


def _copied(record: Record, topic: str, partition: int, headers: Headers) -> OutgoingRecord:
    return OutgoingRecord(
        topic=topic, partition=partition, key=record.key, value=record.value, headers=headers
    )
