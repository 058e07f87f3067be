"""The simulator as a process: it listens, says where, and ends at once when it is told to."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable

import orjson
from aiohttp import web

from sluicegate.errors import StackError
from sluicegate.local.provider.app import build_app
from sluicegate.local.provider.simulator import Configuration, Simulator

_BACKLOG = 2048
# Calls at work are cut off: who ends a provider in the middle wants to see just that.
_SHUTDOWN_TIMEOUT_S = 0.05


async def serve(configuration: Configuration, *, host: str, port: int) -> None:
    """Listen until SIGTERM or SIGINT; the address goes to stdout as one JSON line. Port 0 takes a free one.

    Raises StackError when the port is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    simulator = Simulator(
        configuration, now_s=steady_wall_clock(), random=random.Random(configuration.seed).random
    )
    runner = web.AppRunner(
        build_app(simulator),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError as exc:
            raise StackError(
                f"cannot listen on {host}:{port}: {exc.strerror}; choose another --port"
            ) from exc
        _announce(host, runner.addresses[0][1])
        await stop.wait()
    finally:
        await runner.cleanup()


def steady_wall_clock() -> Callable[[], float]:
    """Return a clock of Unix seconds that is set once and never steps back."""
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()


def _announce(host: str, port: int) -> None:
    address = f"http://{host}:{port}"
    line = {"address": address, "base_url": f"{address}/v1", "port": port, "pid": os.getpid()}
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()
