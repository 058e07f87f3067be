"""Answers customers in a support chat, with the conversation so far in view."""

from __future__ import annotations

from typing import assert_never

from sluicegate.events.models import ChatReply, Speaker, SupportChat
from sluicegate.llm.api import Message
from sluicegate.processing.context import Context
from sluicegate.state.api import HistoryEntry
from streams.prompts import prompt

# Our own replies in the history, beside what customers and agents said.
ASSISTANT = "assistant"


async def reply(chat: SupportChat, ctx: Context) -> ChatReply | None:
    """Answer a customer's message; keep an agent's for the answers that follow, and publish nothing."""
    said = HistoryEntry(speaker=chat.speaker.value, text=chat.text)
    match chat.speaker:
        case Speaker.AGENT:
            ctx.history.append(said)
            return None
        case Speaker.CUSTOMER:
            answer = await ctx.llm.complete(
                step="reply",
                system=prompt("support_chat"),
                messages=_conversation(await ctx.history.earlier()),
                user=chat.text,
            )
            ctx.history.append(said)
            ctx.history.append(HistoryEntry(speaker=ASSISTANT, text=answer.text))
            return ChatReply(
                conversation_id=chat.conversation_id,
                turn=chat.turn,
                reply=answer.text,
                model=answer.model,
                usage=ctx.llm.usage,
                route=answer.route,
            )
        case _:
            assert_never(chat.speaker)


def _conversation(earlier: tuple[HistoryEntry, ...]) -> tuple[Message, ...]:
    """Return what was said before: the customer's side as the user's, everybody else's as the assistant's."""
    return tuple(
        Message(role="user" if entry.speaker == Speaker.CUSTOMER else "assistant", text=entry.text)
        for entry in earlier
    )
