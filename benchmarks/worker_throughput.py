"""Events a second, CPU per event and memory of a whole worker, beside a bare loop on the same events.

Run with `python -m benchmarks.worker_throughput` in the repository's root. Every process is real: the
worker is the command line's, Redis is a server of its own, Kafka is the one at `--kafka` (or
SLUICEGATE_TEST_KAFKA), else the embedded broker. Everything is on: state, gates, limiter, metrics, logs.
Figures are taken between the first and the last tenth of the results, where 500 events run at once.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
from confluent_kafka import Producer

from benchmarks.watching import Figures, ResultsWatch, watch
from sluicegate.events.cloudevent import binary_headers
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.local.processes import CommandProcess
from sluicegate.local.redis_server import RedisServer, free_port
from sluicegate.local.stack import LocalStack, StackPlan
from sluicegate.local.toml import Value, write_toml
from sluicegate.settings import Settings, load_settings
from sluicegate.topics import TopicSpec, topic_table

_PARTITIONS = 12
_LATENCY_MS = 100
_READY_TIMEOUT_S = 60.0
_NO_LIMIT_IN_PRACTICE = 6e8
_TEXT = "My parcel has not come yet, and nobody answers the telephone. What am I to do now? " * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A stream to be measured. `handler` as in the setting `agent`."""

    name: str
    handler: str
    ordered: bool
    calls: bool


