"""How a worker starts, drains and ends: the order of a stop, and the exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import structlog
from aiokafka.errors import KafkaConnectionError

from sluicegate.errors import ConfigurationError
from streams.runtime.app import StreamApp
from streams.runtime.runner import Fatal, WorkerParts, run_worker
from tests.waiting import wait_until

Service = Callable[[], Awaitable[None]]


class Journal:
    """Plays every part of a worker and writes down what was asked of it, in order."""

    def __init__(self, *, start_errors: Sequence[Exception] = ()) -> None:
        self.lines: list[str] = []
        self.fatal = Fatal()
        self.publish_timeout_s = 3.0
        self.in_worker = False
        self._start_errors = list(start_errors)

    # --- the app ----------------------------------------------------------------------------------

    def finalize(self) -> None:
        """Do nothing, as a real app does before its start."""

    async def start(self) -> None:
        """Start, or fail as the test wants."""
        self.lines.append("start")
        if self._start_errors:
            raise self._start_errors.pop(0)

    async def stop(self) -> None:
        """Commit and leave the group."""
        self.lines.append("leave")

    # --- the dispatcher and the calls -------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Finish what ends in time."""
        self.lines.append(f"drain {timeout_s:g}")
        return True

    async def forget(self, publish_timeout_s: float) -> None:
        """Drop the rest."""
        self.lines.append(f"forget {publish_timeout_s:g}")

    async def finished(self, timeout_s: float) -> bool:
        """Wait for calls on the wire."""
        self.lines.append(f"calls {timeout_s:g}")
        return True

    async def run(self, *, ready: Service | None = None, services: Sequence[Service] = ()) -> int:
        """Run a worker made of this journal."""

        async def at_once() -> None:
            return None

        parts = WorkerParts(
            build_app=lambda: cast(StreamApp, self),
            services=services,
            ready_to_start=ready or at_once,
            stop_intake=lambda: self.lines.append("stop intake"),
            release_waiters=lambda: self.lines.append("release waiters"),
            dispatcher=self,
            wire_calls=self,
            drain_s=20,
            call_timeout_s=60,
            log=structlog.get_logger(),
        )
        return await run_worker(parts, self.fatal)


async def test_sigterm_drains_in_the_order_that_is_written_down_and_exits_with_0() -> None:
    """Nothing is committed before it is finished, and the group is left before calls are waited for."""
    journal = Journal()
    running = asyncio.create_task(journal.run())
    await wait_until(lambda: "start" in journal.lines)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert journal.lines == [
        *("start", "stop intake", "release waiters", "drain 20", "forget 3", "leave", "calls 60")
    ]


async def test_a_fatal_error_stops_without_draining_and_exits_with_1() -> None:
    """After a crash nothing more is started."""
    journal = Journal()
    running = asyncio.create_task(journal.run())
    await wait_until(lambda: "start" in journal.lines)
    journal.fatal.report(RuntimeError("a bug of ours"))
    assert await running == 1
    assert "drain 0" in journal.lines
    assert journal.lines[-2:] == ["leave", "calls 60"]


async def test_what_cannot_work_is_never_started_and_exits_with_1() -> None:
    """A contradiction in the configuration ends the process before Faust begins."""

    async def never() -> None:
        raise ConfigurationError("uneven partitions")

    journal = Journal()
    assert await journal.run(ready=never) == 1
    assert journal.lines == []


async def test_a_service_that_ends_with_an_error_stops_the_worker() -> None:
    """A limiter or a clock that died must not leave a worker that looks alive."""

    async def dies() -> None:
        raise RuntimeError("a bug of ours")

    assert await Journal().run(services=(dies,)) == 1


async def test_a_broker_that_is_away_at_the_start_is_tried_again() -> None:
    """An unreachable broker is expected: the process stays and starts a new client."""
    journal = Journal(start_errors=[KafkaConnectionError("away")])
    running = asyncio.create_task(journal.run())
    await wait_until(lambda: journal.lines == ["start", "leave", "start"])
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_sigterm_while_waiting_for_kafka_exits_with_0() -> None:
    """A worker that never got to work has nothing to drain."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    journal = Journal()
    running = asyncio.create_task(journal.run(ready=for_ever))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert journal.lines == []
