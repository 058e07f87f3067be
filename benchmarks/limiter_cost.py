"""`python -m benchmarks.limiter_cost`: what a call costs our own process, and how that grows.

CPU of one process for acquire and settle, with a quota that never binds and with one that always does, with
10 to 10,000 callers waiting; then Redis messages per call over 1, 4 and 16 processes. What a booking costs
Redis itself is printed by `benchmarks.limiter_booking`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.duel.bout import fight
from benchmarks.duel.contender import Call, Plan
from benchmarks.duel.entrants import Entrant
from benchmarks.duel.figures import figures
from benchmarks.duel.ours import Ours
from benchmarks.duel.table import print_table
from benchmarks.duel.workload import duel_workload
from sluicegate.local.provider.quota import Enforcement
from sluicegate.local.redis_server import RedisServer

_SETTLE_IN_S = 1.0
_WATCH_S = 3.0
_SATURATED_PER_S = 500
_NEVER_BINDS_PER_S = 10_000_000
_CALLERS_AT_ALL = 160  # of all processes, however many there are
_SEED = 20261124


def _plan(url: str, per_s: int) -> Plan:
    return Plan(
        redis_url=url,
        process=0,
        concurrency=0,
        window_s=1.0,
        requests_per_window=per_s,
        tokens_per_window=per_s * 1_000,
        largest_call_tokens=1_000,
        seed=_SEED,
    )


async def _cost(url: str, *, per_s: int, callers: int) -> tuple[float, float]:
    """Return the CPU of this process per call (us), and calls/s."""
    limiter, served = Ours(), 0
    call = Call(tokens=500, asked_at_ms=0, refusals=0)

    async def hungry() -> None:
        nonlocal served
        while True:
            permit = await limiter.acquire(call)
            await asyncio.sleep(0)
            await limiter.done(permit, call)
            served += 1

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as watch, asyncio.TaskGroup() as tasks:
            await limiter.open(_plan(url, per_s), tasks)
            for _ in range(callers):
                tasks.create_task(hungry())
            await asyncio.sleep(_SETTLE_IN_S)
            before, cpu_before_s, began_at = served, time.process_time(), time.monotonic()
            await asyncio.sleep(_WATCH_S)
            cpu_s, seconds = time.process_time() - cpu_before_s, time.monotonic() - began_at
            calls = served - before
            watch.reschedule(asyncio.get_running_loop().time())
    return 1e6 * cpu_s / max(1, calls), calls / seconds


def _python_rows() -> list[list[str]]:
    rows = []
    for name, per_s, callers in (
        ("never binds", _NEVER_BINDS_PER_S, 1),
        ("never binds", _NEVER_BINDS_PER_S, 100),
        *(("always binds", _SATURATED_PER_S, callers) for callers in (10, 100, 1_000, 10_000)),
    ):
        with RedisServer() as server:
            cpu_us, calls_per_s = asyncio.run(_cost(server.url, per_s=per_s, callers=callers))
        rows.append([name, f"{callers:,}", f"{cpu_us:.0f}", f"{calls_per_s:,.0f}"])
    return rows


def _process_rows() -> list[list[str]]:
    ours = Entrant(label="ours", contender="benchmarks.duel.ours:Ours", python=Path(sys.executable))
    rows = []
    for processes in (1, 4, 16):
        work = duel_workload(
            Enforcement.BUCKET,
            processes=processes,
            callers=_CALLERS_AT_ALL // processes,
            seed=_SEED,
            warm_up_s=6.0,
            measured_s=12.0,
        )
        seen = figures(fight(ours, work), work)
        rows.append(
            [
                str(processes),
                f"{seen.redis_messages_per_call:.2f}",
                f"{seen.script_us_per_call:.0f}",
                f"{1e6 * seen.workers_cpu / (seen.calls / work.measured_s):,.0f}",
                f"{100 * seen.utilisation:.1f}",
                f"{seen.p99_to_ideal:.2f}",
                f"{seen.fairness:.3f}",
            ]
        )
    return rows


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limiter_cost", description=__doc__)
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables as docs/benchmarks.md has them"
    )
    markdown = parser.parse_args(arguments).markdown
    print_table(["quota", "callers", "CPU µs/call", "calls/s"], _python_rows(), markdown=markdown)
    print()
    head = ["processes", "Redis messages/call", "script µs/call", "workers' CPU µs/call", "utilisation %"]
    print_table([*head, "p99 / ideal", "Jain"], _process_rows(), markdown=markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
