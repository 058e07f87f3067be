"""Reading a topic while it is written, to note when a reader has what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, Message, TopicPartition

_POLL_S = 0.05
_BATCH_RECORDS = 500


class TopicTail:
    """Hands each record of a topic, from its beginning, to `note` with the Unix time at which it was there.

    In a thread of its own, for as long as the `with` block.
    """

    def __init__(
        self, kafka: str, topic: str, partitions: int, note: Callable[[Message, float], None]
    ) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": f"{topic}.bench",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._note = note
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"tail of {topic}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._stopping.is_set():
            # `consume` waits until its batch is full or its time is over; `poll` for the first record only.
            first = self._consumer.poll(_POLL_S)
            for message in (first, *self._consumer.consume(_BATCH_RECORDS, 0)) if first is not None else ():
                if message.error() is None:
                    self._note(message, time.time())
