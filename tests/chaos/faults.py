"""What goes wrong in a run: drawn from one seed, so that the same seed is the same schedule again.

Faults of one lane follow each other, those of different lanes overlap. All end before the drain begins.
Each lane deals its faults like cards: seeds that follow each other go through a whole pack before a fault
comes again, and every pack is shuffled anew, so that some dozen seeds meet every fault in other company.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Lane(StrEnum):
    """What is struck. Two faults of one lane never overlap."""

    WORKERS = "workers"
    RELAYS = "relays"
    BROKER = "broker"
    REDIS = "redis"
    PROVIDER = "provider"
    INPUT = "input"


class FaultKind(StrEnum):
    """Every fault of a run."""

    WORKER_KILLED = "worker-killed"
    WORKER_TERMINATED = "worker-terminated"
    WORKER_STOPPED = "worker-stopped"
    WORKER_JOINS = "worker-joins"
    WORKERS_ROLLED = "workers-rolled"
    WORKER_CLOCK_WRONG = "worker-clock-wrong"
    RELAY_KILLED = "relay-killed"
    RELAY_STOPPED = "relay-stopped"
    RELAY_JOINS = "relay-joins"
    BROKER_RESTARTED = "broker-restarted"
    BROKER_KILLED = "broker-killed"
    BROKER_SILENT = "broker-silent"
    BROKER_CUT_OFF = "broker-cut-off"
    RESULTS_REFUSED = "results-refused"
    COPIES_REFUSED = "copies-refused"
    REDIS_KILLED = "redis-killed"
    REDIS_EMPTY = "redis-empty"
    REDIS_STALE = "redis-stale"
    REDIS_FLUSHED = "redis-flushed"
    REDIS_SCRIPTS_FLUSHED = "redis-scripts-flushed"
    REDIS_STOPPED = "redis-stopped"
    REDIS_PAUSED = "redis-paused"
    REDIS_SLOW = "redis-slow"
    REDIS_SILENT = "redis-silent"
    REDIS_CUT_OFF = "redis-cut-off"
    REDIS_READ_ONLY = "redis-read-only"
    REDIS_FULL = "redis-full"
    REDIS_BUSY = "redis-busy"
    REDIS_PASSWORD = "redis-password"
    QUOTA_CUT = "quota-cut"
    QUOTA_SHARED = "quota-shared"
    THROTTLED_S = "throttled-s"
    THROTTLED_MS = "throttled-ms"
    THROTTLED_DATE = "throttled-date"
    THROTTLED_BARE = "throttled-bare"
    THROTTLED_ZERO = "throttled-zero"
    ERROR_500 = "error-500"
    UNAVAILABLE_503 = "unavailable-503"
    OVERLOADED_529 = "overloaded-529"
    OVERLOADED_IN_200 = "overloaded-in-200"
    CROWDED = "crowded"
    HANG = "hang"
    SLOW_HEADERS = "slow-headers"
    SLOW_BODY = "slow-body"
    EMPTY = "empty"
    HTML = "html"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    RESET = "reset"
    HUGE = "huge"
    REDIRECT = "redirect"
    POISON = "poison"


_K = FaultKind
LANES: Mapping[Lane, tuple[FaultKind, ...]] = {
    Lane.WORKERS: (
        *(_K.WORKER_KILLED, _K.WORKER_TERMINATED, _K.WORKER_STOPPED, _K.WORKER_JOINS),
        *(_K.WORKERS_ROLLED, _K.WORKER_CLOCK_WRONG),
    ),
    Lane.RELAYS: (_K.RELAY_KILLED, _K.RELAY_STOPPED, _K.RELAY_JOINS),
    Lane.BROKER: (
        *(_K.BROKER_RESTARTED, _K.BROKER_KILLED, _K.BROKER_SILENT, _K.BROKER_CUT_OFF),
        *(_K.RESULTS_REFUSED, _K.COPIES_REFUSED),
    ),
    Lane.REDIS: (
        *(_K.REDIS_KILLED, _K.REDIS_EMPTY, _K.REDIS_STALE, _K.REDIS_FLUSHED, _K.REDIS_SCRIPTS_FLUSHED),
        *(_K.REDIS_STOPPED, _K.REDIS_PAUSED, _K.REDIS_SLOW, _K.REDIS_SILENT, _K.REDIS_CUT_OFF),
        *(_K.REDIS_READ_ONLY, _K.REDIS_FULL, _K.REDIS_BUSY, _K.REDIS_PASSWORD),
    ),
    Lane.PROVIDER: (
        *(_K.QUOTA_CUT, _K.QUOTA_SHARED, _K.THROTTLED_S, _K.THROTTLED_MS, _K.THROTTLED_DATE),
        *(_K.THROTTLED_BARE, _K.THROTTLED_ZERO, _K.ERROR_500, _K.UNAVAILABLE_503, _K.OVERLOADED_529),
        *(_K.OVERLOADED_IN_200, _K.CROWDED, _K.HANG, _K.SLOW_HEADERS, _K.SLOW_BODY, _K.EMPTY, _K.HTML),
        *(_K.MALFORMED, _K.TRUNCATED, _K.RESET, _K.HUGE, _K.REDIRECT),
    ),
    Lane.INPUT: (_K.POISON,),
}
# How many faults of each lane a run gets, at least and at most.
_HOW_MANY: Mapping[Lane, tuple[int, int]] = {
    Lane.WORKERS: (1, 3),
    Lane.RELAYS: (0, 1),
    Lane.BROKER: (1, 1),
    Lane.REDIS: (1, 2),
    Lane.PROVIDER: (2, 3),
    Lane.INPUT: (1, 1),
}
# Others last as long as they last: a kill, a flush, a roll.
_LASTS_S: Mapping[FaultKind, tuple[float, float]] = {
    # The session is 6 s: longer makes a zombie.
    _K.WORKER_STOPPED: (8, 11),
    _K.RELAY_STOPPED: (8, 11),
    _K.WORKER_JOINS: (6, 10),
    _K.RELAY_JOINS: (5, 8),
    _K.WORKER_CLOCK_WRONG: (12, 18),
    _K.BROKER_RESTARTED: (0, 3),
    _K.BROKER_KILLED: (0, 3),
    _K.BROKER_SILENT: (3, 9),
    _K.RESULTS_REFUSED: (3, 5),
    _K.COPIES_REFUSED: (3, 5),
    _K.REDIS_KILLED: (0.5, 8),
    _K.REDIS_EMPTY: (0.5, 3),
    _K.REDIS_STALE: (0.5, 3),
    _K.REDIS_STOPPED: (1, 8),
    _K.REDIS_PAUSED: (1, 6),
    _K.REDIS_SLOW: (5, 10),
    _K.REDIS_SILENT: (2, 8),
    _K.REDIS_READ_ONLY: (2, 6),
    _K.REDIS_FULL: (2, 6),
    _K.REDIS_BUSY: (2, 6),
    _K.REDIS_PASSWORD: (2, 6),
    _K.QUOTA_CUT: (2, 8),
    _K.QUOTA_SHARED: (6, 12),
    _K.CROWDED: (3, 8),
}
_STRIKES_S = (2.0, 5.0)
FIRST_AT_S, LAST_AT_S = 3.0, 32.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: when it begins (from the start of the run), how long it is meant to last, where it hits.

    `pick` chooses among what could be struck (which worker, which share, which wait), from [0, 1).
    """

    kind: FaultKind
    lane: Lane
    at_s: float
    for_s: float
    pick: float

    def __str__(self) -> str:
        return f"{self.kind}@{self.at_s:.0f}s"

    def choose(self, count: int) -> int:
        """Return one of `count` numbers, from 0."""
        return int(self.pick * count)


