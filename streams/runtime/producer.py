"""Faust's producer made idempotent, and confirmed publishing through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast

import faust
from aiokafka import errors
from aiokafka.producer.transaction_manager import NO_PRODUCER_EPOCH, NO_PRODUCER_ID, PidAndEpoch
from aiokafka.util import create_future
from faust.transport.drivers import aiokafka as driver

from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.records import OutgoingRecord
from sluicegate.telemetry.pulse import TimedWork

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_REFUSALS = (
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.InvalidTopicError,
)
# An unknown topic is none of them: aiokafka calls one so that is new to it while the broker is away.


class SecuredApp(Protocol):
    """What the producer asks of its app: aiokafka's security arguments."""

    security: Mapping[str, Any]


class IdempotentProducer(driver.Producer):
    """A producer whose retries never store a record twice."""

    def _settings_auth(self) -> Mapping[str, Any]:
        return cast(SecuredApp, self.app).security

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    def begin_anew(self) -> None:
        """Take another producer id before anything more is sent: something was given up.

        The broker takes what one producer sends to a partition without gaps or not at all. aiokafka
        numbers a batch when it first takes it up, and never again: behind one that was refused, or that
        expired unsent, everything else would be refused as out of order, for ever. Java's client counts
        anew in the same way. A batch that is being repeated keeps the number it has.
        """
        manager = self._producer._txn_manager if self._producer is not None else None
        if manager is not None and manager.has_pid():
            manager._pid_and_epoch = PidAndEpoch(NO_PRODUCER_ID, NO_PRODUCER_EPOCH)
            manager._pid_waiter = create_future()
            manager._sequence_numbers.clear()

    async def send_alone(self, record: OutgoingRecord) -> Awaitable[object]:
        """Buffer a record in a batch of its own; what it returns is confirmed as `send`'s is."""
        producer = self._ensure_producer()
        batch = producer.create_batch()
        batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
        batch.close()
        partition = producer._partition(
            record.topic, record.partition, record.key, record.value, record.key, record.value
        )
        return cast(Awaitable[object], await producer.send_batch(batch, record.topic, partition=partition))

    @property
    def has_failed(self) -> bool:
        """Whether the task that sends died of an error: nothing will ever be sent again."""
        task = self._producer._sender.sender_task if self._producer is not None else None
        return task is not None and task.done() and not task.cancelled() and task.exception() is not None


_Send = Callable[[IdempotentProducer, OutgoingRecord], Awaitable[Awaitable[object]]]


class FaustPublisher:
    """Publishes through the app's producer and returns when all in-sync replicas have the record."""

    def __init__(self, app: Callable[[], faust.App], *, timeout_s: float, watched: TimedWork) -> None:
        """`app` returns the running app: it is made anew when the broker is away at the start."""
        self._app = app
        self._timeout_s = timeout_s
        self._watched = watched
        self._alone = asyncio.Lock()

    async def publish(self, record: OutgoingRecord) -> None:
        """Publish one record. Raises PublishRefusedError or PublishError."""
        producer = cast(IdempotentProducer, self._app().producer)  # the transport's, see app.py
        try:
            await self._confirm(producer, record, _send)
        except RecordTooLargeError:
            # A topic's limit is one of batches: this record may only have been in large company. One at a
            # time: aiokafka takes a batch of one's own only where none waits, and those who wait run out.
            async with self._alone:
                await self._confirm(producer, record, IdempotentProducer.send_alone)

    async def _confirm(self, producer: IdempotentProducer, record: OutgoingRecord, send: _Send) -> None:
        ended = self._watched.begun(self._timeout_s)
        stored: Awaitable[object] | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                # Sending returns when the record is buffered: only its future says that it is stored.
                stored = await send(producer, record)
                await stored
        except (errors.KafkaError, TimeoutError) as error:
            raise _given_up(producer, error, record.topic, was_buffered=stored is not None) from error
        finally:
            ended()


async def _send(producer: IdempotentProducer, record: OutgoingRecord) -> Awaitable[object]:
    # Not by Faust's own `send`, which sends a signal for every record and hides what went wrong.
    kafka = producer._ensure_producer()
    return cast(
        Awaitable[object],
        await kafka.send(
            record.topic, record.value, record.key, record.partition, headers=list(record.headers)
        ),
    )


def _given_up(
    producer: IdempotentProducer, error: Exception, topic: str, *, was_buffered: bool
) -> PublishError:
    """Say what a failed publish means, and leave a producer that can go on."""
    if producer.has_failed:
        return PublishRefusedError(f"the producer ended, nothing reaches {topic} any more")
    if was_buffered and isinstance(error, errors.KafkaError):
        # Not after a timeout of ours: that record may still be sent, under the number it has. Nor after an
        # error of sending, which comes before the record is numbered.
        producer.begin_anew()
    return _translate(error, topic)


def _translate(error: BaseException, topic: str) -> PublishError:
    name = type(error).__name__
    if isinstance(error, _TOO_LARGE):
        return RecordTooLargeError(f"the record is larger than {topic} takes")
    if isinstance(error, _REFUSALS):
        return PublishRefusedError(f"the broker refuses records for {topic}: {name}")
    return PublishError(f"no confirmation for a record on {topic}: {name}")
