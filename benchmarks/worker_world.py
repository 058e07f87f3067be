"""Workers, their topics and everything beside them, for the benchmarks of a whole worker.

Every process is real: the worker is the command line's, Redis is a server of its own that writes its log,
the provider is the simulator with limits that never bind. Everything is on: state, gates, limiter, metrics,
logs.
"""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from benchmarks.load import Load, check_results, publish
from benchmarks.peers import Peer
from benchmarks.watching import Figures, ResultsWatch, Watched, watch
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.local.processes import CommandProcess, stop_all
from sluicegate.local.redis_server import RedisServer, free_port
from sluicegate.local.stack import LocalStack, StackPlan
from sluicegate.local.toml import Value, write_toml
from sluicegate.settings import Settings, load_settings
from sluicegate.topics import TopicSpec, audit_topic, stream_topics, topic_table

WAIT, NOTHING = "benchmarks.handlers:wait", "benchmarks.handlers:nothing"
CALL = "streams.support_chat:reply"
_PEERS = ("bare", "faust")
_TIMEOUT_S = 60.0
_NO_LIMIT_IN_PRACTICE = 6e8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A stream to be measured. `handler` as in the setting `agent`, `running` as in `max_running`."""

    name: str
    handler: str
    ordered: bool = False
    running: int = 500
    partitions: int = 12
    max_event_bytes: int = 900_000


class WorkerWorld:
    """A broker, a Redis and a provider; all of it ends with the `with` block."""

    def __init__(self, *, kafka: str | None, latency_ms: float) -> None:
        """`kafka` None is the embedded broker, in this process. The provider takes `latency_ms` a call."""
        self._given = kafka
        self._latency_ms = latency_ms
        self._stack = ExitStack()
        self._prefix = f"bench-{secrets.token_hex(3)}."
        self.redis = RedisServer(appendonly=True)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluicegate-bench-")))
            stack.enter_context(self.redis)
            plan = StackPlan(
                topics={},
                provider_options=(
                    *("--latency-ms", str(self._latency_ms)),
                    *("--requests-per-minute", "1e9", "--tokens-per-minute", "1e12"),
                ),
                kafka=self._given,
                redis=self.redis.url,
            )
            self._local = stack.enter_context(LocalStack(plan, folder=self.folder))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def kafka(self) -> str:
        """The broker's address."""
        return self._local.kafka

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the embedded one."""
        return self._local.broker is not None

    @property
    def provider_url(self) -> str:
        """Where a chat completion is asked for."""
        return f"{self._local.provider_base_url}/chat/completions"

    def provider_calls(self, after: int) -> Sequence[Mapping[str, Any]]:
        """Return the calls that the provider had but for the first `after`, oldest first."""
        # The parameter is the number of the last call that is not wanted, counted from 0.
        calls: Sequence[Mapping[str, Any]] = self._stats({"after": str(after - 1)})["calls"]
        return calls

    def calls_made(self) -> int:
        """Return how many calls the provider had."""
        return int(self._stats({"summary": "1"})["counts"]["calls"])

    def calls_in_flight(self) -> int:
        """Return how many calls the provider is answering now."""
        return int(self._stats({"summary": "1"})["in_flight"])

    def _stats(self, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        address = f"{self._local.provider}/stats"
        response = httpx.get(address, params=parameters, timeout=_TIMEOUT_S, trust_env=False)
        response.raise_for_status()
        found: Mapping[str, Any] = response.json()
        return found

    @contextmanager
    def stream(self, measured: Measured) -> Iterator[MeasuredStream]:
        """Make the stream's topics, and delete them again."""
        stream = MeasuredStream(self, measured, self._prefix)
        specs = [
            *_own_topics(load_settings(stream.write_settings(0), {}), measured.name),
            *(_like_results(stream.output(peer), measured.partitions) for peer in _PEERS),
        ]
        if self._local.broker is not None:
            self._local.broker.create_topics({each.name: each.partitions for each in specs})
            yield stream
            return
        admin = KafkaAdmin(self.kafka)
        admin.create(specs)
        try:
            yield stream
        finally:
            admin.delete([each.name for each in specs])

    def tables(self, measured: Measured) -> dict[str, Mapping[str, Value]]:
        """Return the settings of a worker on that stream."""
        return {
            "kafka": {"bootstrap_servers": self.kafka, "group": f"{self._prefix}sluicegate"},
            "topics": {"partitions": measured.partitions},
            "redis": {"url": self.redis.url},
            "providers.main": {"base_url": self._local.provider_base_url, "timeout_s": 30},
            "limits.main": {
                "requests_per_minute": _NO_LIMIT_IN_PRACTICE,
                "tokens_per_minute": 1000 * _NO_LIMIT_IN_PRACTICE,
            },
        }


