"""How many events a second one worker process manages, and what one costs it in CPU and memory.

A real worker, the embedded broker, a Redis and the provider simulator, each started for this; beside it a
bare loop of consume, call and produce does the same work. Run with `python -m benchmarks.worker_throughput`
on an idle machine: all of them share its cores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from sluicegate.local.processes import CommandProcess
from sluicegate.local.redis_server import free_port
from sluicegate.local.stack import LocalStack, StackPlan
from sluicegate.local.toml import write_toml
from sluicegate.settings import load_settings
from sluicegate.topics import topic_table

_EVENTS = 3_000
# A worker keeps a quarter of these for events that are due again.
_RUNNING = 500
_PARTITIONS = 4
_TIMEOUT_S = 120.0
_POLL_S = 0.05
_INPUT, _RESULTS = "tickets", "tickets.results"
_UNLIMITED = ("--requests-per-minute", "1e9", "--tokens-per-minute", "1e12", "--latency-ms", "100")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run of one process showed; `busy_mib` is its memory while `at_work` events were."""

    events_per_s: float
    cpu_ms_per_event: float
    idle_mib: float
    busy_mib: float
    at_work: int


def measure_worker(*, keys: int, ordered: bool, folder: Path) -> Figures:
    """Run all events through one worker. Raises StackError when it does not start."""
    with LocalStack(StackPlan(topics={}, provider_options=_UNLIMITED), folder=folder) as stack:
        port = free_port()
        config = _configure(stack, folder, ordered=ordered, port=port)
        process = CommandProcess(
            "worker", ("worker", "tickets", "--config", str(config), "--embedded-broker"), folder=folder
        )
        process.start()
        try:
            _wait_until(lambda: _get(port, "readyz") is not None, process.tail)
            return _measure(stack.kafka, process.pid, keys, process.tail, lambda: _running(port))
        finally:
            process.ask_to_stop()
            process.wait(30)


def measure_bare_loop(*, keys: int, folder: Path) -> Figures:
    """Run all events through the bare loop."""
    plan = StackPlan(topics={_INPUT: _PARTITIONS, _RESULTS: _PARTITIONS}, provider_options=_UNLIMITED)
    with LocalStack(plan, folder=folder) as stack:
        where = (stack.kafka, _INPUT, _RESULTS, stack.provider_base_url)
        with _bare_loop((*where, str(_EVENTS), str(_RUNNING))) as pid:
            return _measure(stack.kafka, pid, keys, str, lambda: _RUNNING)


@contextmanager
def _bare_loop(arguments: tuple[str, ...]) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.bare_loop", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        try:
            yield process.pid
        except BaseException:
            process.kill()
            raise


def _configure(stack: LocalStack, folder: Path, *, ordered: bool, port: int) -> Path:
    config = folder / "worker.toml"
    config.write_text(
        write_toml(
            {
                "kafka": {"bootstrap_servers": stack.kafka, "group": "bench"},
                "topics": {"partitions": _PARTITIONS},
                "redis": {"url": stack.redis},
                "providers.main": {"base_url": stack.provider_base_url},
                # The limiter books every call; it just never makes one wait.
                "limits.main": {"requests_per_minute": 1e8, "tokens_per_minute": 1e11},
                "http": {"port": port},
                "streams.tickets": {
                    "agent": "benchmarks.tickets:rate",
                    "provider": "main",
                    "model": "gpt-4o-mini",
                    "ordered": ordered,
                    "max_running": _RUNNING,
                    "max_output_tokens": 64,
                },
            }
        )
    )
    assert stack.broker is not None
    stack.broker.create_topics(
        {spec.name: spec.partitions for spec in topic_table(load_settings(config, {}))}
    )
    return config


def _measure(kafka: str, pid: int, keys: int, why: Callable[[], str], running: Callable[[], int]) -> Figures:
    """Publish, and watch the process until every event has its result."""
    # A consumer that has just joined spends some CPU of its own.
    time.sleep(2)
    idle_mib, cpu_s, started_at = _rss_mib(pid), _cpu_s(pid), time.monotonic()
    _publish(kafka, keys)
    reader = Consumer({"bootstrap.servers": kafka, "group.id": "bench-reader"})
    try:
        _wait_until(lambda: _count(reader) >= _EVENTS // 4, why)
        busy_mib, at_work = _rss_mib(pid), running()
        _wait_until(lambda: _count(reader) >= _EVENTS, why)
    finally:
        reader.close()
    elapsed_s = time.monotonic() - started_at
    return Figures(
        events_per_s=_EVENTS / elapsed_s,
        cpu_ms_per_event=(_cpu_s(pid) - cpu_s) * 1e3 / _EVENTS,
        idle_mib=idle_mib,
        busy_mib=busy_mib,
        at_work=at_work,
    )


def _publish(kafka: str, keys: int) -> None:
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    for number in range(_EVENTS):
        event = {"ticket_id": f"t-{number}", "text": f"The cellar of house {number} is under water. " * 8}
        producer.produce(_INPUT, key=f"k-{number % keys}", value=json.dumps(event))
        producer.poll(0)
    assert producer.flush(30) == 0


def _count(reader: Consumer) -> int:
    places = (TopicPartition(_RESULTS, number) for number in range(_PARTITIONS))
    return sum(reader.get_watermark_offsets(place, timeout=20)[1] for place in places)


def _wait_until(condition: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not finished after {_TIMEOUT_S:g} s:\n{why()}")
        time.sleep(_POLL_S)


def _get(port: int, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def _running(port: int) -> int:
    found = re.search(r"^sluicegate_events_running\{.*\} ([0-9.e+]+)$", _get(port, "metrics") or "", re.M)
    return int(float(found[1])) if found else 0


def _cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads (proc(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> None:
    """Print the figures."""
    print(f"{_EVENTS:,} events, {_RUNNING} at a time, calls of 100 ms")
    print(f"{'':24}{'events/s':>10}{'CPU ms/event':>14}{'MiB idle':>10}{'MiB busy':>10}{'at work':>9}")
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as name:
        folder = Path(name)
        bare = _show("bare loop", measure_bare_loop(keys=_EVENTS, folder=folder))
        for title, keys, ordered in (
            ("worker, distinct keys", _EVENTS, False),
            (f"worker, ordered, {_RUNNING} keys", _RUNNING, True),
        ):
            figures = _show(title, measure_worker(keys=keys, ordered=ordered, folder=folder))
            print(f"{'':24}{figures.cpu_ms_per_event / bare.cpu_ms_per_event:>24.1f} x the bare loop's CPU")


def _show(title: str, figures: Figures) -> Figures:
    print(
        f"{title:24}{figures.events_per_s:>10,.0f}{figures.cpu_ms_per_event:>14.2f}"
        f"{figures.idle_mib:>10.0f}{figures.busy_mib:>10.0f}{figures.at_work:>9}",
        flush=True,
    )
    return figures


if __name__ == "__main__":
    main()
