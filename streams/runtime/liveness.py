"""Whether a worker is stuck, judged by what must move even when there is nothing to do.

Waiting for a permit, a gate, a lane or a block is never unhealthy; neither is a broker or a Redis that is
away: restarting the worker would cure none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from streams.runtime.consumer import TrackingConsumer

_TICK_S = 1.0
_LOOP_STUCK_S = 15.0
_FETCH_STUCK_S = 60.0
_HEARTBEATS_LOST_S = 120.0


class Liveness:
    """Answers /livez and /readyz. `consumer` returns None until the app runs."""

    def __init__(
        self,
        *,
        consumer: Callable[[], TrackingConsumer | None],
        redis_is_up: Callable[[], bool],
        is_draining: Callable[[], bool],
    ) -> None:
        self._consumer = consumer
        self._redis_is_up = redis_is_up
        self._is_draining = is_draining
        self._ticked_at = monotonic()

    async def tick(self) -> None:
        """Run for ever beside the worker: shows that the event loop turns."""
        while True:
            self._ticked_at = monotonic()
            await asyncio.sleep(_TICK_S)

    def dead(self) -> list[str]:
        """Name what is stuck; empty means alive."""
        now = monotonic()
        reasons = []
        if now - self._ticked_at > _LOOP_STUCK_S:
            reasons.append("event loop stuck")
        consumer = self._consumer()
        if consumer is not None and consumer.current_assignment is not None:
            if now - consumer.fetched_at > _FETCH_STUCK_S:
                reasons.append("fetching stuck")
            if now - consumer.heartbeat_at > _HEARTBEATS_LOST_S:
                reasons.append("no heartbeat answered")
        return reasons

    def not_ready(self) -> list[str]:
        """Name what keeps the worker from taking events; empty means ready."""
        reasons = []
        if self._is_draining():
            reasons.append("draining")
        consumer = self._consumer()
        current = consumer.current_assignment if consumer is not None else None
        if current is None or not current.trackers:
            reasons.append("no partitions assigned")
        if not self._redis_is_up():
            reasons.append("redis away")
        return reasons
