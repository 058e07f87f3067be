"""How much a relay hands on, and what it takes to hold: records/s and MB, and how each grows.

Run with `python -m benchmarks.relay_capacity`. Throughput: records that are overdue stand
in the tiers, the relay starts, and the rate is taken between the first and the last tenth of the appends
to `due`. Memory: records due in two minutes are read in; resident memory and the lateness of ten records a
second beside them are taken while all of them are held.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import httpx

from benchmarks.duel.table import print_table
from benchmarks.processes import cpu_s, memory_mb
from benchmarks.relay_figures import quantile
from benchmarks.relay_world import (
    DueReader,
    Parked,
    RelayWorld,
    arguments,
    copies,
    load_average,
    now_ms,
    real_kafka,
)
from benchmarks.watching import ResultsWatch
from sluicegate.local.processes import CommandProcess

_RUN_TIMEOUT_S = 120.0
_LOOK_S = 0.05


def main(argv: Sequence[str] = ()) -> None:
    """Print both tables."""
    parser = arguments(__doc__, "relay_capacity")
    parser.add_argument("--only", choices=("throughput", "memory"))
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        kafka = real_kafka(stack, args.kafka)
        if args.only != "memory":
            _throughput_table(kafka, markdown=args.markdown)
        if args.only != "throughput":
            _memory_table(kafka, random.Random(args.seed), markdown=args.markdown)


# --- throughput -----------------------------------------------------------------------------------


def _throughput_table(kafka: str, *, markdown: bool) -> None:
    cases = (
        (20_000, 12, 1_000, 1),
        (100_000, 12, 1_000, 1),
        (50_000, 1, 1_000, 1),
        (50_000, 48, 1_000, 1),
        (50_000, 12, 100, 1),
        (20_000, 12, 10_000, 1),
        (100_000, 12, 1_000, 2),
    )
    rows = [[*map(str, case), *_throughput(kafka, *case)] for case in cases]
    head = ["records", "partitions", "bytes", "relays", "records/s", "relays' CPU µs/record", "MB at the end"]
    print(f"\n{'### ' if markdown else ''}Throughput\n")
    print_table(head, rows, markdown=markdown)
    print(f"\n{load_average()}", flush=True)


def _throughput(kafka: str, records: int, partitions: int, value_bytes: int, relays: int) -> list[str]:
    with RelayWorld(kafka=kafka, partitions=partitions, value_bytes=value_bytes) as world:
        due_ms = now_ms() - 1
        world.park(
            [
                Parked(copy=copy, due_ms=due_ms, partition=n % partitions)
                for n, copy in enumerate(copies(records))
            ]
        )
        watch = ResultsWatch(kafka, world.topics.due, partitions)
        processes = [world.launch_relay() for _ in range(relays)]
        first = last = (0.0, 0, 0.0)
        deadline = time.monotonic() + _RUN_TIMEOUT_S
        while last[1] < records * 0.9 and time.monotonic() < deadline:
            last = (time.monotonic(), watch.count(), sum(cpu_s(each.pid) for each in processes))
            if first[1] < records * 0.1:
                first = last
            time.sleep(_LOOK_S)
        watch.close()
        memory = max(memory_mb(each.pid) for each in processes)
    count = last[1] - first[1]
    if count <= 0:
        return ["-", "-", "-"]
    return [
        f"{count / (last[0] - first[0]):,.0f}",
        f"{(last[2] - first[2]) / count * 1e6:.0f}",
        f"{memory:.0f}",
    ]


# --- memory ---------------------------------------------------------------------------------------


def _memory_table(kafka: str, chance: random.Random, *, markdown: bool) -> None:
    cases = (
        (10_000, 1_000),
        (50_000, 1_000),
        (100_000, 1_000),
        (200_000, 1_000),
        (100_000, 100),
        (100_000, 5_000),
    )
    rows = [[f"{records:,}", f"{size:,}", *_memory(kafka, chance, records, size)] for records, size in cases]
    head = [
        *("parked", "bytes", "held", "MB above idle", "MB per 100,000 held", "read in s"),
        *("p99 late ms beside", "most late ms beside"),
    ]
    print(f"\n{'### ' if markdown else ''}Memory\n")
    print_table(head, rows, markdown=markdown)
    print(f"\n{load_average()}", flush=True)


def _memory(kafka: str, chance: random.Random, records: int, value_bytes: int) -> list[str]:
    with RelayWorld(kafka=kafka, value_bytes=value_bytes) as world:
        relay = world.start_relay()
        idle_mb = memory_mb(relay.pid)
        begun = time.monotonic()
        due_ms = now_ms() + 118_000
        world.park(
            [Parked(copy=c, due_ms=due_ms, partition=n % 12) for n, c in enumerate(copies(records, "m"))]
        )
        held = _held_when_still(relay)
        read_in_s = time.monotonic() - begun
        with DueReader(world.kafka, world.topics.due, world.partitions) as reader:
            start_ms = now_ms()
            beside = [
                Parked(copy=c, due_ms=start_ms + 500 + chance.randint(0, 10_000), partition=n % 12)
                for n, c in enumerate(copies(100, "x"))
            ]
            world.park(beside)
            late = [release.late_ms for release in reader.wait_for(len(beside), 12)]
        memory = memory_mb(relay.pid) - idle_mb
    return [
        f"{held:,}",
        f"{memory:.0f}",
        f"{memory / held * 100_000:.0f}",
        f"{read_in_s:.1f}",
        f"{quantile(late, 0.99):.0f}",
        f"{quantile(late, 1.0):.0f}",
    ]


def _held_when_still(relay: CommandProcess) -> int:
    """Return how many records the relay holds once that does not change any more."""
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    before = -1.0
    while time.monotonic() < deadline:
        held = sum(_metric(relay, "sluicegate_relay_waiting{"))
        if held and held == before:
            return int(held)
        before = held
        time.sleep(2.5)  # above the interval in which the relay looks
    raise AssertionError("the relay's memory does not come to rest")


def _metric(relay: CommandProcess, name: str) -> list[float]:
    text = httpx.get(f"http://127.0.0.1:{_port(relay)}/metrics", timeout=5, trust_env=False).text
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)]


def _port(relay: CommandProcess) -> int:
    line = next(line for line in relay.log.read_text().splitlines() if "health.listening" in line)
    return int(line.partition('"port":')[2].split(",")[0].strip(" }"))


if __name__ == "__main__":
    main(sys.argv[1:])
