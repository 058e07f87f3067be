"""A handler that only waits, as long as a fast provider would take."""

from __future__ import annotations

import asyncio

from sluicegate.events.models import ChatReply, SupportChat
from sluicegate.llm.outcomes import Usage
from sluicegate.processing.context import Context

WORK_S = 0.1
_TEXT = "An answer of the length that an answer often has. " * 4


async def wait(chat: SupportChat, ctx: Context) -> ChatReply | None:
    """Wait, and answer without a call: what is left is the worker's own cost."""
    await asyncio.sleep(WORK_S)
    return ChatReply(
        conversation_id=chat.conversation_id, turn=chat.turn, reply=_TEXT, model="none", usage=Usage()
    )
