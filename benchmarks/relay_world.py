"""A relay, or several, between tiers that a benchmark fills and a `due` that it reads.

Real Kafka only: the first of `--kafka`, SLUICEGATE_TEST_KAFKA and Kafka's own jars. The embedded broker
stamps no append time, which is what these figures are made of.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Message

from benchmarks.relay_figures import Release
from benchmarks.tailing import TopicTail
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.reading import record_of
from sluicegate.local.processes import CommandProcess
from sluicegate.local.redis_server import RedisServer
from sluicegate.local.toml import Value, write_toml
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, RetrySource, with_retry_headers
from sluicegate.retry.policy import tier_for
from sluicegate.settings import Settings, load_settings
from sluicegate.state.api import Copy
from sluicegate.topics import StreamTopics, TopicSpec, stream_topics, topic_table
from tests.fixtures.kafka_jars import JarKafka

STREAM = "support-chat"
_START_TIMEOUT_S = 40.0
_STOP_TIMEOUT_S = 40.0
_LOOK_S = 0.02
_PARK_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A record to be put into the tier of its delay. `due_ms` is absolute."""

    copy: str
    due_ms: int
    partition: int


class RelayWorld:
    """Topics with names of their own, Redis, and relay processes; all of it ends with the `with` block."""

    def __init__(
        self,
        *,
        kafka: str,
        partitions: int = 12,
        tiers_s: Sequence[float] = (5, 30, 120, 600, 3600),
        value_bytes: int = 1_000,
        session_timeout_s: float = 6,
    ) -> None:
        self.kafka = kafka
        self.partitions = partitions
        self._value = os.urandom(value_bytes)
        self._stack = ExitStack()
        self._prefix = f"bench-{secrets.token_hex(3)}"
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-")))
        self._redis = RedisServer()
        self._tables: dict[str, Mapping[str, Value]] = {
            "kafka": {
                "bootstrap_servers": kafka,
                "group": f"{self._prefix}-g",
                "session_timeout_s": session_timeout_s,
            },
            "topics": {"partitions": partitions},
            "retry": {"tiers_s": list(tiers_s)},
            "http": {"port": 0},
            f"streams.{STREAM}": {"topic": f"{self._prefix}.in", "results_topic": f"{self._prefix}.out"},
            "streams.documents": {"topic": f"{self._prefix}.in2", "results_topic": f"{self._prefix}.out2"},
        }
        self.relays: list[CommandProcess] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(self._redis)
        path = self._folder / "sluicegate.toml"
        path.write_text(write_toml({**self._tables, "redis": {"url": self._redis.url}}), encoding="utf-8")
        self.settings: Settings = load_settings(path, {})
        self.topics: StreamTopics = stream_topics(self.settings, STREAM)
        self._admin = KafkaAdmin(self.kafka)
        self._admin.create(topic_table(self.settings))
        self.publisher = self._stack.enter_context(
            ConfluentPublisher(self.kafka, client_id="bench", linger_ms=1)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for relay in self.relays:
            if relay.exit_code is None:
                relay.kill()
        self._admin.delete([spec.name for spec in topic_table(self.settings)])
        self._stack.close()

    def start_relay(self) -> CommandProcess:
        """Start one more relay and return when it has its partitions."""
        relay = self.launch_relay()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "relay.assigned" not in relay.log.read_text():
            if time.monotonic() > deadline or relay.exit_code is not None:
                raise AssertionError(f"the relay did not start:\n{relay.tail()}")
            time.sleep(_LOOK_S)
        return relay

    def launch_relay(self) -> CommandProcess:
        """Start one more relay and return at once."""
        name = f"relay-{len(self.relays)}"
        relay = CommandProcess(
            name, ("relay", "--config", str(self._folder / "sluicegate.toml")), folder=self._folder
        )
        relay.start()
        self.relays.append(relay)
        return relay

    def stop(self, relay: CommandProcess) -> None:
        """End a relay in order: it leaves its group."""
        relay.ask_to_stop()
        relay.wait(_STOP_TIMEOUT_S)

    def make_topics(self, names: Sequence[str], config: Mapping[str, str]) -> None:
        """Make topics beside the table's, as wide as the tiers."""
        self._admin.create(
            [
                TopicSpec(
                    name=name,
                    partitions=self.partitions,
                    replication_factor=1,
                    config=config,
                    writers=(),
                    readers=(),
                )
                for name in names
            ]
        )

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete them again."""
        self._admin.delete(names)

    def park(self, parked: Sequence[Parked], *, also_to: str | None = None) -> None:
        """Publish the records as a worker parks them, and once more, unchanged, to another topic."""
        records = [self.record(each) for each in parked]
        for start in range(0, len(records), _PARK_AT_ONCE):
            batch = records[start : start + _PARK_AT_ONCE]
            if also_to is not None:
                batch = [copy for record in batch for copy in (record, replace(record, topic=also_to))]
            failed = [each for each in self.publisher.publish_all(batch) if each is not None]
            if failed:
                raise failed[0]

    def record(self, parked: Parked) -> OutgoingRecord:
        """Return the record that parks this."""
        now_ms = time.time_ns() // 1_000_000
        bounds = tuple(self.settings.retry.tiers_s)
        tier = tier_for(max(0.0, (parked.due_ms - now_ms) / 1000), bounds)
        retry = RetryHeaders(
            origin=Origin(topic=self.topics.input, partition=parked.partition, offset=1),
            origin_timestamp_ms=now_ms,
            copy=Copy(id=parked.copy, replaces="input"),
            due_at_ms=parked.due_ms,
            tier=tier,
            source=RetrySource.BACKOFF,
            first_failed_at_ms=now_ms,
            reason="rate-limited",
            http_status=429,
        )
        event = (
            *(("ce_id", parked.copy.encode()), ("ce_source", b"benchmark"), ("ce_type", b"message")),
            *(("ce_specversion", b"1.0"), ("content-type", b"application/json")),
        )
        return OutgoingRecord(
            topic=self.topics.tiers[tier - 1],
            partition=parked.partition,
            key=parked.copy.encode(),
            value=self._value,
            headers=with_retry_headers(event, retry),
        )


class DueReader(TopicTail):
    """Notes when a reader had each released record."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        super().__init__(kafka, topic, partitions, self._released)
        self.releases: list[Release] = []

    def wait_for(self, count: int, timeout_s: float) -> Sequence[Release]:
        """Return the releases once there are so many; what there is when the time is over."""
        deadline = time.monotonic() + timeout_s
        while len(self.releases) < count and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return tuple(self.releases)

    def _released(self, message: Message, seen_s: float) -> None:
        record = record_of(message)
        headers = dict(record.headers)
        self.releases.append(
            Release(
                copy=headers["retry-copy"].decode(),
                due_ms=int(headers["retry-due-at-ms"]),
                stored_ms=record.timestamp_ms,
                seen_ms=seen_s * 1000,
            )
        )


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with what all of these benchmarks take."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--kafka", default=os.environ.get("SLUICEGATE_TEST_KAFKA"), help="a real Kafka")
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables as docs/benchmarks.md has them"
    )
    return parser


def real_kafka(stack: ExitStack, given: str | None) -> str:
    """Return the address of a real Kafka: the one given, else one of our own."""
    return given or stack.enter_context(JarKafka()).address


def load_average() -> str:
    """Say how busy the machine was: the load of the last minute over its cores."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def now_ms() -> int:
    """Return the machine's time, which is Kafka's and Redis's too."""
    return time.time_ns() // 1_000_000


def copies(count: int, prefix: str = "a") -> Iterator[str]:
    """Name copies."""
    return (f"1-{prefix}{number:06d}" for number in range(count))
