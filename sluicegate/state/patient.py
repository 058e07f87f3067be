"""Waiting out an outage of Redis: nothing goes on without the state, so an operation is repeated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sluicegate.errors import StateUnavailableError

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0

T = TypeVar("T")


def pause_s(failures: int, draw: float, *, longest_s: float = _LONGEST_PAUSE_S) -> float:
    """Return the pause after that many failures in a row, in seconds; `draw` is uniform in [0, 1).

    Exponential with a cap, and the upper half of it jittered: workers that lost Redis together do not
    come back together.
    """
    ceiling_s: float = min(longest_s, _FIRST_PAUSE_S * 2 ** min(failures - 1, 16))
    return ceiling_s * (0.5 + draw / 2)


async def patiently(
    operation: Callable[[], Awaitable[T]],
    *,
    on_outage: Callable[[StateUnavailableError], None] | None = None,
    uniform: Callable[[], float] = random.random,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Repeat an operation for ever while it raises StateUnavailableError, and return what it gives.

    Safe for every method of the state, because each may be repeated. Cancelling ends it at once.
    `on_outage` hears of the first failure only, not of every repetition. Other errors pass through.
    """
    failures = 0
    while True:
        try:
            return await operation()
        except StateUnavailableError as exc:
            failures += 1
            if failures == 1 and on_outage is not None:
                on_outage(exc)
        await pause(pause_s(failures, uniform()))
