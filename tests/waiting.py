"""Waiting for a condition with a deadline: the only way in which a test may pass time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.005


async def wait_until(condition: Callable[[], bool], *, timeout_s: float = 5.0, what: str = "") -> None:
    """Return when the condition holds; fail with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)


def wait_until_sync(condition: Callable[[], bool], *, timeout_s: float = 5.0, what: str = "") -> None:
    """Do the same from a test without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(_POLL_S)
