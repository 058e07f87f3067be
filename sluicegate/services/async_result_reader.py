"""Reading a stream's results in an event loop: typed, once for each id, committed when handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from sluicegate.events.models import ResultT
from sluicegate.records import Record
from sluicegate.services.inlet import Inlet
from sluicegate.services.received import Received

_POLL_S: Final = 0.25


class AsyncResultReader(Inlet[ResultT]):
    """Gives a stream's results one by one to one coroutine at a time.

    Promises what `ResultReader` does, with the same errors. Waiting for a result may be cancelled: what
    arrived meanwhile is given next time.
    """

    _asking: asyncio.Future[Record | None] | None = None
    _thread: ThreadPoolExecutor | None = None

    async def next_result(self, timeout_s: float) -> Received[ResultT] | None:
        """Call the result in hand handled and return the next one; None when there was none in time.

        Raises BadResultError (see `on_bad`), which comes again until the record is passed, and BrokerError
        when Kafka refuses the reader or does not say where its group stands: make the reader anew then.
        """
        self._handled()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            record = await self._polled(min(max(deadline - loop.time(), 0.0), _POLL_S))
            received = None if record is None else self._take(record)
            if received is not None or (record is None and loop.time() >= deadline):
                return received

    async def __aiter__(self) -> AsyncIterator[Received[ResultT]]:
        while not self._is_closed:
            received = await self.next_result(_POLL_S)
            if received is not None:
                yield received

    async def close(self) -> None:
        """Commit what was handled and leave the group; what is in hand is left to the next reader."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._asking is not None:
            await asyncio.wait([self._asking])
        await asyncio.to_thread(self._source.close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._handled()
        finally:
            await self.close()

    async def _polled(self, timeout_s: float) -> Record | None:
        """Poll in a thread of the reader's own; a poll whose waiter was cancelled is the next one's."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="results")
        if self._asking is None:
            loop = asyncio.get_running_loop()
            self._asking = loop.run_in_executor(self._thread, self._source.poll, timeout_s)
        try:
            record = await asyncio.shield(self._asking)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._asking = None
            raise
        self._asking = None
        return record
