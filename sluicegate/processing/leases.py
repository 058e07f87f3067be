"""Keeping the leases of steps in flight alive, all of a process in one round trip."""

from __future__ import annotations

import asyncio

from sluicegate.errors import StateUnavailableError
from sluicegate.state.api import Lease, Steps
from sluicegate.telemetry.labels import Repair
from sluicegate.telemetry.metrics import Metrics

RENEW_EVERY_S = 2.0


class LeaseKeeper:
    """Renews what is held every two seconds, a third of the lease's six."""

    def __init__(self, steps: Steps, metrics: Metrics, stream: str) -> None:
        self._steps = steps
        self._lost_rounds = metrics.repairs.labels(stream=stream, kind=Repair.LEASE_ROUND_LOST)
        self._held: set[Lease] = set()

    def __len__(self) -> int:
        """How many leases are being renewed."""
        return len(self._held)

    def hold(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        self._held.add(lease)

    def drop(self, lease: Lease) -> None:
        """Renew it no more; unless it is released it ends by itself."""
        self._held.discard(lease)

    async def renew(self) -> None:
        """Renew all once. While Redis is away a round is lost and counted, and the next one tries again."""
        if not self._held:
            return
        try:
            await self._steps.renew(tuple(self._held))
        except StateUnavailableError:
            self._lost_rounds.inc()

    async def run(self) -> None:
        """Renew for ever, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()
