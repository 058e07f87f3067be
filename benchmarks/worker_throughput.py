"""Events a second, CPU per event and memory of a whole worker, beside its peers on the same events.

Run with `python -m benchmarks.worker_throughput` in the repository's root: 5 minutes. Kafka is the one at
`--kafka` (or SLUICEGATE_TEST_KAFKA), `--kafka jars` starts Kafka's own jars, else it is the embedded broker.
Cases: `wait` and `wait-ordered` (a handler that waits 100 ms), `nothing` (consume to publish), `calls` (a
real HTTP call of 100 ms, a conversation an event) and `chat` (the same in order, four events to a
conversation, whose history is sent along). Figures are taken between the first and the last tenth of the
results, with `max_running` 500; nothing is printed unless each event has exactly one result.

Peers: `bare_loop` (confluent-kafka, a semaphore, a task an event), `faust_recipe` (stock Faust with
`concurrency=500`, 1 where there is no work; it keeps no order), and for calls `http_alone`, the HTTP client
and nothing else. `x` columns are the worker's figure over the peer's.

It misleads where the machine is busy or has few cores: broker, provider, Redis and this watcher take part
of the same cores, so events/s is a lower bound and CPU per event the figure to compare. A quarter of a
worker's slots are kept for retries, so that of 500 at most 375 hold fresh events. A worker that is not
loaded packs less into one round trip: CPU per event falls with the rate.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, assert_never

import orjson

from benchmarks.duel.table import print_table
from benchmarks.load import Load
from benchmarks.peers import Peer
from benchmarks.relay_world import load_average
from benchmarks.watching import Figures
from benchmarks.worker_world import (
    CALL,
    NOTHING,
    WAIT,
    Measured,
    MeasuredStream,
    WorkerWorld,
    end_in_order_when_told,
)
from tests.fixtures.kafka_jars import JarKafka

_LATENCY_MS = 100
_HTTP_TIMEOUT_S = 120.0
_HEAD = [
    *("case", "process", "events/s", "x", "CPU ms/event", "x"),
    *("Redis ms/event", "MB idle", "MB running"),
]


class PeerKind(StrEnum):
    """What the worker is compared with."""

    FAUST = "stock Faust"
    BARE = "bare loop"
    HTTP = "HTTP alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured, with how many events to a key, and what its peers do for an event."""

    stream: Measured
    peers: tuple[PeerKind, ...] = (PeerKind.FAUST, PeerKind.BARE)
    events_per_key: int = 4
    is_call: bool = False
    work_s: float = 0.1

    @property
    def concurrency(self) -> int:
        """What the recipe on stock Faust needs to keep as many running; without work one is the fastest."""
        return self.stream.running if self.is_call or self.work_s else 1


_CASES = {
    case.stream.name: case
    for case in (
        Case(stream=Measured(name="wait", handler=WAIT)),
        Case(stream=Measured(name="wait-ordered", handler=WAIT, ordered=True)),
        # Without work a bare loop has published everything before it can be watched.
        Case(stream=Measured(name="nothing", handler=NOTHING), peers=(PeerKind.FAUST,), work_s=0),
        Case(
            stream=Measured(name="calls", handler=CALL),
            peers=tuple(PeerKind),
            events_per_key=1,
            is_call=True,
        ),
        Case(stream=Measured(name="chat", handler=CALL, ordered=True), is_call=True),
    )
}


def main(argv: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_throughput", description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(_CASES), metavar="CASE", help=", ".join(_CASES))
    parser.add_argument("--kafka", default=os.environ.get("SLUICEGATE_TEST_KAFKA"), help="ADDRESS or jars")
    parser.add_argument("--events", type=int, default=8_000)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--worker-only", action="store_true", help="leave out the peers")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table as docs/benchmarks.md has it"
    )
    options = parser.parse_args(argv)
    if unknown := [name for name in options.cases if name not in _CASES]:
        parser.error(f"no case {unknown[0]}; there are: {', '.join(_CASES)}")
    end_in_order_when_told()
    load = load_average()
    rows: list[list[str]] = []
    with ExitStack() as stack:
        kafka = options.kafka
        if kafka == "jars":
            kafka = stack.enter_context(JarKafka()).address
        world = stack.enter_context(WorkerWorld(kafka=kafka, latency_ms=_LATENCY_MS))
        for name in options.cases:
            case = _CASES[name]
            case = replace(case, stream=replace(case.stream, running=options.running))
            rows += _measure(world, case, options.events, worker_only=options.worker_only)
    print()
    print_table(_HEAD, rows, markdown=options.markdown)
    print(f"\n{load} before it began", flush=True)


