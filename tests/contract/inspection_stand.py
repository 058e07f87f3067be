"""One stream's topics, filled as workers and a relay fill them, and the commands that look at them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate.cli.main import build_app, run
from sluicegate.cli.operator import now_ms
from sluicegate.cli.stream_state import with_state
from sluicegate.delivery.done_map import DoneMap, encode
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.reading import record_of
from sluicegate.records import Headers, Origin, OutgoingRecord, Record
from sluicegate.retry.headers import RetryHeaders, RetrySource, with_retry_headers
from sluicegate.settings import load_settings
from sluicegate.state.api import Behind, Copy, End, EndKind, EventRef, Run, Taken
from sluicegate.state.redis_state import RedisState
from sluicegate.topics import relay_group, stream_topics
from tests.waiting import wait_until_sync

STREAM = "support-chat"
TIERS_S = (5, 60)
PARTITIONS = 2
SECRET = "my card number is 4111"
HOUR_MS = 3_600_000
_T = TypeVar("_T")


class InspectionStand:
    """A deployment without processes. Every event is a message of the conversation that its key names."""

    def __init__(
        self,
        *,
        kafka: str,
        redis_url: str,
        prefix: str,
        folder: Path,
        make_topics: Callable[[Mapping[str, int]], None],
    ) -> None:
        self.kafka = kafka
        self.config = folder / "sluicegate.toml"
        self.config.write_text(
            f"""
            [kafka]
            bootstrap_servers = "{kafka}"
            group = "{prefix}"
            [redis]
            url = "{redis_url}"
            [retry]
            tiers_s = [{", ".join(map(str, TIERS_S))}]
            [streams.support-chat]
            topic = "in-{prefix}.chat"
            results_topic = "in-{prefix}.chat.results"
            """
        )
        self.settings = load_settings(self.config, {})
        self.topics = stream_topics(self.settings, STREAM)
        names = (*self.topics.tiers, self.topics.due, self.topics.input, self.topics.results, self.topics.dlq)
        # All at once: the embedded broker takes up to a second for each time it is asked.
        make_topics(dict.fromkeys(names, PARTITIONS) | {f"{prefix}.audit": 1})
        self.audit = f"{prefix}.audit"
        self._publisher = ConfluentPublisher(kafka, client_id="test", timeout_s=10.0)

    # --- topics -----------------------------------------------------------------------------------

    def publish(self, records: Iterable[OutgoingRecord]) -> None:
        """Store records."""
        assert set(self._publisher.publish_all(list(records))) == {None}

    def copy(
        self,
        offset: int,
        *,
        key: str = "c-1",
        tier: int = 1,
        due_in_ms: int = HOUR_MS,
        copy: str = "1-a",
        topic: str | None = None,
        reason: str | None = "rate-limited",
        source: RetrySource = RetrySource.RETRY_AFTER,
        partition: int = 0,
    ) -> OutgoingRecord:
        """Return a copy of the event with that origin offset, as a worker parks it in a tier."""
        retry = RetryHeaders(
            origin=Origin(topic=self.topics.input, partition=partition, offset=offset),
            origin_timestamp_ms=now_ms() - HOUR_MS,
            copy=Copy(id=copy, replaces="input"),
            due_at_ms=now_ms() + due_in_ms,
            source=source,
            reason=reason,
            http_status=429 if reason == "rate-limited" else None,
        )
        return self._record(
            topic or self.topics.tiers[tier - 1], key, partition, with_retry_headers((), retry)
        )

    def letter(
        self, offset: int, *, key: str = "c-1", reason: str = "bad-request", ended_ago_ms: int = 0
    ) -> OutgoingRecord:
        """Return the dead letter of the event with that origin offset."""
        retry = RetryHeaders(
            origin=Origin(topic=self.topics.input, partition=0, offset=offset),
            origin_timestamp_ms=now_ms() - HOUR_MS,
            copy=Copy(),
            due_at_ms=now_ms(),
            http_status=400,
            reason=reason,
        )
        own = (
            ("dlq-reason", reason.encode()),
            ("dlq-ended-at-ms", str(now_ms() - ended_ago_ms).encode()),
            ("ce_causationid", f"event-{offset}".encode()),
        )
        return self._record(self.topics.dlq, key, 0, (*with_retry_headers((), retry), *own))

    def results(self, count: int) -> list[OutgoingRecord]:
        """Return results that took two calls each."""
        headers = (("llm-calls", b"2"), ("llm-input-tokens", b"50"), ("llm-output-tokens", b"9"))
        return [self._record(self.topics.results, "c-1", 0, headers)] * count

    def _record(self, topic: str, key: str, partition: int, headers: Headers) -> OutgoingRecord:
        value = {"conversation_id": key, "turn": 0, "speaker": "customer", "text": SECRET}
        return OutgoingRecord(
            topic=topic,
            key=key.encode(),
            value=json.dumps(value).encode(),
            headers=headers,
            partition=partition,
        )

    def relay_committed(self, tier: int, offset: int, done: Iterable[int] = ()) -> None:
        """Commit as the relay does: a place, and what is done above it."""
        metadata = encode(DoneMap.of(offset, done)).text
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka,
                "group.id": relay_group(self.settings),
                "enable.auto.commit": False,
            }
        )
        place = TopicPartition(self.topics.tiers[tier - 1], 0, offset, metadata)
        consumer.commit(offsets=[place], asynchronous=False)
        consumer.close()

    def records(self, topic: str, count: int) -> list[Record]:
        """Return the first records of a topic's partition 0, once there are so many."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka, "group.id": "reader", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Record] = []

        def enough() -> bool:
            found.extend(record_of(m) for m in consumer.consume(100, timeout=0.1) if m.error() is None)
            return len(found) >= count

        wait_until_sync(enough, timeout_s=10, what=f"{count} records in {topic}")
        consumer.close()
        return found

    # --- state ------------------------------------------------------------------------------------

    def event(self, offset: int, *, key: str = "c-1") -> EventRef:
        """Return the event of that origin, as workers name it."""
        return EventRef(
            stream=STREAM,
            origin=Origin(topic=self.topics.input, partition=0, offset=offset),
            key=key,
            identity=f"identity-{offset}",
            ordered=True,
        )

    def in_state(self, ask: Callable[[RedisState], Awaitable[_T]]) -> _T:
        """Do something to the stream's state."""
        return with_state(self.settings, STREAM, ask)

    def taken(self, offset: int, copy: Copy, *, key: str = "c-1") -> Taken:
        """Take a record of an event, as a worker does."""
        return self.in_state(lambda state: state.take(self.event(offset, key=key), copy))

    def ended(self, offset: int, kind: EndKind, *, key: str = "c-1") -> None:
        """Take an event and end it."""

        async def end(state: RedisState) -> None:
            ref = self.event(offset, key=key)
            verdict = (await state.take(ref, Copy())).verdict
            assert isinstance(verdict, Run)
            await state.claim(ref, verdict.gen, End(kind=kind))
            await state.finish(ref, verdict.gen, End(kind=kind))

        self.in_state(end)

    def parked(self, offset: int, *, key: str = "c-1", due_in_ms: int = HOUR_MS) -> None:
        """Take an event and park it, as its copy `1-a` says."""

        async def park(state: RedisState) -> None:
            ref = self.event(offset, key=key)
            verdict = (await state.take(ref, Copy())).verdict
            assert isinstance(verdict, Run | Behind)
            new = Copy(id="1-a", replaces="input")
            await state.park(ref, Copy(), new, verdict.gen, now_ms() + due_in_ms)

        self.in_state(park)


class Commands:
    """Runs commands with a configuration in this process."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys
        self.code = 0
        self.out = ""
        self.err = ""

    def run(self, *arguments: str) -> str:
        """Run one command; return its stdout and keep the exit code and stderr."""
        self._capsys.readouterr()
        self.code = run(build_app(), [*arguments, "--config", str(self._config)])
        self.out, self.err = self._capsys.readouterr()
        return self.out

    def json(self, *arguments: str) -> Mapping[str, Any]:
        """Run one with `--json`."""
        found: Mapping[str, Any] = json.loads(self.run(*arguments, "--json"))
        return found
