"""Waiting inside an event for a time that is known, in a way that a drain can cut short."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sluicegate.limiter.api import WaitersReleasedError


class Pauses(Protocol):
    """Lets an event wait."""

    async def wait(self, delay_s: float) -> None:
        """Return after the delay; raise WaitersReleasedError at once when the process drains."""


class DrainablePauses:
    """Pauses of one process, which all end when it drains."""

    def __init__(self) -> None:
        self._released = asyncio.Event()

    async def wait(self, delay_s: float) -> None:
        """Return after the delay; raise WaitersReleasedError at once when the process drains."""
        try:
            async with asyncio.timeout(delay_s):
                await self._released.wait()
        except TimeoutError:
            return
        raise WaitersReleasedError

    def release(self) -> None:
        """Let everybody go, now and from now on."""
        self._released.set()
