"""The TCP proxies of a run, in an event loop of their own thread: the conductor's threads may block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from tests.fixtures.tcp_proxy import TcpProxy

_TIMEOUT_S = 10.0


class Proxies:
    """Opens proxies, and does to them what is asked from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_S)
        self._loop.close()

    def open(self, target_port: int, *, listen_port: int = 0) -> TcpProxy:
        """Return a running proxy before a port."""
        proxy = TcpProxy(target_port, listen_port=listen_port)
        entered = self._stack.enter_async_context(proxy)
        return asyncio.run_coroutine_threadsafe(entered, self._loop).result(_TIMEOUT_S)

    def do(self, action: Callable[[], None]) -> None:
        """Do something to a proxy, and return when it is done."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(_TIMEOUT_S)
