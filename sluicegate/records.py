"""What Kafka stores, as plain values that every client library's records are translated into."""

from __future__ import annotations

from dataclasses import dataclass

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Origin:
    """First topic, partition and offset of an event: its name inside, copied through every retry."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored record. `timestamp_ms` is what the broker says: append time on tiers and `due`."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def place(self) -> Origin:
        """Where the record itself lies; for an input record this is the event's origin."""
        return Origin(topic=self.topic, partition=self.partition, offset=self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRecord:
    """A record to be published. `partition` None leaves the choice to the key (murmur2, as Java does)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
