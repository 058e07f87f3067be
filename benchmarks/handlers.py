"""Handlers that make no call: what is left is the worker's own cost."""

from __future__ import annotations

import asyncio

from sluicegate.events.models import ChatReply, SupportChat
from sluicegate.llm.outcomes import Usage
from sluicegate.processing.context import Context

WORK_S = 0.1
ANSWER = "An answer of the length that an answer often has. " * 4


async def wait(chat: SupportChat, ctx: Context) -> ChatReply | None:
    """Wait as long as a fast provider would take, and answer."""
    await asyncio.sleep(WORK_S)
    return _answer(chat)


async def nothing(chat: SupportChat, ctx: Context) -> ChatReply | None:
    """Answer at once."""
    return _answer(chat)


def _answer(chat: SupportChat) -> ChatReply:
    return ChatReply(
        conversation_id=chat.conversation_id, turn=chat.turn, reply=ANSWER, model="none", usage=Usage()
    )