class MeasuredStream:
    """One stream's topics, its workers and its peers."""

    def __init__(self, world: WorkerWorld, measured: Measured, prefix: str) -> None:
        self.world = world
        self.measured = measured
        self.input = f"{prefix}{measured.name}"
        self.results = f"{self.input}.results"

    def output(self, peer: str) -> str:
        """Name the topic that a peer writes to."""
        return f"{self.input}.{peer}"

    def write_settings(self, port: int) -> Path:
        """Write the settings of a worker that listens on the port, and return the file."""
        measured = self.measured
        path = self.world.folder / f"{measured.name}-{port}.toml"
        tables: dict[str, Mapping[str, Value]] = {
            **self.world.tables(measured),
            "http": {"port": port},
            f"streams.{measured.name}": {
                "agent": measured.handler,
                "provider": "main",
                "model": "small",
                "ordered": measured.ordered,
                "max_running": measured.running,
                "max_event_bytes": measured.max_event_bytes,
                "topic": self.input,
                "results_topic": self.results,
            },
        }
        path.write_text(write_toml(tables), encoding="utf-8")
        return path

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[Sequence[CommandProcess]]:
        """Run workers, all of them ready, and end them in order."""
        workers: list[CommandProcess] = []
        embedded = ("--embedded-broker",) if self.world.is_embedded else ()
        try:
            ports = [free_port() for _ in range(count)]
            for port in ports:
                name = self.measured.name
                arguments = ("worker", name, *embedded, "--config", str(self.write_settings(port)))
                workers.append(CommandProcess(f"worker-{name}-{port}", arguments, folder=self.world.folder))
                workers[-1].start()
            for worker, port in zip(workers, ports, strict=True):
                _wait_until_ready(worker, port)
            yield workers
        finally:
            stop_all(workers, timeout_s=_TIMEOUT_S)

    def bare_loop(self, *options: str) -> Peer:
        """Return the bare loop on this stream."""
        return self._peer("bare_loop", "bare", ("--running", str(self.measured.running), *options))

    def faust_recipe(self, concurrency: int, *options: str) -> Peer:
        """Return the recipe on stock Faust on this stream."""
        own = ("--folder", str(self.world.folder / "faust"), "--concurrency", str(concurrency))
        return self._peer("faust_recipe", "faust", (*own, *options))

    def _peer(self, module: str, name: str, options: Sequence[str]) -> Peer:
        arguments = (self.world.kafka, self.input, self.output(name), *options)
        return Peer(module, arguments, folder=self.world.folder)

    def watched(
        self, processes: Sequence[Watched], load: Load, *, output: str, begin: Callable[[], None]
    ) -> Figures:
        """Return what the processes came to, once each event has exactly one result in `output`."""
        partitions = self.measured.partitions
        results = ResultsWatch(self.world.kafka, output, partitions)
        try:
            figures = watch(
                results, processes, redis_pid=self.world.redis.pid, events=load.events, begin=begin
            )
        finally:
            results.close()
        check_results(self.world.kafka, output, partitions, load)
        return figures

    def watched_workers(self, workers: Sequence[CommandProcess], load: Load) -> Figures:
        """Publish the load to the workers and return what they came to."""
        return self.watched(
            workers,
            load,
            output=self.results,
            begin=lambda: publish(self.world.kafka, self.input, load),
        )


def end_in_order_when_told() -> None:
    """Make SIGTERM leave the `with` blocks as an error does, so that no process outlives the benchmark."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _own_topics(settings: Settings, name: str) -> Sequence[TopicSpec]:
    """Return the stream's topics, without those of the shipped streams: on a given Kafka they are others'."""
    own = stream_topics(settings, name)
    names = {own.input, own.due, *own.tiers, own.results, own.dlq, audit_topic(settings)}
    return [spec for spec in topic_table(settings) if spec.name in names]


def _like_results(name: str, partitions: int) -> TopicSpec:
    return TopicSpec(
        name=name, partitions=partitions, replication_factor=1, config={}, writers=(), readers=()
    )


def _wait_until_ready(worker: CommandProcess, port: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline and worker.exit_code is None:
            try:
                if client.get(f"http://127.0.0.1:{port}/readyz").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    raise AssertionError(f"the worker is not ready:\n{worker.tail()}")
