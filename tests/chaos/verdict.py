"""What the checker found, promise by promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Promise(StrEnum):
    """What a run must not break."""

    LOST = "lost"
    WAITING = "waiting"
    TWO_ENDS = "two ends"
    REPEATED = "repeated"
    EARLY = "early"
    OUT_OF_ORDER = "out of order"
    OVER_LIMIT = "over limit"
    PAID_TWICE = "paid twice"
    ALTERED = "altered"
    LEAKED = "leaked"
    COMMITTED_ABOVE = "committed above"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One break of a promise. `excuse` names what allows it: then it is counted, and no failure."""

    promise: Promise
    what: str
    excuse: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All findings of a run, and what became of its events."""

    fates: Mapping[str, int]
    findings: tuple[Finding, ...]
    parked: int = 0
    calls: int = 0

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that nothing allows."""
        return tuple(finding for finding in self.findings if finding.excuse is None)

    @property
    def broken(self) -> Mapping[Promise, int]:
        """How often each promise was broken."""
        return Counter(finding.promise for finding in self.failures)

    @property
    def excused(self) -> Mapping[Promise, int]:
        """How often what each promise forbids happened where it is allowed."""
        return Counter(finding.promise for finding in self.findings if finding.excuse is not None)
