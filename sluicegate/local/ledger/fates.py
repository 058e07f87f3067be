"""What became of each event: exactly one fate each, and what was wrong on the way to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from sluicegate.local.ledger.history import Copied, Ended, EndedAs, History, Published
from sluicegate.records import Origin

_T = TypeVar("_T", Ended, Copied)


class Fate(StrEnum):
    """Where an event is after a run. Exactly one each, so that the five sum up to what was published."""

    COMPLETED = "completed"
    RECORDED = "recorded"
    DEAD_LETTERED = "dead-lettered"
    WAITING = "waiting"
    LOST = "lost"


def fates(history: History) -> Mapping[Origin, Fate]:
    """Say for each published event what became of it."""
    ends = _by_origin(history.ends)
    copies = _by_origin((*history.parked, *history.released))
    dropped = _dropped_by_the_relay(history)
    return {
        event.origin: _fate(
            event,
            ends=ends[event.origin],
            copies=copies[event.origin],
            was_dropped=event.origin in dropped,
            history=history,
        )
        for event in history.published
    }


def _fate(
    event: Published, *, ends: Sequence[Ended], copies: Sequence[Copied], was_dropped: bool, history: History
) -> Fate:
    kinds = {end.kind for end in ends}
    if EndedAs.RESULT in kinds:
        return Fate.COMPLETED
    if EndedAs.DEAD_LETTER in kinds:
        return Fate.DEAD_LETTERED
    places = (event.origin, *(copy.place for copy in copies))
    if not all(history.committed.has(place) for place in places):
        return Fate.WAITING
    # Everything is committed and nothing was published: right only where the handler publishes nothing.
    return Fate.RECORDED if event.ends_silently and not was_dropped else Fate.LOST


def _dropped_by_the_relay(history: History) -> frozenset[Origin]:
    """Events of which the relay committed a copy that never reached `due`."""
    reached = {(copy.origin, copy.copy) for copy in history.released}
    return frozenset(
        copy.origin
        for copy in history.parked
        if history.committed.has(copy.place) and (copy.origin, copy.copy) not in reached
    )


def count_duplicate_ends(ends: Iterable[Ended]) -> int:
    """Count further ends of one event that have another `ce_id` or another kind than the first."""
    each = {(end.origin, end.kind, end.ce_id) for end in ends}
    return sum(count - 1 for count in Counter(origin for origin, _, _ in each).values())


def count_repeated_ends(ends: Iterable[Ended]) -> int:
    """Count how often the same end was published again; each place counts once."""
    each = Counter((end.origin, end.kind, end.ce_id) for end in ends)
    return sum(count - 1 for count in each.values())


def count_out_of_order(published: Iterable[Published], ends: Iterable[Ended]) -> int:
    """Count results that follow a result of a later event of their key.

    Order is that of the results topic's partition, which a key always shares; a repeated result counts
    where it stands first.
    """
    ordered = {event.origin: event for event in published if event.is_ordered}
    latest: dict[tuple[str, str, int, int], int] = {}
    seen: set[Origin] = set()
    count = 0
    for end in sorted(ends, key=lambda end: end.place):
        event = ordered.get(end.origin)
        if event is None or end.kind is not EndedAs.RESULT or end.origin in seen:
            continue
        seen.add(end.origin)
        lane = (event.origin.topic, event.key, event.origin.partition, end.place.partition)
        if event.origin.offset < latest.get(lane, -1):
            count += 1
        latest[lane] = max(latest.get(lane, -1), event.origin.offset)
    return count


def count_parked(parked: Iterable[Copied]) -> int:
    """Count the events that were in a retry tier at least once."""
    return len({copy.origin for copy in parked})


def lateness_ms(released: Iterable[Copied]) -> list[int]:
    """Return for each release how long after its due time it came, ascending; negative is too early."""
    return sorted(copy.timestamp_ms - copy.due_at_ms for copy in released)


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """Return the smallest value that this share of all values does not exceed; None without values."""
    if not ascending:
        return None
    rank = -int(-share * len(ascending) // 1)  # rounded up
    return ascending[max(rank, 1) - 1]


def _by_origin(records: Iterable[_T]) -> Mapping[Origin, list[_T]]:
    found: defaultdict[Origin, list[_T]] = defaultdict(list)
    for record in records:
        found[record.origin].append(record)
    return found
