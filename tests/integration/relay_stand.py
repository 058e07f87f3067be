"""A relay as a process of its own, between topics that a test fills and reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.reading import record_of
from sluicegate.records import Origin, OutgoingRecord, Record
from sluicegate.retry.headers import RetryHeaders, RetrySource, with_retry_headers
from sluicegate.state.api import Copy
from tests.waiting import wait_until_sync

TIERS_S = (2.0, 6.0)
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An event to be put into a tier."""

    copy: str
    due_in_ms: int
    tier: int = 1
    partition: int = 0


class RelayStand:
    """One stream's topics and its relay's processes; `sluicegate.support-chat` with a prefix of its own."""

    def __init__(
        self,
        *,
        kafka: str,
        redis_url: str,
        prefix: str,
        folder: Path,
        make_topics: Callable[..., None],
        partitions: int = 2,
    ) -> None:
        self.kafka = kafka
        self.prefix = prefix
        self.partitions = partitions
        self.due = f"{prefix}.support-chat.due"
        self.dlq = f"{prefix}.support-chat.dlq"
        self.tiers = tuple(f"{prefix}.support-chat.retry.{n}" for n in range(1, len(TIERS_S) + 1))
        self._folder = folder
        self._redis_url = redis_url
        self._processes: list[subprocess.Popen[bytes]] = []
        self._publisher = ConfluentPublisher(kafka, client_id="test", timeout_s=10.0)
        names = (self.due, self.dlq, *self.tiers)
        others = ("support-chat", "support-chat.results", "documents", "documents.results")
        internal = tuple(f"{prefix}.documents.{name}" for name in ("due", "dlq", "retry.1", "retry.2"))
        make_topics(dict.fromkeys(names, partitions), {"message.timestamp.type": "LogAppendTime"})
        make_topics({f"in-{prefix}.{name}": partitions for name in others})
        make_topics(dict.fromkeys(internal, partitions) | {f"{prefix}.audit": 1})

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more relay process and return when it has its partitions."""
        assigned = self.log().count("relay.assigned")
        sections: Mapping[str, str] = {
            "KAFKA__BOOTSTRAP_SERVERS": self.kafka,
            "KAFKA__GROUP": self.prefix,
            "KAFKA__SESSION_TIMEOUT_S": "1.5",
            "REDIS__URL": self._redis_url,
            "RETRY__TIERS_S": "[" + ", ".join(map(str, TIERS_S)) + "]",
            "STREAMS__SUPPORT_CHAT__TOPIC": f"in-{self.prefix}.support-chat",
            "STREAMS__SUPPORT_CHAT__RESULTS_TOPIC": f"in-{self.prefix}.support-chat.results",
            "STREAMS__DOCUMENTS__TOPIC": f"in-{self.prefix}.documents",
            "STREAMS__DOCUMENTS__RESULTS_TOPIC": f"in-{self.prefix}.documents.results",
            "HTTP__PORT": "0",
        }
        environment = {f"SLUICEGATE_{name}": value for name, value in sections.items()}
        with (self._folder / "relay.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sluicegate", "relay"],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        self._processes.append(process)
        wait_until_sync(
            lambda: self.log().count("relay.assigned") > assigned or process.poll() is not None,
            timeout_s=_START_TIMEOUT_S,
            what="the relay's first assignment",
        )
        return process

    @staticmethod
    def now_ms() -> int:
        """Return the machine's time, which is Redis's too."""
        return time.time_ns() // 1_000_000

    def log(self) -> str:
        """Return what the relays have written."""
        path = self._folder / "relay.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def health_port(self) -> int:
        """Return the port of the health and metrics of the relay that started last."""
        return int(re.findall(r'"port": ?(\d+)', self.log())[-1])

    def park(self, events: Sequence[Parked]) -> dict[str, int]:
        """Put the events into their tiers; returns each copy's due time in ms."""
        now_ms = self.now_ms()
        records = [self._record(event, now_ms, offset) for offset, event in enumerate(events)]
        self.publish(records)
        return {event.copy: now_ms + event.due_in_ms for event in events}

    def publish_parked(self, event: Parked, *, value: bytes) -> None:
        """Put one event with this value into its tier."""
        self.publish([replace(self._record(event, self.now_ms(), 0), value=value)])

    def publish(self, records: Sequence[OutgoingRecord]) -> None:
        """Put records anywhere, as they are."""
        failed = [outcome for outcome in self._publisher.publish_all(records) if outcome is not None]
        assert not failed, failed

    def _record(self, event: Parked, now_ms: int, offset: int) -> OutgoingRecord:
        retry = RetryHeaders(
            origin=Origin(topic=f"in-{self.prefix}.support-chat", partition=event.partition, offset=offset),
            origin_timestamp_ms=now_ms,
            copy=Copy(id=event.copy, replaces="input"),
            due_at_ms=now_ms + event.due_in_ms,
            tier=event.tier,
            source=RetrySource.BACKOFF,
        )
        return OutgoingRecord(
            topic=self.tiers[event.tier - 1],
            partition=event.partition,
            key=f"key-{event.copy}".encode(),
            value=f"value-{event.copy}".encode(),
            headers=with_retry_headers((("other", b"kept"),), retry),
        )

    def read(
        self, topic: str, *, until: Callable[[list[Record]], bool], timeout_s: float = 30.0
    ) -> list[Record]:
        """Read the topic from its start until the condition holds; fails with the relays' log otherwise."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka, "group.id": "reader", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in range(self.partitions)])
        found: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while not until(found):
            nobody = all(process.poll() is not None for process in self._processes)
            if nobody or time.monotonic() > deadline:
                consumer.close()
                raise AssertionError(
                    f"only {len(found)} records of {topic} in time; relay:\n{self.log()[-4000:]}"
                )
            found += [record_of(message) for message in consumer.consume(500, timeout=0.1)]
        consumer.close()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait(_STOP_TIMEOUT_S)
        self._publisher.close()
