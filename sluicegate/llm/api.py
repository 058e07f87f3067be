"""What the rest of Sluicegate needs of an LLM client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sluicegate.llm.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a prompt. Event text only ever goes into `user` and `assistant` messages."""

    role: str  # "system", "user" or "assistant"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """One call. `request_id` goes out as X-Client-Request-Id: `<identity>/<step>/<attempt>`."""

    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    request_id: str
    json_object: bool = False


def conversation(system: str | None, messages: Sequence[Message], user: str | None) -> tuple[Message, ...]:
    """Return the messages of a prompt: `system` first, then `messages`, then `user`; None leaves one out."""
    return (
        *((Message(role="system", text=system),) if system is not None else ()),
        *messages,
        *((Message(role="user", text=user),) if user is not None else ()),
    )


class LlmCaller(Protocol):
    """Makes one call within one total deadline; never raises for what a provider does."""

    async def call(self, request: CallRequest) -> Outcome:
        """Send the request once and return the typed outcome."""
