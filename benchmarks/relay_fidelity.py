"""How true releases are to the moments drawn for them: lateness, bursts, a heap beside a FIFO tier.

Run with `python -m benchmarks.relay_fidelity`. Every process is real; records are parked as a worker parks
them, with due times drawn from a fixed seed. Lateness is the append time in `due` less the due time;
"seen" is when a plain consumer of `due` had the record.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.duel.table import print_table
from benchmarks.relay_figures import Release, most_above_drawn, most_in_a_window, quantile
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

_WINDOW_MS = 100
_SETTLE_S = 20.0
_STEP_S = 0.02


def main(argv: Sequence[str] = ()) -> None:
    """Print both tables."""
    args = arguments(__doc__, "relay_fidelity").parse_args(argv)
    with ExitStack() as stack:
        world = stack.enter_context(RelayWorld(kafka=real_kafka(stack, args.kafka)))
        world.start_relay()
        chance = random.Random(args.seed)
        _lateness(world, chance, markdown=args.markdown)
        _bursts(world, chance, markdown=args.markdown)


# --- lateness -------------------------------------------------------------------------------------


def _lateness(world: RelayWorld, chance: random.Random, *, markdown: bool) -> None:
    rows = []
    for name, prefix, per_s, for_s in (("idle: 10 due/s", "i", 10, 20), ("200 due/s", "b", 200, 20)):
        count = per_s * for_s
        with DueReader(world.kafka, world.topics.due, world.partitions) as reader:
            start_ms = now_ms() + 500
            moments = sorted(start_ms + chance.uniform(0, for_s * 1000) for _ in range(count))
            _park_steadily(
                world,
                [
                    (at, Parked(copy=copy, due_ms=int(at) + chance.randint(5_500, 15_000), partition=n % 12))
                    for n, (at, copy) in enumerate(zip(moments, copies(count, prefix), strict=True))
                ],
            )
            time.sleep(16.5)
            found = _of(prefix, reader)
        rows.append([name, *_late_cells(found, count)])
    count = 5_000
    with DueReader(world.kafka, world.topics.due, world.partitions) as reader:
        due_ms = now_ms() + 15_000
        world.park(
            [Parked(copy=c, due_ms=due_ms, partition=n % 12) for n, c in enumerate(copies(count, "s"))]
        )
        time.sleep(18)
        found = _of("s", reader)
    last_ms = max(release.late_ms for release in found)
    rows.append(
        [
            f"5,000 due at one instant: {count / last_ms * 1000:,.0f}/s until the last",
            *_late_cells(found, count),
        ]
    )
    head = ["load", "records", "lost", "early", "p50 ms", "p99 ms", "most ms", "seen p50 ms", "seen p99 ms"]
    print(f"\n{'### ' if markdown else ''}Lateness\n")
    print_table(head, rows, markdown=markdown)
    print(f"\n{load_average()}", flush=True)


def _late_cells(found: Sequence[Release], count: int) -> list[str]:
    late = [release.late_ms for release in found]
    seen = [release.seen_ms - release.due_ms for release in found]
    return [
        str(count),
        str(count - len({release.copy for release in found})),
        str(sum(each < 0 for each in late)),
        *(f"{quantile(late, share):.0f}" for share in (0.5, 0.99, 1.0)),
        *(f"{quantile(seen, share):.0f}" for share in (0.5, 0.99)),
    ]


def _park_steadily(
    world: RelayWorld, plan: Sequence[tuple[float, Parked]], also_to: str | None = None
) -> None:
    """Park each record at its moment (Unix ms), within a few milliseconds."""
    left = list(plan)
    while left:
        now = now_ms()
        ready = [parked for at, parked in left if at <= now]
        left = left[len(ready) :]
        if ready:
            world.park(ready, also_to=also_to)
        time.sleep(_STEP_S)


def _of(prefix: str, reader: DueReader) -> list[Release]:
    return [release for release in reader.releases if release.copy.startswith(f"1-{prefix}")]


# --- bursts ---------------------------------------------------------------------------------------


def _bursts(world: RelayWorld, chance: random.Random, *, markdown: bool) -> None:
    rows = []
    fifo_tier, fifo_due = f"{world.topics.due}.fifo-tier", f"{world.topics.due}.fifo"
    world.make_topics([fifo_tier, fifo_due], {"message.timestamp.type": "LogAppendTime"})
    try:
        with (
            _fifo(world, fifo_tier, fifo_due),
            DueReader(world.kafka, world.topics.due, world.partitions) as heap,
            DueReader(world.kafka, fifo_due, world.partitions) as fifo,
        ):
            for count, over_s, prefix in ((1_000, 0.0, "t"), (10_000, 60.0, "u")):
                start_ms = now_ms() + 200
                begun = sorted(start_ms + chance.uniform(0, over_s * 1000) for _ in range(count))
                plan = [
                    (at, Parked(copy=c, due_ms=int(at + chance.uniform(30_000, 60_000)), partition=n % 12))
                    for n, (at, c) in enumerate(zip(begun, copies(count, prefix), strict=True))
                ]
                _park_steadily(world, plan, also_to=fifo_tier)
                time.sleep(max(0.0, (plan[-1][0] - now_ms()) / 1000 + 60 + 2))
                title = f"{count:,} parked {f'over {over_s:.0f} s' if over_s else 'together'}"
                drawn = [parked.due_ms for _, parked in plan]
                rows.append([title, "as drawn", "0", "0", "0", str(most_in_a_window(drawn, _WINDOW_MS)), "0"])
                for name, reader in (("heap (relay)", heap), ("FIFO tier", fifo)):
                    rows.append([title, name, *_burst_cells(_of(prefix, reader), count)])
    finally:
        world.delete_topics([fifo_tier, fifo_due])
    head = [
        "work",
        "tier",
        "lost",
        "mean late ms",
        "p99 late ms",
        "most in 100 ms",
        "above drawn in any 100 ms",
    ]
    print(f"\n{'### ' if markdown else ''}Bursts: delays U(30, 60) s\n")
    print_table(head, rows, markdown=markdown)
    print(f"\n{load_average()}", flush=True)


def _burst_cells(found: Sequence[Release], count: int) -> list[str]:
    late = [release.late_ms for release in found]
    return [
        str(count - len({release.copy for release in found})),
        f"{sum(late) / max(1, len(late)):,.1f}",
        f"{quantile(late, 0.99):,.0f}",
        str(most_in_a_window([release.stored_ms for release in found], _WINDOW_MS)),
        str(most_above_drawn(found, _WINDOW_MS)),
    ]


@contextmanager
def _fifo(world: RelayWorld, tier: str, due: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.fifo_tier", world.kafka, tier, due])
    try:
        time.sleep(_SETTLE_S / 5)
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
