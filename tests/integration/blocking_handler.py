"""A handler that does what none may: it blocks the event loop until the file that its event names exists."""

from __future__ import annotations

import time
from pathlib import Path

from sluicegate.events.models import SupportChat
from sluicegate.processing.context import Context


async def reply(chat: SupportChat, ctx: Context) -> None:
    """Say that it blocks, and block."""
    del ctx
    _block_until(Path(chat.text))


def _block_until(go_on: Path) -> None:
    go_on.with_suffix(".blocked").touch()
    while not go_on.exists():
        time.sleep(0.02)