def draw_schedule(seed: int) -> tuple[Fault, ...]:
    """Return the faults of a seed in the order in which they begin."""
    random = Random(seed)
    schedule: list[Fault] = []
    for lane in LANES:
        count = random.randint(*_HOW_MANY[lane])
        slot_s = (LAST_AT_S - FIRST_AT_S) / max(count, 1)
        for number in range(count):
            begins, lasts, pick = (random.random() for _ in range(3))
            chosen = _dealt(lane, seed, number)
            least_s, most_s = _LASTS_S.get(chosen, _STRIKES_S)
            schedule.append(
                Fault(
                    kind=chosen,
                    lane=lane,
                    at_s=round(FIRST_AT_S + slot_s * (number + 0.8 * begins), 2),
                    for_s=round(least_s + (most_s - least_s) * lasts, 2),
                    pick=pick,
                )
            )
    return tuple(sorted(schedule, key=lambda fault: fault.at_s))


def _dealt(lane: Lane, seed: int, number: int) -> FaultKind:
    """Return a seed's card."""
    kinds, most = LANES[lane], _HOW_MANY[lane][1]
    pack, turn = divmod(seed, -(-len(kinds) // most))
    cards = Random(f"{lane}-{pack}").sample(kinds, len(kinds))
    return cards[(turn * most + number) % len(cards)]
