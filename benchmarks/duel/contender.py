"""What a contender is told and asked. Standard library only: peers run where our packages are not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The limit to keep, as the provider published it. `tokens_per_window` 0 is no limit on tokens."""

    redis_url: str
    process: int
    concurrency: int
    window_s: float
    requests_per_window: int
    tokens_per_window: int
    largest_call_tokens: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. `refusals` counts the 429s that it got; `asked_at_ms` is Unix time in ms."""

    tokens: int
    asked_at_ms: int
    refusals: int


class Contender(Protocol):
    """A way to keep a limit that several processes share, as its own documentation has it used."""

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Get ready; whatever starting costs is not measured."""

    async def acquire(self, call: Call) -> object:
        """Return when the call may be sent, with whatever the contender wants back of it."""

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Hear that the provider answered 429, and return when `acquire` may be tried again."""

    async def done(self, grant: object, call: Call) -> None:
        """Hear that the call was answered and took the tokens that it was said to take."""
