"""How a worker's CPU per event, speed and memory grow: with workers, running events, keys, partitions, size.

Run with `python -m benchmarks.worker_growth` in the repository's root: 5 minutes, on a real Kafka (the one at
`--kafka` or SLUICEGATE_TEST_KAFKA, else Kafka's own jars). Everything is on, as in `worker_throughput`;
figures are taken between the first and the last tenth of the results, and nothing is printed unless each
event has exactly one result. `x` columns are over the table's first row.

- workers: one and two on the same stream, CPU of both together over all events.
- memory: resident, before the first event and while 1,000 calls are on the wire as the provider counts them
  (`max_running` 1,334: a quarter is kept for retries), with the backlog behind them admitted; a bare loop
  with 1,000 beside it.
- keys: from a key an event to one for all; with order on, the handler does nothing, since one key in order
  can be no faster than its handler.
- partitions, and bytes of an event's text; the results stay small.

It misleads on few cores: two workers, the broker and this watcher then share them, so that events/s of two
workers say nothing of scaling, and CPU per event holds the cost of crowding. One worker at its full speed
packs more into a round trip to Redis than each of two at half of it, which counts against two. Resident
memory is what the process ever needed of the allocator, not what it uses: order matters, so each row is a
process of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.duel.table import print_table
from benchmarks.load import TEXT, Load, check_results, publish
from benchmarks.processes import memory_mb
from benchmarks.relay_world import arguments, load_average, real_kafka
from benchmarks.watching import Figures, ResultsWatch, Watched
from benchmarks.worker_world import (
    CALL,
    NOTHING,
    WAIT,
    Measured,
    MeasuredStream,
    WorkerWorld,
    end_in_order_when_told,
)

_LATENCY_MS = 8_000  # at 125 calls/s there are 1,000 on the wire
_HELD = 1_000
_MAX_RUNNING = 1_334  # of which a quarter are `due`'s alone
_HELD_EVENTS = 2_000
_TIMEOUT_S = 60.0
_LEAST_SHARE = 0.3
_HEAD = ["events", "events/s", "CPU ms/event", "x", "Redis ms/event", "MB idle", "MB running"]


def main(argv: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = arguments(__doc__, "worker_growth")
    parser.add_argument(
        "--events", type=int, default=6_000, help="events of a row; fewer where they are large"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(_TABLES), default=tuple(_TABLES))
    args = parser.parse_args(argv)
    end_in_order_when_told()
    load = load_average()
    with ExitStack() as stack:
        kafka = real_kafka(stack, args.kafka)
        world = stack.enter_context(WorkerWorld(kafka=kafka, latency_ms=_LATENCY_MS))
        for name in args.only:
            head, rows = _TABLES[name](world, args.events)
            print(f"\n{'### ' if args.markdown else ''}{name.capitalize()}\n")
            print_table(head, rows, markdown=args.markdown)
    print(f"\n{load} before it began", flush=True)


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _workers(world: WorkerWorld, events: int) -> Table:
    rows: list[list[str]] = []
    first: Figures | None = None
    for count in (1, 2):
        figures = _run(world, Measured(name=f"workers-{count}", handler=WAIT), _load(events), count)
        if min(figures.shares) < _LEAST_SHARE:
            raise AssertionError(f"one worker did {max(figures.shares):.0%} of the work: no figure")
        first = first or figures
        rows.append([str(count), *_cells(events, figures, first)])
    return ["workers", *_HEAD], rows


def _keys(world: WorkerWorld, events: int) -> Table:
    cases = (
        *((False, keys, events) for keys in (events, 100)),
        (False, 1, events // 2),
        *((True, keys, events) for keys in (events, 100)),
        (True, 1, events // 4),
    )
    rows: list[list[str]] = []
    firsts: dict[bool, Figures] = {}
    for ordered, keys, count in cases:
        name = f"keys-{keys}{'-ordered' if ordered else ''}"
        measured = Measured(name=name, handler=NOTHING if ordered else WAIT, ordered=ordered)
        figures = _run(world, measured, Load(events=count, keys=keys))
        first = firsts.setdefault(ordered, figures)
        kind = "in order, no work" if ordered else "100 ms each"
        rows.append([kind, f"{keys:,}", *_cells(count, figures, first)])
    return ["stream", "keys", *_HEAD], rows


def _partitions(world: WorkerWorld, events: int) -> Table:
    rows: list[list[str]] = []
    first: Figures | None = None
    for partitions in (1, 12, 48):
        measured = Measured(name=f"partitions-{partitions}", handler=WAIT, partitions=partitions)
        figures = _run(world, measured, _load(events))
        first = first or figures
        rows.append([str(partitions), *_cells(events, figures, first)])
    return ["partitions", *_HEAD], rows


def _payload(world: WorkerWorld, events: int) -> Table:
    cases = ((1_000, events), (10_000, events), (100_000, events // 4), (1_000_000, max(100, events // 20)))
    rows: list[list[str]] = []
    first: Figures | None = None
    for size, count in cases:
        measured = Measured(name=f"bytes-{size}", handler=WAIT, max_event_bytes=size + 1_000)
        figures = _run(world, measured, Load(events=count, keys=count, text_bytes=size))
        first = first or figures
        rows.append([f"{size:,}", *_cells(count, figures, first)])
    return ["bytes", *_HEAD], rows


def _memory(world: WorkerWorld, events: int) -> Table:
    measured = Measured(name="memory", handler=CALL, running=_MAX_RUNNING)
    load = Load(events=_HELD_EVENTS, keys=_HELD_EVENTS)
    with world.stream(measured) as stream:
        with stream.workers() as workers:
            mine = _held(
                stream, workers[0], stream.results, load, lambda: publish(world.kafka, stream.input, load)
            )
        with stream.bare_loop("--url", world.provider_url, "--running", str(_HELD)) as peer:
            bare = _held(stream, peer, stream.output("bare"), load, lambda: None)
    head = ["process", "MB idle", "calls on the wire", "MB with them", "MB above idle"]
    # The bare loop has no moment of idling: its events are there before it is.
    return head, [["worker", *mine], ["bare loop", "-", *bare[1:-1], "-"]]


def _held(
    stream: MeasuredStream, process: Watched, output: str, load: Load, begin: Callable[[], None]
) -> list[str]:
    """Return the cells of a process before its first event and while the provider has all of its calls."""
    idle_mb = memory_mb(process.pid)
    begin()
    deadline = time.monotonic() + _TIMEOUT_S
    held, held_mb = 0, 0.0
    results = ResultsWatch(stream.world.kafka, output, stream.measured.partitions)
    try:
        while results.count() < load.events:
            if time.monotonic() > deadline or process.exit_code is not None:
                raise AssertionError(f"only {results.count()} of {load.events} results came: no figure")
            held = max(held, stream.world.calls_in_flight())
            held_mb = max(held_mb, memory_mb(process.pid))
            time.sleep(0.05)
    finally:
        results.close()
    check_results(stream.world.kafka, output, stream.measured.partitions, load)
    if held < _HELD:
        raise AssertionError(f"at most {held} calls were on the wire at once, not {_HELD}: no figure")
    return [f"{idle_mb:.0f}", f"{held:,}", f"{held_mb:.0f}", f"{held_mb - idle_mb:.0f}"]


def _load(events: int) -> Load:
    return Load(events=events, keys=max(1, events // 4), text_bytes=len(TEXT))


def _run(world: WorkerWorld, measured: Measured, load: Load, count: int = 1) -> Figures:
    with world.stream(measured) as stream, stream.workers(count) as workers:
        figures = stream.watched_workers(workers, load)
    print(
        f"{measured.name}: {figures.events_per_s:,.0f}/s, {figures.cpu_ms:.3f} ms",
        file=sys.stderr,
        flush=True,
    )
    return figures


def _cells(events: int, figures: Figures, first: Figures) -> list[str]:
    return [
        *(f"{events:,}", f"{figures.events_per_s:,.0f}", f"{figures.cpu_ms:.3f}"),
        f"{figures.cpu_ms / first.cpu_ms:.2f}",
        *(f"{figures.redis_cpu_ms:.3f}", f"{figures.idle_mb:.0f}", f"{figures.running_mb:.0f}"),
    ]


_TABLES: dict[str, Callable[[WorkerWorld, int], Table]] = {
    "workers": _workers,
    "memory": _memory,
    "keys": _keys,
    "partitions": _partitions,
    "payload": _payload,
}


if __name__ == "__main__":
    main(sys.argv[1:])
