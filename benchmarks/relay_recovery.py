"""What a kill -9 costs: one of two relays dies, the other goes on with its partitions.

Run with `python -m benchmarks.relay_recovery`. Records become due steadily; one is killed in the middle.
Lateness is the append time in `due` less the due time, of every record's first release; a repeat is a
second release of the same copy, which Take drops. The same with SIGTERM and restart, as in a rollout.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.duel.table import print_table
from benchmarks.relay_figures import Release, quantile
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

_FOR_S = 30
_FAULT_AFTER_S = 8.0


def main(argv: Sequence[str] = ()) -> None:
    """Print the table."""
    args = arguments(__doc__, "relay_recovery").parse_args(argv)
    with ExitStack() as stack:
        kafka = real_kafka(stack, args.kafka)
        rows = [
            _case(kafka, random.Random(args.seed), fault, 100, held)
            for held in (0, 100_000)
            for fault in ("kill -9", "SIGTERM, restart")
        ]
    head = [
        *("fault", "due/s", "held besides", "session timeout s", "records", "lost", "early"),
        *("longest late s", "late over 1 s", "repeats"),
    ]
    print(f"\n{'### ' if args.markdown else ''}Recovery\n")
    print_table(head, rows, markdown=args.markdown)
    print(f"\n{load_average()}", flush=True)


def _case(kafka: str, chance: random.Random, fault: str, per_s: int, held: int) -> list[str]:
    count = per_s * _FOR_S
    with RelayWorld(kafka=kafka, value_bytes=1_000) as world:
        victim = world.start_relay()
        world.start_relay()
        if held:
            due_ms = now_ms() + 118_000
            world.park(
                [Parked(copy=c, due_ms=due_ms, partition=n % 12) for n, c in enumerate(copies(held, "h"))]
            )
        with DueReader(world.kafka, world.topics.due, world.partitions) as reader:
            start_ms = now_ms() + 6_000
            world.park(
                [
                    Parked(copy=c, due_ms=start_ms + chance.randint(0, _FOR_S * 1000), partition=n % 12)
                    for n, c in enumerate(copies(count, "r"))
                ]
            )
            time.sleep(max(0.0, (start_ms - now_ms()) / 1000 + _FAULT_AFTER_S))
            if fault == "kill -9":
                victim.kill()
            else:
                world.stop(victim)
                world.start_relay()
            time.sleep(max(0.0, (start_ms - now_ms()) / 1000 + _FOR_S + 4))
            found = [release for release in reader.releases if release.copy.startswith("1-r")]
    return [fault, str(per_s), f"{held:,}", "6", f"{count:,}", *_cells(found, count)]


def _cells(found: Sequence[Release], count: int) -> list[str]:
    first: dict[str, Release] = {}
    for release in sorted(found, key=lambda each: each.stored_ms):
        first.setdefault(release.copy, release)
    late = [release.late_ms for release in first.values()]
    repeats = sum(times - 1 for times in Counter(release.copy for release in found).values())
    return [
        str(count - len(first)),
        str(sum(each < 0 for each in late)),
        f"{quantile(late, 1.0) / 1000:.1f}",
        str(sum(each > 1_000 for each in late)),
        str(repeats),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
