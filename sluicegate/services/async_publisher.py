"""Publishing a stream's events from an event loop: checked, confirmed, and bounded in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from sluicegate.errors import PublishError, Unconfirmed, UnconfirmedError
from sluicegate.events.making import Body, Envelope
from sluicegate.events.models import EventT
from sluicegate.kafka.publisher import OnSettled, in_loop
from sluicegate.records import Origin
from sluicegate.services.outlet import Addressed, Outlet, Receipt
from sluicegate.services.room import LoopRoom
from sluicegate.services.sendings import Sendings


class AsyncPublisher(Outlet[EventT]):
    """Publishes events of one stream as CloudEvents, from the coroutines of one event loop.

    Promises what `Publisher` does, with the same errors. A call that is cancelled may have been stored.
    """

    def _open(self) -> None:
        self._room = LoopRoom(self._room_of_all)
        self._sendings = Sendings()
        self._all_settled = asyncio.Event()

    async def publish(
        self,
        event: Body,
        *,
        id: str | None = None,
        time: datetime | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """Return once the event is stored. `id`, `time` and `traceparent` are as in `Envelope`.

        Raises PublishRefusedError when the broker never will store it, PublishError when nobody knows
        whether it did: publish it again under the same id.
        """
        addressed = self._of(event, id, time, traceparent)
        return await self._outcome(await self._begin(addressed), addressed.id)

    async def publish_all(self, events: Iterable[Body | Envelope]) -> tuple[Receipt, ...]:
        """Check all events, then publish them in their order, and return once all are stored.

        Nothing is sent when one of them is wrong. Raises UnconfirmedError, which names each event that was
        not confirmed.
        """
        addressed = self._all_addressed(events)
        begun = [await self._begin(each) for each in addressed]
        receipts: list[Receipt] = []
        failed: list[Unconfirmed] = []
        for each, future in zip(addressed, begun, strict=True):
            try:
                receipts.append(await self._outcome(future, each.id))
            except PublishError as exc:
                failed.append(Unconfirmed(id=each.id, error=exc))
        if failed:
            raise UnconfirmedError(failed, len(failed))
        return tuple(receipts)

    async def send(
        self,
        event: Body,
        *,
        id: str | None = None,
        time: datetime | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Hand the event over without waiting for its confirmation, and return its `ce_id`.

        Waits while too much is on its way; PublishError when there was no room within `timeout_s`, and
        the event is not sent. What fails later is reported by `flush` or when the context is left.
        """
        addressed = self._of(event, id, time, traceparent)
        await self._take_room(addressed)
        token = self._sendings.start(addressed.id)

        def settled(outcome: Origin | PublishError) -> None:
            self._sendings.end(token, outcome if isinstance(outcome, PublishError) else None)
            if not self._sendings.under_way:
                self._all_settled.set()

        self._hand_over(addressed, settled)
        return addressed.id

    async def flush(self) -> None:
        """Wait for everything that was sent; UnconfirmedError names what was not confirmed."""
        try:
            # Twice: the broker's time begins only when a record has left our own queue.
            async with asyncio.timeout(2 * self._timeout_s):
                while self._sendings.under_way:
                    self._all_settled.clear()
                    await self._all_settled.wait()
        except TimeoutError:
            pass  # what is still under way is settled as failed
        error = self._sendings.settle()
        if error is not None:
            raise error

    async def close(self) -> None:
        """Flush, and publish nothing any more; raises as `flush` does."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self.flush()
        finally:
            await asyncio.to_thread(self._kafka.close, 1.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except UnconfirmedError as unconfirmed:
            if error is None:
                raise
            error.add_note(str(unconfirmed))

    def _of(self, event: Body, id: str | None, time: datetime | None, traceparent: str | None) -> Addressed:
        return self._addressed(Envelope(event=event, id=id, time=time, traceparent=traceparent))

    async def _begin(self, addressed: Addressed) -> asyncio.Future[Origin | PublishError]:
        """Hand the record over; what became of it is the future's result, errors included."""
        future: asyncio.Future[Origin | PublishError] = asyncio.get_running_loop().create_future()

        def settled(outcome: Origin | PublishError) -> None:
            if not future.done():
                future.set_result(outcome)

        try:
            await self._take_room(addressed)
        except PublishError as exc:
            settled(exc)
        else:
            self._hand_over(addressed, settled)
        return future

    async def _take_room(self, addressed: Addressed) -> None:
        if self._is_closed:
            raise PublishError("this publisher is closed")
        if not await self._room.take(addressed.size_bytes, self._timeout_s):
            raise PublishError(self._no_room)

    def _hand_over(self, addressed: Addressed, on_settled: OnSettled) -> None:
        loop = asyncio.get_running_loop()

        def settle(outcome: Origin | PublishError) -> None:
            on_settled(outcome)
            self._room.give(addressed.size_bytes)

        # Confirmations arrive in the polling thread; everything that is counted is counted in the loop.
        self._send(addressed, lambda outcome: in_loop(loop, lambda: settle(outcome)))

    async def _outcome(self, future: asyncio.Future[Origin | PublishError], id: str) -> Receipt:
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                outcome = await future
        except TimeoutError:
            outcome = PublishError("no confirmation in time")
        if isinstance(outcome, PublishError):
            raise outcome
        return Receipt(id=id, place=outcome)
