"""Whether a worker is stuck, judged by what must move even when there is nothing to do.

Waiting for a permit, a gate, a lane or a block is never unhealthy; neither is a broker or a Redis that is
away: restarting the worker would cure none of them. Both probes are answered from another thread than the
event loop, so that they also answer when it is the loop that is stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from sluicegate.telemetry.pulse import Pulse, TimedWork, Vital

_TICK_S = 1.0


class Vitals:
    """Everything of a worker that must move, each with its own idea of how soon."""

    def __init__(self, *, now_s: Callable[[], float] = monotonic) -> None:
        """`now_s` is a clock that never goes back."""
        self.loop = Pulse("event loop", now_s=now_s)
        #: The event loop of the consumer's thread.
        self.thread = Pulse("consumer thread", now_s=now_s)
        self.heartbeat = Pulse("heartbeats", now_s=now_s)
        #: Heartbeats that the group answered; only shown, never judged: a broker may be away for long.
        self.answered = Pulse("answered heartbeats", now_s=now_s)
        #: From the revoke of an assignment to the first heartbeat of the next.
        self.rebalance = Pulse("group coordinator", now_s=now_s)
        #: aiokafka's routine that asks brokers for records.
        self.fetcher = Pulse("fetcher", now_s=now_s)
        self.fetches = TimedWork("fetch", now_s=now_s)
        #: Our own loop that takes them and hands them to the agents.
        self.delivery = Pulse("delivery", now_s=now_s)
        self.agents = Pulse("agent", now_s=now_s)
        self.publishes = TimedWork("publish", now_s=now_s)
        self.calls = TimedWork("call", now_s=now_s)

    @property
    def of_consumer(self) -> tuple[Pulse, ...]:
        """What beats only while the worker is, or wants to be, in its group."""
        return (self.thread, self.heartbeat, self.rebalance, self.fetcher, self.delivery, self.agents)

    def leave(self) -> None:
        """Expect nothing of the consumer until it joins again."""
        for pulse in (*self.of_consumer, self.answered):
            pulse.rest()

    async def tick(self) -> None:
        """Run for ever beside the worker: shows that the event loop turns."""
        await ticking(self.loop)


async def ticking(pulse: Pulse) -> None:
    """Run for ever: show that the event loop that runs this turns."""
    while True:
        pulse.beat()
        await asyncio.sleep(_TICK_S)


class Member(Protocol):
    """What readiness asks of the consumer."""

    @property
    def has_partitions(self) -> bool:
        """Whether any partition is owned now."""


class Liveness:
    """Answers /livez and /readyz. `consumer` returns None until the app runs."""

    def __init__(
        self,
        vitals: Vitals,
        *,
        consumer: Callable[[], Member | None],
        redis_is_up: Callable[[], bool],
        is_draining: Callable[[], bool],
    ) -> None:
        self._vitals = vitals
        self._consumer = consumer
        self._redis_is_up = redis_is_up
        self._is_draining = is_draining

    def dead(self) -> list[str]:
        """Name what is stuck; empty means alive."""
        vitals = self._vitals
        judged: list[Vital] = [vitals.loop, vitals.publishes, vitals.calls]
        if not self._is_draining():
            # A drain has hard bounds of its own, and waits for calls when the group is left already.
            judged += [*vitals.of_consumer, vitals.fetches]
        return [complaint for vital in judged if (complaint := vital.complaint()) is not None]

    def not_ready(self) -> list[str]:
        """Name what keeps the worker from taking events; empty means ready."""
        reasons = []
        if self._is_draining():
            reasons.append("draining")
        consumer = self._consumer()
        if consumer is None or not consumer.has_partitions:
            reasons.append("no partitions assigned")
        if not self._redis_is_up():
            reasons.append("redis away")
        return reasons
