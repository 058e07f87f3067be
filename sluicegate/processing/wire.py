"""The calls on the wire, which outlive the event that made them.

An event is forgotten at a rebalance and its siblings are cancelled when one of its calls must wait,
but a call that left is paid for: it runs to its end or its timeout and its answer is kept. This
registry is therefore the one place where a task is not a child of the task that wanted it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_TIDY_S = 1.0

T = TypeVar("T")


class WireCalls:
    """Every call of the process that is on the wire or whose answer is not stored yet."""

    def __init__(self, on_crash: Callable[[BaseException], None]) -> None:
        """`on_crash` learns of a failure of our own in a task that perhaps nobody awaits any more."""
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the call in a task of its own; await it through `asyncio.shield`."""
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)

    async def finished(self, timeout_s: float) -> bool:
        """Wait until nothing is on the wire; after the timeout cancel the rest and return False."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._tasks and (left_s := deadline - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        late = await self._cancel()
        if late and self._tasks:
            # What a cancelled call leaves to be done, such as letting its lease go.
            await asyncio.wait(self._tasks, timeout=_TIDY_S)
            await self._cancel()
        return not late

    async def _cancel(self) -> bool:
        late = set(self._tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return bool(late)
