"""Publishing that counts only when the broker has confirmed it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sluicegate.errors import PublishError, PublishRefusedError, RecordTooLargeError
from sluicegate.kafka.config import producer_config
from sluicegate.records import Origin, OutgoingRecord

OnDone = Callable[[PublishError | None], None]
OnSettled = Callable[[Origin | PublishError], None]

# Errors that the same record meets again, however often it is sent.
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_REFUSED = frozenset(
    {
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_POLL_S = 0.1
_FLUSH_POLL_S = 0.01
_BY_KEY = -1
_NO_OFFSET = -1
_BATCH_RECORDS = 10_000  # far below the 100,000 that librdkafka's queue takes


class ConfluentPublisher:
    """An idempotent producer whose every record is confirmed by all in-sync replicas, or reported.

    `send`, `poll` and `publish_all` are for programs with a loop of their own; `publish` is for asyncio
    and starts a thread that polls. `timeout_s` bounds each record's way to its confirmation.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        client_id: str,
        timeout_s: float = 30.0,
        linger_ms: int = 5,
        security: Mapping[str, str] | None = None,
    ) -> None:
        """`security` holds librdkafka's own `security.*`, `sasl.*` and `ssl.*` settings."""
        self._config = producer_config(
            bootstrap_servers,
            client_id=client_id,
            timeout_s=timeout_s,
            linger_ms=linger_ms,
            security=security,
        )
        self._timeout_s = timeout_s
        self._producer = Producer(self._config)
        self._retired: list[Producer] = []
        self._renewing = threading.Lock()
        self._poller: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def unconfirmed(self) -> int:
        """How many records wait for their confirmation."""
        return len(self._producer) + sum(map(len, self._retired))

    def send(self, record: OutgoingRecord, on_done: OnDone) -> None:
        """Hand a record over; `on_done` gets None or the error, from within `poll` or before this returns."""
        self.hand_over(
            record, lambda outcome: on_done(outcome if isinstance(outcome, PublishError) else None)
        )

    def hand_over(self, record: OutgoingRecord, on_settled: OnSettled) -> None:
        """Do the same for who wants to know where the record lies; its offset is -1 where nobody can say."""
        producer = self._producer

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                on_settled(_place_of(message, record.topic))
                return
            if error.fatal():
                self._renew(producer)
            on_settled(_translated(error, record.topic))

        try:
            producer.produce(
                record.topic,
                record.value,
                record.key,
                partition=_BY_KEY if record.partition is None else record.partition,
                headers=list(record.headers),
                on_delivery=report,
            )
        except BufferError:
            on_settled(
                PublishError(f"{record.topic}: {self.unconfirmed} records wait for the broker already")
            )
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if error.fatal():
                self._renew(producer)
            on_settled(_translated(error, record.topic))

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve the confirmations that have arrived; wait this long for the first one."""
        for retired in self._retired:
            self._poll_one(retired, 0)
        with self._renewing:
            self._retired = [retired for retired in self._retired if len(retired)]
        self._poll_one(self._producer, timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until every record sent is confirmed or reported; False when the time was over first."""
        deadline = time.monotonic() + timeout_s
        while self.unconfirmed and time.monotonic() < deadline:
            self.poll(_FLUSH_POLL_S)
        return not self.unconfirmed

    def publish_all(self, records: Sequence[OutgoingRecord]) -> tuple[PublishError | None, ...]:
        """Publish the records and return one outcome each, in their order: None when confirmed."""
        outcomes: list[PublishError | None] = [PublishError("not confirmed in time")] * len(records)
        pending = set(range(len(records)))

        def done(index: int) -> OnDone:
            def set_outcome(error: PublishError | None) -> None:
                outcomes[index] = error
                pending.discard(index)

            return set_outcome

        for index, record in enumerate(records):
            while self.unconfirmed >= _BATCH_RECORDS:
                self.poll(_POLL_S)
            self.send(record, done(index))
        # Bounded: each record is confirmed or reported within the timeout.
        while pending:
            self.poll(_POLL_S)
        return tuple(outcomes)

    async def publish(self, record: OutgoingRecord) -> None:
        """Return once the record is stored.

        Raises RecordTooLargeError when its topic takes no record of this size, PublishRefusedError when it
        never will be stored for another reason, PublishError when that is not known.
        """
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()

        def settle(error: PublishError | None) -> None:
            if confirmed.done():
                return
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self.start_polling()
        self.send(record, lambda error: in_loop(loop, lambda: settle(error)))
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await confirmed
        except TimeoutError as exc:
            raise PublishError(f"no confirmation from {record.topic} in time") from exc

    def start_polling(self) -> None:
        """Serve confirmations from a thread of this publisher's own, until it is closed."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll_until_closed, name="publisher", daemon=True)
            self._poller.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait for what is under way, at most this long, and stop."""
        self.flush(timeout_s)
        self._closed.set()
        if self._poller is not None:
            self._poller.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _renew(self, failed: Producer) -> None:
        # After a fatal error an idempotent producer takes nothing any more: a new one goes on, and the
        # old one is polled until it has reported what it held.
        with self._renewing:
            if self._producer is failed:
                self._retired = [*self._retired, failed]
                self._producer = Producer(self._config)

    def _poll_one(self, producer: Producer, timeout_s: float) -> None:
        try:
            producer.poll(timeout_s)
        except KafkaException as exc:
            # A fatal error is raised here once; what the producer held is reported to its own callbacks.
            if not exc.args[0].fatal():
                raise PublishError(exc.args[0].str()) from exc
            self._renew(producer)

    def _poll_until_closed(self) -> None:
        while not self._closed.is_set():
            self.poll(_POLL_S)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Run the call in the loop, from any thread; a loop that has ended waits for no answer."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def _place_of(message: Message, topic: str) -> Origin:
    partition, offset = message.partition(), message.offset()
    return Origin(
        topic=topic,
        partition=_BY_KEY if partition is None else partition,
        offset=_NO_OFFSET if offset is None or offset < 0 else offset,
    )


def _translated(error: KafkaError, topic: str) -> PublishError:
    text = f"{topic}: {error.str()}"
    if error.code() in _TOO_LARGE:
        return RecordTooLargeError(text)
    return PublishRefusedError(text) if error.code() in _REFUSED else PublishError(text)
