"""What a handler sees of the world: its event, an LLM, the conversation so far, its stream's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sluicegate.llm.api import Message
from sluicegate.llm.outcomes import Usage
from sluicegate.settings import StreamSettings
from sluicegate.state.api import HistoryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class EventInfo:
    """Where an event comes from. `id` is its `ce_id`, or `topic/partition/offset` where it had none.

    `attempt` is 1-based and rises with every call that was refused or failed; `time` is its `ce_time`.
    """

    id: str
    source: str | None
    time: datetime | None
    attempt: int
    key: str
    tenant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer of the LLM, perhaps remembered from an earlier attempt at the same event.

    `route` names the provider (or provider/model) that gave it.
    """

    text: str
    model: str
    usage: Usage
    route: str = ""


class Llm(Protocol):
    """Calls that are paid once per event and step."""

    @property
    def usage(self) -> Usage:
        """What all completed steps of this event took, remembered ones included."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Which routes answered the completed steps, each once, in the order of their first use."""

    async def complete(
        self,
        *,
        step: str,
        system: str | None = None,
        messages: Sequence[Message] = (),
        user: str | None = None,
        max_output_tokens: int | None = None,
        json_object: bool = False,
    ) -> Completion:
        """Return the answer to `system`, then `messages`, then `user`, waiting as long as quota takes.

        `step` names the call within its event: the answer is remembered under it. `max_output_tokens`
        None takes the stream's. Raises CallRejectedError when the provider will never take the call;
        uncaught it ends the event as a dead letter. Everything else that can happen (waiting, retrying,
        parking the event) is not the handler's concern.
        """


class History(Protocol):
    """The bounded conversation of the event's key."""

    async def earlier(self) -> tuple[HistoryEntry, ...]:
        """Return what earlier events of the key left; the same at every attempt at this event."""

    def append(self, entry: HistoryEntry) -> None:
        """Leave an entry for later events, which counts once this event has ended without a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that a handler may use besides its event."""

    event: EventInfo
    settings: StreamSettings
    llm: Llm
    history: History
