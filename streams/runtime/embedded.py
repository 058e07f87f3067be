"""One workaround for the embedded broker, never applied to a real Kafka."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.consumer import group_coordinator

_HOLD_S = 0.25


def hold_back_leaders_sync() -> None:
    """Make a group's leader send its assignment a moment after the followers asked for theirs.

    librdkafka's mock cluster answers a follower's SyncGroup with INVALID_REQUEST when the leader's came
    first, so that two aiokafka members never form a group on it.
    """
    rebalance = group_coordinator.CoordinatorGroupRebalance
    send = rebalance._on_join_leader

    async def later(self: Any, response: Any) -> Any:
        await asyncio.sleep(_HOLD_S)
        return await send(self, response)

    rebalance._on_join_leader = later
