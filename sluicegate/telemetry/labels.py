"""The labels of metrics, and every value that each of them can have.

A label's values come from a closed set or from the configuration, never from an event: a label that grows
with traffic takes Prometheus down, and one with an event's words leaks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sluicegate.delivery.done_map import Refusal
from sluicegate.errors import BadEventReason
from sluicegate.limiter.api import Dimension, Lane
from sluicegate.llm.outcomes import Reason
from sluicegate.retry.decisions import EndReason, LetterReason
from sluicegate.retry.headers import BAD_HEADERS_REASON, RetrySource
from sluicegate.state.api import EndKind

OTHER = "other"
"""What a value outside its set is counted as: one more series, and not one more for each."""


class TakenFrom(StrEnum):
    """Which of a stream's two topics a worker took a record from."""

    INPUT = "input"
    DUE = "due"


class MissedIn(StrEnum):
    """Which of a stream's topics lost records before they were read."""

    INPUT = "input"
    DUE = "due"
    RETRY = "retry"


class Direction(StrEnum):
    """Which way tokens went."""

    INPUT = "input"
    OUTPUT = "output"


class Repair(StrEnum):
    """What was found broken, or lost, and mended. The worker's, the relay's and the commits' together."""

    NULL_KEY = "null-key"
    RETRY_HEADER = "retry-header"
    UNREADABLE_DUE = "unreadable-due"
    CLAMPED_DUE = "clamped-due"
    STEP_MISMATCH = "step-mismatch"
    SWITCH_LOST = "switch-lost"
    GATE_HEALED = "gate-healed"
    LEASE_ROUND_LOST = "lease-round-lost"
    PREDECESSOR_DEAD_LETTERED = "predecessor-dead-lettered"
    MAP_UNKNOWN_VERSION = f"done-map-{Refusal.UNKNOWN_VERSION.value}"
    MAP_TOO_LARGE = f"done-map-{Refusal.TOO_LARGE.value}"
    MAP_FOREIGN_BASE = f"done-map-{Refusal.FOREIGN_BASE.value}"
    MAP_GARBAGE = f"done-map-{Refusal.GARBAGE.value}"


class Bound(StrEnum):
    """What keeps a tier's next record in Kafka although it may be due."""

    MEMORY = "memory"
    WINDOW = "window"
    DONE_MAP = "done-map"


def refused_map(refusal: Refusal) -> Repair:
    """Return what a done-map that was not believed counts as."""
    return Repair(f"done-map-{refusal.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label: its name and all its values; `configured` says where they come from when it is no set."""

    name: str
    values: frozenset[str] = frozenset()
    configured: str = ""

    def known(self, value: str) -> str:
        """Return the value, or `other` when the set does not have it."""
        return value if self.configured or value in self.values else OTHER


def _closed(name: str, *values: str) -> Label:
    return Label(name=name, values=frozenset(map(str, values)))


STREAM = Label(name="stream", configured="`[streams.NAME]`")
TIER = Label(name="tier", configured="numbers of `[retry] tiers_s`, from 1")
SCOPE = Label(name="scope", configured="`[limits.NAME]`, or the provider")
SOURCE = _closed("source", *TakenFrom)
MISSED_IN = _closed("source", *MissedIn)
PARKED_BY = _closed("source", *RetrySource)
END = _closed("kind", *EndKind)
REPAIR = _closed("kind", *Repair)
DEAD_BY = _closed("reason", *BadEventReason, *EndReason, *LetterReason, *Reason, BAD_HEADERS_REASON)
OUTCOME = _closed("outcome", "completed", *Reason)
DIRECTION = _closed("direction", *Direction)
HELD_BACK_BY = _closed("bound", *Bound)
LANE = _closed("lane", *(lane.name.lower() for lane in Lane))
CIRCUIT = _closed("reason", "outage", Reason.MONEY, Reason.CREDENTIALS, Reason.NOT_FOUND)
PER_MINUTE = _closed(
    "dimension", Dimension.REQUESTS, Dimension.TOKENS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS
)
