"""Eyes on aiokafka's coordinator and fetcher: each of their steps says how long it may take.

A broker that is away, or that swallows requests, keeps both turning: they ask again, and each request has
its timeout. Only a step that overstays its own time, or a routine that does not come round, is stuck.

All of it runs in the consumer's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from sluicegate.telemetry.pulse import STUCK_S, Pulse
from streams.runtime.liveness import Vitals

_JOINING = (JoinGroupRequest, SyncGroupRequest)
_LONGEST_HEARTBEAT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the steps of a consumer may take, in seconds. `revoke_s` is for letting an assignment go."""

    session_timeout_s: float
    request_timeout_s: float
    revoke_s: float

    @property
    def heartbeat_s(self) -> float:
        """How long a heartbeat may take: past the session's end its answer serves nothing."""
        return min(self.session_timeout_s, _LONGEST_HEARTBEAT_S)

    @property
    def asking_s(self) -> float:
        """How long one question may take: connecting and answering have the timeout each."""
        return 2 * self.request_timeout_s


def watch_coordinator(coordinator: Any, vitals: Vitals, patience: Patience) -> None:
    """Make the coordinator show its heartbeats and its rebalances."""
    heartbeat, answered, rebalance = vitals.heartbeat, vitals.answered, vitals.rebalance
    beat, send = coordinator._do_heartbeat, coordinator._send_req
    prepare = coordinator._on_join_prepare
    start, stop = coordinator._start_heartbeat_task, coordinator._stop_heartbeat_task

    async def do_heartbeat() -> bool:
        heartbeat.beat(patience.heartbeat_s + STUCK_S)
        try:
            async with asyncio.timeout(patience.heartbeat_s):
                alive = bool(await beat())
        except TimeoutError:
            return False
        finally:
            heartbeat.beat()
        if alive:
            answered.beat()
        return alive

    async def send_req(request: Any) -> Any:
        if not isinstance(request, _JOINING):
            return await send(request)
        rebalance.beat(patience.asking_s)
        try:
            return await send(request)
        finally:
            rebalance.beat()

    async def on_join_prepare(assignment: Any) -> None:
        rebalance.beat(patience.revoke_s)
        # A member that the group has dropped already makes no heartbeats here; the others go on beating.
        heartbeat.rest()
        answered.rest()
        await prepare(assignment)
        rebalance.beat()

    def start_heartbeat_task() -> None:
        start()
        heartbeat.beat()
        answered.beat()
        rebalance.rest()

    async def stop_heartbeat_task() -> None:
        await stop()
        heartbeat.rest()
        answered.rest()

    coordinator._do_heartbeat = do_heartbeat
    coordinator._send_req = send_req
    coordinator._on_join_prepare = on_join_prepare
    coordinator._start_heartbeat_task = start_heartbeat_task
    coordinator._stop_heartbeat_task = stop_heartbeat_task
    client = coordinator._client
    client.coordinator_lookup = _looking(client, (heartbeat, rebalance), patience)


def _looking(client: Any, pulses: tuple[Pulse, ...], patience: Patience) -> Callable[..., Awaitable[Any]]:
    """Return a search for the coordinator that shows that it goes on, in vain or not."""
    lookup = client.coordinator_lookup

    def extend(within_s: float) -> None:
        for pulse in pulses:
            pulse.extend(within_s)

    async def coordinator_lookup(*args: Any) -> Any:
        extend(patience.asking_s)
        try:
            found = await lookup(*args)
        except BaseException:
            # What comes next asks every broker for the metadata, one after the other.
            extend(patience.asking_s * (1 + len(client.cluster.brokers())))
            raise
        extend(patience.asking_s)  # what comes next connects to it
        return found

    return coordinator_lookup


def watch_fetcher(fetcher: Any, vitals: Vitals, patience: Patience) -> None:
    """Make the fetcher show its turns, which it takes several times a second, and each of its requests."""
    actions, process = fetcher._get_actions_per_node, fetcher._proc_fetch_request

    def get_actions_per_node(assignment: Any) -> Any:
        vitals.fetcher.beat()
        return actions(assignment)

    async def proc_fetch_request(*args: Any) -> Any:
        with vitals.fetches.within(patience.asking_s):
            return await process(*args)

    fetcher._get_actions_per_node = get_actions_per_node
    fetcher._proc_fetch_request = proc_fetch_request
