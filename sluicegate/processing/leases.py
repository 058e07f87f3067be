"""Keeping the leases of steps in flight alive, all of a process in one round trip."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from time import monotonic

from sluicegate.errors import StateUnavailableError
from sluicegate.state.api import Lease, Steps
from sluicegate.telemetry.labels import Repair
from sluicegate.telemetry.metrics import Metrics

RENEW_EVERY_S = 2.0
# The lease's six less one, in which a call that is begun now reaches the wire.
_CERTAIN_S = 5.0


class LeaseKeeper:
    """Renews what is held every two seconds, a third of the lease's six, and knows what is surely ours.

    A process that stood still, or that Redis was away from, may have lost a lease to another one.
    """

    def __init__(
        self, steps: Steps, metrics: Metrics, stream: str, *, now_s: Callable[[], float] = monotonic
    ) -> None:
        """`now_s` is a clock that never goes back, and that goes on while the process stands still."""
        self._steps = steps
        self._lost_rounds = metrics.repairs.labels(stream=stream, kind=Repair.LEASE_ROUND_LOST)
        self.now_s = now_s
        self._ours_at_s: dict[Lease, float] = {}

    def __len__(self) -> int:
        """How many leases are being renewed."""
        return len(self._ours_at_s)

    def hold(self, lease: Lease, asked_at_s: float) -> None:
        """Renew this lease from now on."""
        self._ours_at_s[lease] = asked_at_s

    def drop(self, lease: Lease) -> None:
        """Renew it no more; unless it is released it ends by itself."""
        self._ours_at_s.pop(lease, None)

    def is_certain(self, lease: Lease) -> bool:
        """Whether nobody else can have this lease now, nor in the next second."""
        return self.now_s() - self._ours_at_s.get(lease, -math.inf) < _CERTAIN_S

    async def renew(self) -> None:
        """Renew all once. While Redis is away a round is lost and counted, and the next one tries again."""
        if not self._ours_at_s:
            return
        leases, asked_at_s = tuple(self._ours_at_s), self.now_s()
        try:
            ours = await self._steps.renew(leases)
        except StateUnavailableError:
            self._lost_rounds.inc()
            return
        for lease, is_ours in zip(leases, ours, strict=True):
            if lease in self._ours_at_s:  # else it was dropped meanwhile
                self._ours_at_s[lease] = asked_at_s if is_ours else -math.inf

    async def run(self) -> None:
        """Renew for ever, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()
