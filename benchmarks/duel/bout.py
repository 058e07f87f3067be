"""One bout: one contender's processes against one provider, in real time, and all that was seen of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.duel.entrants import Entrant
from benchmarks.duel.peers_env import ROOT
from benchmarks.duel.workload import Workload
from benchmarks.processes import cpu_s
from sluicegate.local.provider.quota import Limits
from sluicegate.local.redis_server import RedisServer

_START_AFTER_S = 0.3
_READY_WITHIN_S = 60.0
_END_WITHIN_S = 30.0
_POLL_S = 0.02
_SCRIPT_COMMANDS = ("cmdstat_evalsha", "cmdstat_eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A call that was admitted; times in seconds from the start of measuring."""

    process: int
    asked_at: float
    sent_at: float
    tokens: int
    refusals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A call as it reached the provider; refused when `wait_s` is above 0."""

    at: float
    tokens: int
    process: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the machine did while it was measured: CPU in seconds, Redis's reads of a client's message.

    `script_us` is what Redis says its scripts took, without reading, parsing and answering.
    """

    seconds: float
    workers_cpu_s: float
    judge_cpu_s: float
    redis_cpu_s: float
    redis_messages: int
    script_us: int

    def __sub__(self, other: Load) -> Load:
        return Load(
            seconds=self.seconds - other.seconds,
            workers_cpu_s=self.workers_cpu_s - other.workers_cpu_s,
            judge_cpu_s=self.judge_cpu_s - other.judge_cpu_s,
            redis_cpu_s=self.redis_cpu_s - other.redis_cpu_s,
            redis_messages=self.redis_messages - other.redis_messages,
            script_us=self.script_us - other.script_us,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bout:
    """Everything that was seen. `started_at` is below 0: the warm-up is not measured."""

    started_at: float
    served: tuple[Served, ...]
    pending: tuple[tuple[float, int], ...]
    sent: tuple[Sent, ...]
    judge_round_trips_s: tuple[float, ...]
    load: Load


def fight(entrant: Entrant, workload: Workload) -> Bout:
    """Run one bout to its end. Raises RuntimeError when a process fails."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        client = stack.enter_context(redis.Redis(host="127.0.0.1", port=server.port, socket_timeout=5.0))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duel-")))
        judge = stack.enter_context(_judge(folder, workload.limits))
        _hear(judge, "ready")
        workers = [
            stack.enter_context(_worker(entrant, workload, folder, server.url, process))
            for process in range(workload.processes)
        ]
        reports = [folder / f"report-{process}" for process in range(workload.processes)]
        for worker in workers:
            _hear(worker, "ready")
        start_at = time.monotonic() + _START_AFTER_S
        measure_at = start_at + workload.warm_up_s
        stop_at = measure_at + workload.measured_s
        _tell(judge, f"{measure_at}")
        _hear(judge, "open")
        for worker in workers:
            _tell(worker, f"{start_at} {stop_at}")
        _sleep_until(measure_at)
        before = _look(client, server.pid, judge, workers)
        while time.monotonic() < stop_at and not all(report.exists() for report in reports):
            time.sleep(_POLL_S)
        after = _look(client, server.pid, judge, workers)
        for process in (*workers, judge):
            _finish(process)
        seen = [json.loads(report.read_text()) for report in reports]
        log = json.loads((folder / "log").read_text())
    return _bout(seen, log, started_at=start_at - measure_at, zero=measure_at, load=after - before)


def _bout(reports: list[Any], log: list[Any], *, started_at: float, zero: float, load: Load) -> Bout:
    return Bout(
        started_at=started_at,
        served=tuple(
            Served(
                process=process, asked_at=asked - zero, sent_at=sent - zero, tokens=tokens, refusals=refusals
            )
            for process, report in enumerate(reports)
            for asked, sent, tokens, refusals in report["served"]
        ),
        pending=tuple((asked - zero, tokens) for report in reports for asked, tokens in report["pending"]),
        sent=tuple(
            Sent(at=at - zero, tokens=tokens, process=process, wait_s=wait_s)
            for at, tokens, process, wait_s in log
        ),
        judge_round_trips_s=tuple(seconds for report in reports for seconds in report["judge_round_trips_s"]),
        load=load,
    )


def _look(
    client: redis.Redis, redis_pid: int, judge: subprocess.Popen[str], workers: list[subprocess.Popen[str]]
) -> Load:
    commands: dict[str, Any] = client.info("commandstats")
    stats: dict[str, Any] = client.info("stats")
    return Load(
        seconds=time.monotonic(),
        workers_cpu_s=sum(cpu_s(worker.pid) for worker in workers),
        judge_cpu_s=cpu_s(judge.pid),
        redis_cpu_s=cpu_s(redis_pid),
        redis_messages=stats["total_reads_processed"],
        script_us=sum(commands[name]["usec"] for name in _SCRIPT_COMMANDS if name in commands),
    )


def _judge(folder: Path, limits: Limits) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    fields = json.dumps(dataclasses.asdict(limits))
    return _running(Path(sys.executable), "benchmarks.duel.judge", str(folder), fields)


def _worker(
    entrant: Entrant, workload: Workload, folder: Path, redis_url: str, process: int
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    orders = workload.orders(entrant.contender, folder, redis_url, process)
    return _running(entrant.python, "benchmarks.duel.worker", orders.to_json())


@contextlib.contextmanager
def _running(python: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [python, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _READY_WITHIN_S)[0]:
        raise RuntimeError(f"a process of the duel did not say {word!r} within {_READY_WITHIN_S:g} s")
    if (line := process.stdout.readline().strip()) != word:
        raise RuntimeError(f"a process of the duel said {line!r} and not {word!r}: see its error above")


def _finish(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    if (code := process.wait(_END_WITHIN_S)) != 0:
        raise RuntimeError(f"a process of the duel ended with code {code}: see its error above")


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
