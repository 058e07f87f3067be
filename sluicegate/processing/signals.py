"""How a decision made deep inside a handler ends the handler's run without asking it.

A handler is foreign code: it may catch `Exception` around a call, or gather its calls and ignore
their errors. The decision to park an event must survive both, so it is remembered in a `Fate` that
the processor looks at first, and the signal that unwinds the handler is not an `Exception`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sluicegate.errors import CallRejectedError
from sluicegate.llm.outcomes import Reason
from sluicegate.retry.decisions import DeadLetter, Park, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MustPark:
    """The event waits in a tier; `progress` is that of the step which must wait."""

    park: Park
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MustDie:
    """The event ends without a result; `progress` is that of the step which ended it."""

    letter: DeadLetter
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The process drains: the record stays uncommitted and will be delivered again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyOver:
    """Another delivery ended the event meanwhile: this one is a zombie and says nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Our own code failed underneath the handler: the process must stop, the event is not to blame."""

    error: Exception


Decided = MustPark | MustDie | Left | AlreadyOver | Broken


class EventUnwoundError(BaseException):
    """Carries nothing: what was decided is in the event's `Fate`. Handlers must let it pass."""


class StepRejectedError(CallRejectedError):
    """A rejection that knows how far its step had come: what a dead letter says of its last call."""

    def __init__(self, reason: Reason, http_status: int | None, progress: Progress) -> None:
        """`progress` counts the rejected call."""
        super().__init__(reason.value, http_status)
        self.progress = progress


class Fate:
    """The first decision about one delivery; later ones change nothing."""

    def __init__(self) -> None:
        self.decided: Decided | None = None

    def decide(self, decided: Decided) -> EventUnwoundError:
        """Remember the first decision and return the signal to raise."""
        if self.decided is None:
            self.decided = decided
        return EventUnwoundError()

    async def check(self) -> None:
        """Raise the signal again when the event is decided: nothing more is begun for it."""
        if self.decided is not None:
            # A handler that catches everything and asks again would otherwise hold up the whole process.
            await asyncio.sleep(0)
            raise EventUnwoundError