def _measure(world: WorkerWorld, case: Case, events: int, *, worker_only: bool) -> list[list[str]]:
    load = Load(events=events, keys=max(1, events // case.events_per_key))
    name = case.stream.name
    calls_before = world.calls_made()
    with world.stream(case.stream) as stream:
        with stream.workers() as workers:
            mine = stream.watched_workers(workers, load)
        if case.is_call and (made := world.calls_made() - calls_before) != events:
            raise AssertionError(f"{made} calls were made for {events} events: no figure of a call")
        rows = [_shown(_row(name, "worker", mine))]
        for kind in () if worker_only else case.peers:
            rows += [_shown(row) for row in _peer_rows(stream, kind, case, load, mine)]
    if PeerKind.HTTP in case.peers:
        _check_same_prompts(world.provider_calls(calls_before))
    return rows


def _peer_rows(
    stream: MeasuredStream, kind: PeerKind, case: Case, load: Load, mine: Figures
) -> Iterator[list[str]]:
    name = case.stream.name
    options = ("--url", stream.world.provider_url) if case.is_call else ("--work-s", str(case.work_s))
    match kind:
        case PeerKind.FAUST:
            with stream.faust_recipe(case.concurrency, *options) as peer:
                figures = stream.watched([peer], load, output=stream.output("faust"), begin=lambda: None)
            yield _row(name, kind, figures, mine)
        case PeerKind.BARE:
            with stream.bare_loop(*options) as peer:
                figures = stream.watched([peer], load, output=stream.output("bare"), begin=lambda: None)
            yield _row(name, kind, figures, mine)
        case PeerKind.HTTP:
            for way in ("transport", "client"):
                yield _http_alone(stream.world, way, load.events, case.stream.running, mine)
        case _:
            assert_never(kind)


def _shown(row: list[str]) -> list[str]:
    print("  ".join(row), file=sys.stderr, flush=True)
    return row


def _row(case: str, process: str, figures: Figures, mine: Figures | None = None) -> list[str]:
    return [
        *(case, process, f"{figures.events_per_s:,.0f}"),
        f"{mine.events_per_s / figures.events_per_s:.2f}" if mine else "",
        f"{figures.cpu_ms:.3f}",
        f"{mine.cpu_ms / figures.cpu_ms:.2f}" if mine else "",
        "" if mine else f"{figures.redis_cpu_ms:.3f}",
        *(f"{figures.idle_mb:.0f}" if not mine else "", f"{figures.running_mb:.0f}"),
    ]


# --- the HTTP client alone ------------------------------------------------------------------------


def _http_alone(world: WorkerWorld, way: str, calls: int, running: int, mine: Figures) -> list[str]:
    arguments = (world.provider_url, "--calls", str(calls), "--running", str(running), "--way", way)
    with Peer("http_alone", arguments, folder=world.folder) as peer:
        if peer.wait(_HTTP_TIMEOUT_S) != 0:
            raise AssertionError("the HTTP client did not get through its calls")
        found = orjson.loads(peer.tail().splitlines()[-1])
    calls_per_s, cpu_ms = found["calls"] / found["seconds"], 1000 * found["cpu_s"] / found["calls"]
    return [
        *("calls", f"HTTP {way} alone", f"{calls_per_s:,.0f}", f"{mine.events_per_s / calls_per_s:.2f}"),
        *(f"{cpu_ms:.3f}", f"{mine.cpu_ms / cpu_ms:.2f}", "", "", ""),
    ]


def _check_same_prompts(calls: Sequence[Mapping[str, Any]]) -> None:
    """Raise AssertionError unless all calls had the same prompt: else the comparison would be none."""
    sizes = {call["prompt_tokens"] for call in calls}
    if len(sizes) != 1:
        raise AssertionError(f"the prompts differ in tokens: {sorted(sizes)}")


if __name__ == "__main__":
    main(sys.argv[1:])
