"""One assigned partition of a tier: what of it is in memory, in flight and finished, and when to read on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from consumers.relay.plan import Held, Tier
from sluicegate.delivery.due_queue import DueEntry
from sluicegate.delivery.offsets import OffsetTracker
from sluicegate.kafka.admin import Partition
from sluicegate.telemetry.labels import Bound

Entry = DueEntry[Partition, Held]

_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 30.0
# Enough for 100,000 records/s at a broker that confirms within 5 ms; a partition whose leader is gone
# keeps no more than this of the producer's queue, so that the others go on.
_MOST_IN_FLIGHT = 500
_SURE_PART = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How far one partition is read ahead; where it stopped, it goes on at half of each bound.

    A record appended at A is due between A + the tier's minimum and A + its maximum. The next one is
    therefore read `ahead_ms` before A + minimum, and what is in memory comes to
    rate x (maximum - minimum) records by itself, narrow or wide. `ahead_ms` has to exceed what publishing
    may take plus what the clocks of brokers and Redis differ by. `max_records` is about what one commit's
    map can describe (done-map: 4,096 characters); more would be stopped there.
    """

    max_records: int = 20_000
    ahead_ms: int = 60_000


@dataclass(slots=True, kw_only=True)
class HeldPartition:
    """The state of one assignment of one partition; a new assignment is a new object.

    `dropped` ends it: whatever is confirmed for it later changes nothing. `backlog` is due already: it
    waits for room in flight, or for the probe of a stopped partition.
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
    in_flight: int = 0
    backlog: deque[Entry] = field(default_factory=deque)
    failures: int = 0
    probe_at_s: float = 0.0
    probing: Entry | None = None

    @property
    def stopped(self) -> bool:
        """Whether a record of this partition could not be published and nothing else of it may move."""
        return self.failures > 0

    @property
    def may_send(self) -> bool:
        """Whether one more record may be on its way."""
        return not self.stopped and self.in_flight < _MOST_IN_FLIGHT

    @property
    def records(self) -> int:
        """How many records are in memory."""
        return len(self.held)

    @property
    def fill(self) -> float:
        """How full the window is; above 1 by what the last batch brought."""
        return self.records / self.window.max_records

    def oldest_s(self, now_ms: int) -> float:
        """Return the age of the oldest record in memory, since it was appended; 0 when there is none."""
        oldest = next(iter(self.held.values()), None)
        return 0.0 if oldest is None else max(0, now_ms - oldest.stored_at_ms) / 1000

    def overdue_s(self, now_ms: int) -> float:
        """Return for how long the record that is due the longest has been so. O(what is in memory)."""
        soonest_ms = min((held.wake_at_ms for held in self.held.values()), default=now_ms)
        return max(0, now_ms - soonest_ms) / 1000

    def entered(self, entry: Entry, appended_ms: int | None) -> None:
        """Count a record into memory; `appended_ms` None where the broker keeps the producer's time."""
        self.held[entry.offset] = entry.payload
        self.bytes += entry.size_bytes
        self.last_appended_ms = appended_ms

    def left(self, entry: Entry) -> None:
        """Count a record out of memory: it is confirmed where it went."""
        del self.held[entry.offset]
        self.bytes -= entry.size_bytes
        self.tracker.done(entry.offset)

    def must_wait(self, now_ms: int, room: Room) -> bool:
        """Whether the next record shall stay in Kafka for now; half the bounds apply while it does."""
        share = 0.5 if self.paused else 1.0
        return (
            self.stopped
            or self._soonest_next_ms() > now_ms + self.window.ahead_ms * share
            or self._bound(room, share) is not None
        )

    def held_back_by(self, now_ms: int, room: Room) -> Bound | None:
        """Say what keeps a record in Kafka that may be due: it will be late. None while nothing does."""
        if self.stopped or not self.paused or self._soonest_next_ms() > now_ms:
            return None
        return self._bound(room, 0.5)

    def fail(self, entry: Entry, now_s: float) -> bool:
        """Keep the record, stop, and try it again after 1 s, doubled to 30 s. `now_s` is monotonic.

        Returns whether that is news: records that were on their way together fail together.
        """
        self.backlog.appendleft(entry)
        if self.stopped and self.probing is not entry:
            return False
        self.probing = None
        self.failures += 1
        self.probe_at_s = now_s + min(_RETRY_MOST_S, _RETRY_FIRST_S * 2.0 ** min(self.failures - 1, 10))
        return True

    def probe(self, now_s: float) -> Entry | None:
        """Return the one record to try again now, if it is time; the others wait for its fate."""
        if not self.stopped or self.probing is not None or not self.backlog or now_s < self.probe_at_s:
            return None
        self.probing = self.backlog.popleft()
        return self.probing

    def recovered(self, entry: Entry) -> bool:
        """Go on with the backlog if this confirmed record was the probe; returns whether it was."""
        if self.probing is not entry:
            return False
        self.failures = 0
        self.probing = None
        return True

    def _bound(self, room: Room, share: float) -> Bound | None:
        if self.tracker.must_stop:
            return Bound.DONE_MAP
        if self.records >= self.window.max_records * share:
            return Bound.WINDOW
        if room.is_full and self.bytes >= room.sure_bytes * share:
            return Bound.MEMORY
        return None

    def _soonest_next_ms(self) -> int:
        if self.last_appended_ms is None:
            return 0
        return self.last_appended_ms + self.tier.least_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What of the process's memory may be filled further.

    An eighth of it is in sure shares, one for each partition, so that a tier with hours to wait never keeps
    out one that is due in seconds; the rest goes to whoever needs it. `is_full`: only sure shares are left.
    """

    is_full: bool
    sure_bytes: int


def room_left(held_bytes: list[int], max_bytes: int, *, was_full: bool) -> Room:
    """Divide `max_bytes` among the partitions, given what each holds; no sum of grants exceeds it.

    Full, it stays so until a twentieth is free: every stop throws prefetched records away.
    """
    sure_bytes = max_bytes // (_SURE_PART * max(1, len(held_bytes)))
    taken = sum(max(held, sure_bytes) for held in held_bytes)
    most = max_bytes - (max_bytes // 20 if was_full else 0)
    return Room(is_full=taken >= most, sure_bytes=sure_bytes)
