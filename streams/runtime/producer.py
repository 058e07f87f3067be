"""Faust's producer made idempotent, and confirmed publishing through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import faust
from aiokafka import errors
from faust.exceptions import ProducerSendError
from faust.transport.drivers import aiokafka as driver

from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.records import OutgoingRecord

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_REFUSALS = (
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.InvalidTopicError,
    errors.UnknownTopicOrPartitionError,
)


class SecuredApp(Protocol):
    """What the producer asks of its app: aiokafka's security arguments."""

    security: Mapping[str, Any]


class IdempotentProducer(driver.Producer):
    """A producer whose retries never store a record twice."""

    def _settings_auth(self) -> Mapping[str, Any]:
        return cast(SecuredApp, self.app).security

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class FaustPublisher:
    """Publishes through the app's producer and returns when all in-sync replicas have the record."""

    def __init__(self, app: Callable[[], faust.App], *, timeout_s: float) -> None:
        """`app` returns the running app: it is made anew when the broker is away at the start."""
        self._app = app
        self._timeout_s = timeout_s

    async def publish(self, record: OutgoingRecord) -> None:
        """Publish one record. Raises PublishRefusedError or PublishError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                # `send` returns when the record is buffered: only its future says that it is stored.
                confirmed = await self._app().producer.send(
                    record.topic, record.key, record.value, record.partition, None, list(record.headers)
                )
                await confirmed
        except ProducerSendError as error:
            raise _translate(error.__cause__ or error, record.topic) from error
        except (errors.KafkaError, TimeoutError) as error:
            raise _translate(error, record.topic) from error


def _translate(error: BaseException, topic: str) -> PublishError:
    name = type(error).__name__
    if isinstance(error, _TOO_LARGE):
        return RecordTooLargeError(f"the record is larger than {topic} takes")
    if isinstance(error, _REFUSALS):
        return PublishRefusedError(f"the broker refuses records for {topic}: {name}")
    return PublishError(f"no confirmation for a record on {topic}: {name}")
