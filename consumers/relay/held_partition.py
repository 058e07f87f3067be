"""One assigned partition of a tier: what of it is in memory, in flight and finished, and when to read on."""

from __future__ import annotations

from dataclasses import dataclass, field

from consumers.relay.plan import Held, Tier
from sluicegate.delivery.due_queue import DueEntry
from sluicegate.delivery.offsets import OffsetTracker
from sluicegate.kafka.admin import Partition

Entry = DueEntry[Partition, "InHand"]

_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InHand:
    """A held record and the assignment that it belongs to."""

    held: Held
    owner: HeldPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much of one partition may be in memory; reading resumes at half.

    `ahead_ms`: a record that cannot be due sooner than this is not read yet. That can be known only
    where the broker stamps records as it appends them: the next one is not older than the last.
    """

    max_records: int = 2_000
    max_bytes: int = 4 * 1024 * 1024
    ahead_ms: int = 60_000


@dataclass(slots=True, kw_only=True)
class HeldPartition:
    """The state of one assignment of one partition; a new assignment is a new object.

    `dropped` ends it: whatever is confirmed for it later changes nothing.
    """

    place: Partition
    tier: Tier
    window: Window
    tracker: OffsetTracker = field(default_factory=OffsetTracker)
    held: dict[int, Held] = field(default_factory=dict)  # by offset, in the order of the log
    bytes: int = 0
    last_appended_ms: int | None = None
    paused: bool = False
    dropped: bool = False
    failed: list[Entry] = field(default_factory=list)
    failures: int = 0
    probe_at_s: float = 0.0
    probing: Entry | None = None

    @property
    def stopped(self) -> bool:
        """Whether a record of this partition could not be published and nothing else of it may move."""
        return self.failures > 0

    @property
    def records(self) -> int:
        """How many records are in memory."""
        return len(self.held)

    @property
    def fill(self) -> float:
        """How full the window is, by records or by bytes; above 1 by what the last batch brought."""
        return max(self.records / self.window.max_records, self.bytes / self.window.max_bytes)

    def oldest_s(self, now_ms: int) -> float:
        """Return the age of the oldest record in memory, since it was appended; 0 when there is none."""
        oldest = next(iter(self.held.values()), None)
        return 0.0 if oldest is None else max(0, now_ms - oldest.record.timestamp_ms) / 1000

    def overdue_s(self, now_ms: int) -> float:
        """Return for how long the record that is due the longest has been so. O(what is in memory)."""
        soonest_ms = min((held.wake_at_ms for held in self.held.values()), default=now_ms)
        return max(0, now_ms - soonest_ms) / 1000

    def entered(self, entry: Entry, appended_ms: int | None) -> None:
        """Count a record into memory; `appended_ms` None where the broker keeps the producer's time."""
        self.held[entry.offset] = entry.payload.held
        self.bytes += entry.size_bytes
        self.last_appended_ms = appended_ms

    def left(self, entry: Entry) -> None:
        """Count a record out of memory: it is confirmed where it went."""
        del self.held[entry.offset]
        self.bytes -= entry.size_bytes
        self.tracker.done(entry.offset)

    def must_wait(self, now_ms: int) -> bool:
        """Whether the next record shall stay in Kafka for now; half the bounds apply while it does."""
        share = 0.5 if self.paused else 1.0
        return (
            self.stopped
            or self.tracker.must_stop
            or self.records >= self.window.max_records * share
            or self.bytes >= self.window.max_bytes * share
            or self._soonest_next_ms() > now_ms + self.window.ahead_ms * share
        )

    def fail(self, entry: Entry, now_s: float) -> bool:
        """Keep the record, stop, and try it again after 1 s, doubled to 30 s. `now_s` is monotonic.

        Returns whether that is news: records that were on their way together fail together.
        """
        self.failed.append(entry)
        if self.stopped and self.probing is not entry:
            return False
        self.probing = None
        self.failures += 1
        self.probe_at_s = now_s + min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(self.failures - 1, 10))
        return True

    def probe(self, now_s: float) -> Entry | None:
        """Return the one record to try again now, if it is time; the others wait for its fate."""
        if not self.failed or self.probing is not None or now_s < self.probe_at_s:
            return None
        self.probing = self.failed.pop()
        return self.probing

    def recovered(self, entry: Entry) -> tuple[Entry, ...]:
        """Go on if this confirmed record was the probe; returns what waited meanwhile."""
        if self.probing is not entry:
            return ()
        waiting = tuple(self.failed)
        self.failed.clear()
        self.failures = 0
        self.probing = None
        return waiting

    def _soonest_next_ms(self) -> int:
        if self.last_appended_ms is None:
            return 0
        return self.last_appended_ms + self.tier.least_ms
