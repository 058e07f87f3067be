"""Publishing a stream's events from threads: checked, confirmed, and bounded in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Self

from sluicegate.errors import PublishError, Unconfirmed, UnconfirmedError
from sluicegate.events.making import Body, Envelope
from sluicegate.events.models import EventT
from sluicegate.kafka.publisher import OnSettled
from sluicegate.records import Origin
from sluicegate.services.outlet import Addressed, Outlet, Receipt
from sluicegate.services.room import ThreadRoom
from sluicegate.services.sendings import Sendings


class Publisher(Outlet[EventT]):
    """Publishes events of one stream as CloudEvents, from any number of threads.

    Every event is checked as the worker will check it before anything is sent, and counts only once all
    in-sync replicas have it. Use it as a context: leaving waits for what is on its way and raises
    UnconfirmedError for what the broker did not confirm. Make it after a fork, not before.

    All methods raise BadEventError for an event that the worker would refuse: it names at most a field.
    """

    def _open(self) -> None:
        self._room = ThreadRoom(self._room_of_all)
        self._sendings = Sendings()
        self._settled = threading.Condition()

    def publish(
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
        (future,) = self._begin([self._of(event, id, time, traceparent)])
        return _outcome(future, self._timeout_s)

    def publish_all(self, events: Iterable[Body | Envelope]) -> tuple[Receipt, ...]:
        """Check all events, then publish them in their order, and return once all are stored.

        Nothing is sent when one of them is wrong. Raises UnconfirmedError, which names each event that was
        not confirmed.
        """
        addressed = self._all_addressed(events)
        receipts: list[Receipt] = []
        failed: list[Unconfirmed] = []
        for each, future in zip(addressed, self._begin(addressed), strict=True):
            try:
                receipts.append(_outcome(future, self._timeout_s))
            except PublishError as exc:
                failed.append(Unconfirmed(id=each.id, error=exc))
        if failed:
            raise UnconfirmedError(failed, len(failed))
        return tuple(receipts)

    def send(
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
        with self._settled:
            token = self._sendings.start(addressed.id)

        def settled(outcome: Origin | PublishError) -> None:
            with self._settled:
                self._sendings.end(token, outcome if isinstance(outcome, PublishError) else None)
                self._settled.notify_all()

        try:
            self._hand_over(addressed, settled)
        except BaseException:
            with self._settled:
                self._sendings.end(token, None)
            raise
        return addressed.id

    def flush(self) -> None:
        """Wait for everything that was sent; UnconfirmedError names what was not confirmed."""
        with self._settled:
            # Twice: the broker's time begins only when a record has left our own queue.
            self._settled.wait_for(lambda: not self._sendings.under_way, 2 * self._timeout_s)
            error = self._sendings.settle()
        if error is not None:
            raise error

    def close(self) -> None:
        """Flush, and publish nothing any more; raises as `flush` does."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.flush()
        finally:
            self._kafka.close(timeout_s=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UnconfirmedError as unconfirmed:
            if error is None:
                raise
            error.add_note(str(unconfirmed))

    def _of(self, event: Body, id: str | None, time: datetime | None, traceparent: str | None) -> Addressed:
        return self._addressed(Envelope(event=event, id=id, time=time, traceparent=traceparent))

    def _begin(self, addressed: Iterable[Addressed]) -> list[Future[Receipt]]:
        futures: list[Future[Receipt]] = []
        for each in addressed:
            future: Future[Receipt] = Future()
            futures.append(future)
            try:
                self._hand_over(each, _settle(future, each.id))
            except PublishError as exc:
                future.set_exception(exc)
        return futures

    def _hand_over(self, addressed: Addressed, on_settled: OnSettled) -> None:
        if self._is_closed:
            raise PublishError("this publisher is closed")
        if not self._room.take(addressed.size_bytes, self._timeout_s):
            raise PublishError(self._no_room)

        def settled(outcome: Origin | PublishError) -> None:
            on_settled(outcome)
            self._room.give(addressed.size_bytes)

        self._send(addressed, settled)


def _settle(future: Future[Receipt], id: str) -> OnSettled:
    def settled(outcome: Origin | PublishError) -> None:
        if isinstance(outcome, PublishError):
            future.set_exception(outcome)
        else:
            future.set_result(Receipt(id=id, place=outcome))

    return settled


def _outcome(future: Future[Receipt], timeout_s: float) -> Receipt:
    with suppress(TimeoutError):
        return future.result(2 * timeout_s)
    raise PublishError("no confirmation in time")
