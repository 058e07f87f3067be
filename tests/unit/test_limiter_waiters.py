"""The order in which waiters book, and that those who left are not kept."""

from __future__ import annotations

import asyncio

from sluicegate.limiter.api import Ask, Cost, Lane
from sluicegate.limiter.waiters import Waiter, WaiterHeap


def _waiter(origin_ms: int) -> Waiter:
    ask = Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=origin_ms)
    answer = asyncio.get_running_loop().create_future()
    return Waiter(ask=ask, answer=answer, asked_at=0.0, blocked_before_s=0.0)


async def test_waiters_that_left_during_a_long_block_are_swept_out() -> None:
    """Rebalances behind a head that cannot book leave a bounded heap, and everybody who stayed in order."""
    heap = WaiterHeap()
    stayed = [_waiter(origin_ms) for origin_ms in range(100)]
    for waiter in reversed(stayed):
        heap.push(waiter)

    for origin_ms in range(1000, 51_000):
        gone = _waiter(origin_ms)
        heap.push(gone)
        gone.answer.cancel()

    assert len(heap) <= 2048
    assert [heap.pop() for _ in stayed] == stayed
    assert heap.pop() is None