_CASES = {
    "wait": Case(name="wait", handler="benchmarks.handlers:wait", ordered=False, calls=False),
    "wait-ordered": Case(name="wait-ordered", handler="benchmarks.handlers:wait", ordered=True, calls=False),
    "chat": Case(name="chat", handler="streams.support_chat:reply", ordered=True, calls=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where everything is."""

    prefix: str
    kafka: str
    redis: RedisServer
    provider_base_url: str
    is_embedded: bool
    folder: Path
    running: int


def main() -> None:
    """Print the figures."""
    run(argparse.Namespace(kafka=None, events=8_000, running=500, cases=list(_CASES), worker_only=False))


def run(options: argparse.Namespace) -> None:
    """Run the cases and print a row for each process."""
    print(f"{'':28}{'events/s':>10}{'CPU ms/event':>14}{'Redis ms/event':>16}{'idle MB':>9}{'busy MB':>9}")
    prefix = f"bench-{secrets.token_hex(3)}."
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluicegate-bench-")))
        redis = stack.enter_context(RedisServer(appendonly=True))
        kafka = options.kafka or os.environ.get("SLUICEGATE_TEST_KAFKA")
        provider = ("--latency-ms", str(_LATENCY_MS), "--requests-per-minute", "1e9")
        plan = StackPlan(
            topics={},
            provider_options=(*provider, "--tokens-per-minute", "1e12"),
            kafka=kafka,
            redis=redis.url,
        )
        local = stack.enter_context(LocalStack(plan, folder=folder))
        world = World(
            prefix=prefix,
            kafka=local.kafka,
            redis=redis,
            provider_base_url=local.provider_base_url,
            is_embedded=local.broker is not None,
            folder=folder,
            running=options.running,
        )
        for name in options.cases:
            _measure(world, local, _CASES[name], options.events, worker_only=options.worker_only)


def _measure(world: World, local: LocalStack, case: Case, events: int, *, worker_only: bool) -> None:
    settings, config, port = _settings(world, case)
    input_topic = f"{world.prefix}{case.name}"
    results, bare_results = f"{input_topic}.results", f"{input_topic}.bare"
    _make_topics(world, local, settings, bare_results)

    worker = CommandProcess(
        f"worker-{case.name}",
        (
            "worker",
            case.name,
            *(("--embedded-broker",) if world.is_embedded else ()),
            "--config",
            str(config),
        ),
        folder=world.folder,
    )
    worker.start()
    try:
        _wait_until_ready(worker, port)
        mine = _watched(world, worker.pid, results, events, lambda: _publish(world, input_topic, events))
    finally:
        worker.ask_to_stop()
        worker.wait(_READY_TIMEOUT_S)
    _print(f"{case.name}: worker", mine)

    if worker_only:
        return
    with _bare_loop(world, case, input_topic, bare_results) as pid:
        bare = _watched(world, pid, bare_results, events, lambda: None)
    _print(f"{case.name}: bare loop", bare)
    print(
        f"{case.name + ': ratio':28}{mine.events_per_s / bare.events_per_s:10.2f}"
        f"{mine.cpu_ms / bare.cpu_ms:14.1f}",
        flush=True,
    )


def _watched(world: World, pid: int, results: str, events: int, begin: Callable[[], None]) -> Figures:
    topic = ResultsWatch(world.kafka, results, _PARTITIONS)
    try:
        return watch(topic, pid=pid, redis_pid=world.redis.pid, events=events, begin=begin)
    finally:
        topic.close()


def _print(name: str, figures: Figures) -> None:
    print(
        f"{name:28}{figures.events_per_s:10,.0f}{figures.cpu_ms:14.2f}{figures.redis_cpu_ms:16.2f}"
        f"{figures.idle_mb:9.0f}{figures.running_mb:9.0f}",
        flush=True,
    )


def _settings(world: World, case: Case) -> tuple[Settings, Path, int]:
    port = free_port()
    tables: Mapping[str, Mapping[str, Value]] = {
        "kafka": {"bootstrap_servers": world.kafka, "group": f"{world.prefix}sluicegate"},
        "topics": {"partitions": _PARTITIONS},
        "redis": {"url": world.redis.url},
        "providers.main": {"base_url": world.provider_base_url, "timeout_s": 30},
        "limits.main": {
            "requests_per_minute": _NO_LIMIT_IN_PRACTICE,
            "tokens_per_minute": 1000 * _NO_LIMIT_IN_PRACTICE,
        },
        "http": {"port": port},
        f"streams.{case.name}": {
            "agent": case.handler,
            "provider": "main",
            "model": "small",
            "ordered": case.ordered,
            "max_running": world.running,
            "topic": f"{world.prefix}{case.name}",
            "results_topic": f"{world.prefix}{case.name}.results",
        },
    }
    path = world.folder / f"{case.name}.toml"
    path.write_text(write_toml(tables), encoding="utf-8")
    return load_settings(path, {}), path, port


def _make_topics(world: World, local: LocalStack, settings: Settings, bare_results: str) -> None:
    table: Sequence[TopicSpec] = topic_table(settings)
    if local.broker is not None:
        local.broker.create_topics(
            {**{each.name: each.partitions for each in table}, bare_results: _PARTITIONS}
        )
        return
    bare = TopicSpec(
        name=bare_results, partitions=_PARTITIONS, replication_factor=1, config={}, writers=(), readers=()
    )
    KafkaAdmin(world.kafka).create((*table, bare))


def _publish(world: World, topic: str, events: int) -> None:
    """Publish all events, four to a conversation."""
    producer = Producer(
        {"bootstrap.servers": world.kafka, "partitioner": "murmur2_random", "linger.ms": 20, "acks": "all"}
    )
    now_ms = int(time.time() * 1000)
    for number in range(events):
        turn, conversation = divmod(number, max(1, events // 4))
        key = f"conversation-{conversation}"
        value = {"conversation_id": key, "turn": turn, "speaker": "customer", "text": _TEXT}
        headers = binary_headers(id=f"{topic}-{number}", source="benchmark", type="message", time_ms=now_ms)
        producer.produce(topic, key=key, value=orjson.dumps(value), headers=list(headers))
        producer.poll(0)
    if producer.flush(_READY_TIMEOUT_S):
        raise AssertionError("the broker did not take the events: no figure would mean anything")


def _wait_until_ready(worker: CommandProcess, port: int) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline and worker.exit_code is None:
            try:
                if client.get(f"http://127.0.0.1:{port}/readyz").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    raise AssertionError(f"the worker is not ready:\n{worker.tail()}")


@contextmanager
def _bare_loop(world: World, case: Case, topic: str, output: str) -> Iterator[int]:
    url = ("--url", f"{world.provider_base_url}/chat/completions") if case.calls else ()
    command = [
        sys.executable,
        "-m",
        "benchmarks.bare_loop",
        world.kafka,
        topic,
        output,
        str(world.running),
        *url,
    ]
    with subprocess.Popen(command) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(_CASES), metavar="CASE", help=", ".join(_CASES))
    parser.add_argument("--kafka", help="address of a real Kafka")
    parser.add_argument("--events", type=int, default=8_000)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--worker-only", action="store_true", help="leave out the bare loop")
    run(parser.parse_args())
