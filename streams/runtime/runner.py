"""How a worker starts, drains and ends: own signals, hard caps, exit codes.

Faust's own command line is not used: with a stuck event its SIGTERM never exits, and a broker that is
down takes it a minute.

Order of a stop, written down once: take nothing, let mere waiters go, finish and publish what ends
within `drain_s`, commit, leave the group, let calls on the wire end and be memoised, exit.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from aiokafka.errors import KafkaConnectionError
from structlog.typing import FilteringBoundLogger

from sluicegate.errors import SluicegateError
from streams.runtime.app import StreamApp

_STOP_TIMEOUT_S = 10.0
_START_RETRY_S = 1.0

Service = Callable[[], Awaitable[None]]


class Drainable(Protocol):
    """What the runner needs of the dispatcher."""

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing more and wait for what runs; False when not all of it ended in time."""

    async def forget(self, publish_timeout_s: float) -> None:
        """Drop what is left but publishes under way, which get the timeout."""


class WireCalls(Protocol):
    """What the runner needs of the calls on the wire."""

    async def finished(self, timeout_s: float) -> bool:
        """Return when no call is on the wire, at the latest after the timeout."""


@dataclass(kw_only=True)
class Fatal:
    """Where anything reports what the process cannot go on with. The first report counts."""

    first: BaseException | None = None
    _reported: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, error: BaseException) -> None:
        """Stop the process with exit code 1."""
        if self.first is None:
            self.first = error
        self._reported.set()

    async def wait(self) -> None:
        """Return once anything was reported."""
        await self._reported.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """Everything a worker runs, built by the composition root.

    `services` run as long as the process; `ready_to_start` returns once Kafka and Redis answered and the
    topics are right, and raises ConfigurationError when they never will be.
    """

    build_app: Callable[[], StreamApp]
    services: Sequence[Service]
    ready_to_start: Service
    stop_intake: Callable[[], None]
    release_waiters: Callable[[], None]
    dispatcher: Drainable
    wire_calls: WireCalls
    drain_s: float
    call_timeout_s: float
    log: FilteringBoundLogger


async def run_worker(parts: WorkerParts, fatal: Fatal) -> int:
    """Run until SIGTERM, SIGINT or a fatal error; return the exit code: 0 drained, 1 crashed."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    services = [asyncio.create_task(_guarded(service, fatal)) for service in parts.services]
    ending = asyncio.ensure_future(_first_of(stop.wait(), fatal.wait()))
    starting = asyncio.create_task(_start(parts, fatal))
    await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([ending])
    app = await _started_or_cancelled(starting)
    if app is not None:
        # After a crash nothing more is started; what is being published still gets its moment.
        await _stop(parts, app, drain_s=parts.drain_s if fatal.first is None else 0.0)
    for service in services:
        service.cancel()
    await asyncio.wait([ending, *services], timeout=_STOP_TIMEOUT_S)
    return _exit_code(parts, fatal)


async def _start(parts: WorkerParts, fatal: Fatal) -> StreamApp | None:
    """Return the started app; None when starting failed for good, which `fatal` then knows."""
    try:
        await parts.ready_to_start()
        while True:
            app = parts.build_app()
            app.finalize()
            app.in_worker = True
            try:
                await app.start()
            except KafkaConnectionError as error:
                # Expected while a broker restarts: stay, not ready, and try again with a new client.
                parts.log.warning("worker.kafka_unreachable", error=type(error).__name__)
                await _leave(parts, app)
                await asyncio.sleep(_START_RETRY_S)
            except BaseException:
                # Half started it may be a member already: without a LeaveGroup its partitions would idle.
                await _leave(parts, app)
                raise
            else:
                return app
    except Exception as error:  # noqa: BLE001 - whatever stops the start stops the process
        fatal.report(error)
        return None


async def _guarded(service: Service, fatal: Fatal) -> None:
    try:
        await service()
    except Exception as error:  # noqa: BLE001 - a service that ends stops the process
        fatal.report(error)


async def _first_of(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _started_or_cancelled(starting: asyncio.Task[StreamApp | None]) -> StreamApp | None:
    if not starting.done():
        starting.cancel()
        # mode swallows a cancellation while it starts or stops: wait, but not for ever.
        await asyncio.wait([starting], timeout=2 * _STOP_TIMEOUT_S)
    if not starting.done() or starting.cancelled():
        return None
    return starting.result()


async def _stop(parts: WorkerParts, app: StreamApp, *, drain_s: float) -> None:
    parts.stop_intake()
    parts.release_waiters()
    started_at = monotonic()
    drained = await parts.dispatcher.drain(drain_s)
    await parts.dispatcher.forget(app.publish_timeout_s)
    parts.log.info("worker.drained", complete=drained, seconds=round(monotonic() - started_at, 2))
    await _leave(parts, app)
    if not await parts.wire_calls.finished(parts.call_timeout_s):
        parts.log.warning("worker.calls_abandoned", seconds=parts.call_timeout_s)


async def _leave(parts: WorkerParts, app: StreamApp) -> None:
    """Commit and leave the group, bounded; an error of it is logged and hides none of before."""
    leaving = asyncio.ensure_future(app.stop())
    _, pending = await asyncio.wait([leaving], timeout=_STOP_TIMEOUT_S)
    if pending:
        parts.log.warning("worker.leaving_timed_out", seconds=_STOP_TIMEOUT_S)
    elif not leaving.cancelled() and (error := leaving.exception()) is not None:
        parts.log.warning("worker.leaving_failed", error=type(error).__name__)


def _exit_code(parts: WorkerParts, fatal: Fatal) -> int:
    error = fatal.first
    if error is None:
        return 0
    if isinstance(error, SluicegateError):
        parts.log.error("worker.failed", error=str(error))
    else:
        parts.log.error("worker.crashed", error=type(error).__name__, exc_info=error)
    return 1
