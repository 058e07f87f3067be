"""The health port: is the process alive, is it ready, and its metrics.

`HealthServer` lives in an event loop. `HealthThread` gives it one in a thread of its own, so that a loop
that is stuck, or a poll that blocks, is named in an answer instead of making none.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sluicegate.errors import ConfigurationError

PORT_TAKEN = "health.port_taken"
LISTENING = "health.listening"

Reasons = Callable[[], list[str]]

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 2.0

_log = structlog.get_logger()


class HealthServer:
    """Serves /livez, /readyz and /metrics while it is entered (`async with`).

    `live` and `ready` name what is wrong; no reasons is 200, any is 503 with the reasons as JSON. Raises
    ConfigurationError on entering when the address cannot be had; a taken port is one only if it is fixed.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        port_is_fixed: bool,
        registry: CollectorRegistry,
        live: Reasons,
        ready: Reasons,
    ) -> None:
        """`port` 0 takes a free one; `port_is_fixed`: somebody relies on it, so no other will do."""
        self._host = host
        self._wanted_port = port
        self._port_is_fixed = port_is_fixed
        self._registry = registry
        self._live = live
        self._ready = ready
        self._runner: web.AppRunner | None = None
        self.port: int | None = None

    async def __aenter__(self) -> HealthServer:
        listener = await self._listen()
        self.port = listener.getsockname()[1]
        app = web.Application()
        app.router.add_get("/livez", self._answer_live)
        app.router.add_get("/readyz", self._answer_ready)
        app.router.add_get("/metrics", self._answer_metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_S)
        try:
            await runner.setup()
            await web.SockSite(runner, listener).start()
        except BaseException:
            listener.close()
            await runner.cleanup()
            raise
        self._runner = runner
        _log.info(LISTENING, host=self._host, port=self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self) -> socket.socket:
        """Bind by hand: a name with several addresses would get a free port for each of them."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host, self._wanted_port, type=socket.SOCK_STREAM
            )
            family, _, _, _, address = found[0]
            try:
                return _bound(family, address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or self._port_is_fixed:
                    raise
                _log.warning(PORT_TAKEN, port=self._wanted_port, next="takes a free one")
                return _bound(family, (address[0], 0, *address[2:]))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self._host}:{self._wanted_port} ({error.strerror}): "
                "set [http] host and port, or port = 0 for a free one"
            ) from error

    async def _answer_live(self, _: web.Request) -> web.Response:
        return _verdict(self._live())

    async def _answer_ready(self, _: web.Request) -> web.Response:
        return _verdict(self._ready())

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class HealthThread:
    """A HealthServer in a thread of its own, for as long as it is entered (`with`).

    `live` and `ready` of the server are called in that thread: they may only read.
    """

    def __init__(self, server: HealthServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def __enter__(self) -> HealthServer:
        self._thread.start()
        self._started.result(timeout=_START_TIMEOUT_S)
        return self._server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, stop = self._started.result(timeout=0)
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(2 * _STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        async with self._server:
            self._started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # only now a second listener on the port is found out
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _verdict(reasons: list[str]) -> web.Response:
    if reasons:
        return web.json_response({"status": "failing", "reasons": reasons}, status=503)
    return web.json_response({"status": "ok", "reasons": []})
