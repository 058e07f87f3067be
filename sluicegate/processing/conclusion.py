"""What a delivery came to: the dispatcher's verdict and the word for it in the log line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sluicegate.delivery.dispatcher import Verdict


class DecisionWord(StrEnum):
    """What was decided about a delivery. A closed set: it is a log field."""

    RESULT = "result"
    RECORDED = "recorded"
    DEAD_LETTER = "dead-letter"
    PARKED = "parked"
    PARKED_BEHIND = "parked-behind"
    SET_ASIDE = "set-aside"
    LEFT = "left"
    STALE = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The end of one delivery, which need not be the end of its event."""

    verdict: Verdict
    decision: DecisionWord


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeAgain:
    """The event's row was made anew meanwhile: the record is taken again, without an ack."""


STALE = Conclusion(verdict=Verdict.ACK, decision=DecisionWord.STALE)
