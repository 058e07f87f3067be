"""A deployment as an operator has it: processes of the command line, a configuration file, plain clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from sluicegate.local.redis_server import RedisServer
from tests.fixtures.secure_redis import SecureRedis
from tests.waiting import wait_until_sync

STOP_TIMEOUT_S = 40.0
_READ_TIMEOUT_S = 5.0
_NO_LEADER_YET = (
    *(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE),
    *(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._TRANSPORT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One record as a plain client reads it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str | None:
        """Return a header's text, None when it is not there."""
        return dict(self.headers)[name].decode() if name in dict(self.headers) else None

    def json(self) -> Any:
        """Return the value as JSON."""
        return json.loads(self.value or b"null")


class Process:
    """One command of Sluicegate as a process, with its output in a file."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = "-".join(part.strip("-") for part in arguments[:2])
        self.log = folder / f"{self.name}-{len(list(folder.glob('*.log')))}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sluicegate", *arguments],
                stdout=subprocess.PIPE if arguments[0] == "provider" else output,
                stderr=output,
                env={**os.environ, **environment},
            )

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit code; fail when it does not end in time."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop; its log:\n{self.tail()}") from None

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


class Deployment:
    """Redis, a provider simulator, a configuration, and whatever is started with it."""

    def __init__(
        self,
        *,
        kafka: str,
        prefix: str,
        folder: Path,
        partitions: int = 4,
        provider_arguments: Sequence[str] = (),
        limits: Mapping[str, float] | None = None,
        stream: Mapping[str, Any] | None = None,
        retry: Mapping[str, Any] | None = None,
        provider: Mapping[str, Any] | None = None,
        session_timeout_s: float = 6,
        redis_url: str | None = None,
        documents: Mapping[str, Any] | None = None,
        worker: Mapping[str, Any] | None = None,
        locked_redis: SecureRedis | None = None,
        environments: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Prepare it; `locked_redis` takes the place of one that is open to all.

        `redis_url` is how the processes reach Redis, if not directly; `documents` adds to its section.
        `environments` holds the environment of each command's processes, by the command's name or by
        `worker STREAM`.
        """
        self.kafka = kafka
        self.prefix = prefix
        self.group = f"{prefix}-group"
        self.folder = folder
        self.partitions = partitions
        self.config = folder / "sluicegate.toml"
        self._provider_arguments = provider_arguments
        self._limits = dict(limits or {"requests_per_minute": 3600, "tokens_per_minute": 10_000_000})
        self._stream = dict(stream or {})
        self._retry = dict(retry or {})
        self._provider = dict(provider or {})
        self._session_timeout_s = session_timeout_s
        self._redis_url = redis_url
        self._documents = dict(documents or {})
        self._worker = {"drain_s": 10, **(worker or {})}
        self._stack = ExitStack()
        self.processes: list[Process] = []
        self.redis = RedisServer(appendonly=True)
        self._locked_redis = locked_redis
        self._environments = dict(environments or {})
        self.provider_url = ""
        self._found: dict[str, list[Seen]] = {}
        self.widened: dict[str, int] = {}
        self._reader = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": f"{prefix}-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "log_level": 2,  # a broker that a test takes away is no news
            }
        )

    # --- topics -----------------------------------------------------------------------------------

    def input(self, stream: str) -> str:
        """Name the stream's input topic."""
        return f"{self.prefix}.{stream}"

    def results(self, stream: str) -> str:
        """Name the stream's results topic."""
        return f"{self.prefix}.{stream}.results"

    def internal(self, stream: str, name: str) -> str:
        """Name an internal topic: due, dlq, retry.1, ..."""
        return f"{self.group}.{stream}.{name}"

    @property
    def topics(self) -> dict[str, int]:
        """Return every topic and its partition count: as made, or as `widened` says."""
        names = []
        for stream in ("support-chat", "documents"):
            internal = ("due", "dlq", *(f"retry.{tier}" for tier in range(1, len(self.tiers_s) + 1)))
            names += [self.input(stream), self.results(stream)]
            names += [self.internal(stream, name) for name in internal]
        made = dict.fromkeys(names, self.partitions) | {f"{self.group}.audit": 1}
        return {name: self.widened.get(name, count) for name, count in made.items()}

    @property
    def tiers_s(self) -> list[float]:
        """Return the upper bounds of the retry tiers."""
        return [float(tier) for tier in self._retry.get("tiers_s", (2, 5, 30, 120, 600))]

    # --- life -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._stack.enter_context(self._locked_redis or self.redis)
        self._start_provider()
        self._write_config()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.is_running:
                process.kill()
            if error is not None:
                sys.stderr.write(f"--- {process.name} ({process.process.returncode})\n{process.tail()}\n")
        self._reader.close()
        self._stack.close()

    def _start_provider(self) -> None:
        limits = {name.replace("_", "-"): value for name, value in self._limits.items()}
        arguments = ["provider", "--port", "0", "--enforcement", "bucket"]
        for name in ("requests-per-minute", "tokens-per-minute"):
            arguments += [f"--{name}", str(int(limits[name]))]
        provider = self._start([*arguments, *self._provider_arguments])
        assert provider.process.stdout is not None
        line = json.loads(provider.process.stdout.readline())
        self.provider_url = str(line["address"])

    def _write_config(self) -> None:
        tables: dict[str, dict[str, Any]] = {
            "kafka": {
                "bootstrap_servers": self.kafka,
                "group": self.group,
                "session_timeout_s": self._session_timeout_s,
            },
            "topics": {"partitions": self.partitions, "replication_factor": 1},
            "redis": {"url": self._redis_url or (self._locked_redis or self.redis).url},
            "providers.main": {
                "format": "openai",
                "base_url": f"{self.provider_url}/v1",
                "profile": "openai",
                "timeout_s": 10,
                **self._provider,
            },
            "limits.main": self._limits,
            "retry": {"in_place_max_s": 2, "base_s": 0.5, **self._retry, "tiers_s": self.tiers_s},
            "http": {"port": 0},
            "worker": self._worker,
        }
        for stream in ("support-chat", "documents"):
            tables[f"streams.{stream}"] = {
                "topic": self.input(stream),
                "results_topic": self.results(stream),
                "max_output_tokens": 64,
                **self._stream,
            }
        tables["streams.documents"].update(self._documents)
        lines = []
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
        self.config.write_text("\n".join(lines))

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        of_command = self._environments.get(arguments[0], {})
        own = self._environments.get(" ".join(arguments[:2]), of_command)
        process = Process(self.folder, arguments, {**own, **(environment or {})})
        self.processes.append(process)
        return process

    def start_worker(
        self, stream: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start one worker of a stream; it is ready when it has taken its partitions."""
        return self._start(["worker", stream, "--config", str(self.config), *options], environment)

    def start_relay(self) -> Process:
        """Start one relay."""
        return self._start(["relay", "--config", str(self.config)])

    # --- as other services see it -----------------------------------------------------------------

    def publish(self, stream: str, events: Iterable[Mapping[str, Any]], *, key: str) -> int:
        """Publish bare JSON with a plain client, keyed by the named field; return how many."""
        producer = Producer({"bootstrap.servers": self.kafka, "partitioner": "murmur2_random"})
        count = 0
        for event in events:
            producer.produce(
                self.input(stream), key=str(event[key]).encode(), value=json.dumps(event).encode()
            )
            count += 1
        assert producer.flush(30) == 0
        return count

    def publish_raw(
        self,
        stream: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = 0,
    ) -> None:
        """Publish one record as it is."""
        producer = Producer({"bootstrap.servers": self.kafka, "message.max.bytes": 8_000_000})
        producer.produce(self.input(stream), key=key, value=value, headers=list(headers), partition=partition)
        assert producer.flush(30) == 0

    def read(self, topic: str) -> list[Seen]:
        """Return a whole topic as of now, each partition in its order; reads only what is new."""
        found = self._found.setdefault(topic, [])
        places = [TopicPartition(topic, number) for number in range(self.topics[topic])]
        ends = {place.partition: self._end_of(place) for place in places}
        next_of = dict.fromkeys(ends, 0) | {seen.partition: seen.offset + 1 for seen in found}
        wanted = [number for number, end in ends.items() if next_of[number] < end]
        self._reader.assign([TopicPartition(topic, number, next_of[number]) for number in wanted])
        deadline = time.monotonic() + _READ_TIMEOUT_S
        while any(next_of[number] < ends[number] for number in wanted):
            assert time.monotonic() < deadline, f"nothing more to read of {topic}"
            # It waits until the batch is full or this is over, however few there are.
            for message in self._reader.consume(500, timeout=0.05):
                deadline = time.monotonic() + _READ_TIMEOUT_S
                assert message.error() is None, message.error()
                found.append(_seen(message))
                next_of[found[-1].partition] = found[-1].offset + 1
        return sorted(found, key=lambda seen: (seen.partition, seen.offset))

    def _end_of(self, place: TopicPartition) -> int:
        """Return a partition's next offset; new topics, and restarted brokers, may not lead yet."""
        found: list[int] = []

        def answered() -> bool:
            try:
                found.append(self._reader.get_watermark_offsets(place, timeout=20)[1])
            except KafkaException as exc:
                if exc.args[0].code() not in _NO_LEADER_YET:
                    raise
            return bool(found)

        wait_until_sync(answered, timeout_s=20, what=f"a leader for {place.topic}")
        return found[0]

    def wait_for_ends(self, stream: str, count: int, *, timeout_s: float) -> list[Seen]:
        """Return the results and dead letters once `count` events (by origin) have one."""
        ends: list[Seen] = []

        def enough() -> bool:
            ends[:] = self.read(self.results(stream)) + self.read(self.internal(stream, "dlq"))
            for process in self.processes:
                assert process.is_running or process.process.returncode in (0, -9), process.tail()
            return len({origin(end) for end in ends}) >= count

        wait_until_sync(enough, timeout_s=timeout_s, what=f"{count} ends of {stream}")
        return ends

    def calls(self) -> list[dict[str, Any]]:
        """Return the simulator's record of every call."""
        answer = httpx.get(f"{self.provider_url}/stats", timeout=20, trust_env=False)
        calls: list[dict[str, Any]] = answer.json()["calls"]
        return calls

    def provider_now(self) -> float:
        """Return the simulator's clock in seconds."""
        answer = httpx.get(f"{self.provider_url}/stats?summary=1", timeout=20, trust_env=False)
        return float(answer.json()["now"])

    def faults(self, fault: Mapping[str, Any]) -> None:
        """Make the simulator misbehave."""
        httpx.post(
            f"{self.provider_url}/faults", json=dict(fault), timeout=20, trust_env=False
        ).raise_for_status()

    def mend_provider(self) -> None:
        """Let the simulator behave again."""
        httpx.delete(f"{self.provider_url}/faults", timeout=20, trust_env=False).raise_for_status()


def origin(end: Seen) -> str:
    """Return which input record an end belongs to, by its headers."""
    return "/".join(str(end.header(f"retry-origin-{part}")) for part in ("topic", "partition", "offset"))


def _seen(message: Any) -> Seen:
    return Seen(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple((name, value or b"") for name, value in message.headers() or ()),
    )
