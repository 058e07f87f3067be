"""`python -m benchmarks.makespan`: how long 1,500 calls take at a provider of 50 requests/s, nothing tuned.

Beside the plain backoff recipe, on the same provider. `--models fixed` watches three whole minutes instead,
and counts how many of their requests were used. How to read the table: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.duel.bout import Bout, fight
from benchmarks.duel.entrants import Entrant
from benchmarks.duel.figures import quantile
from benchmarks.duel.table import cell, print_table
from benchmarks.duel.workload import Workload
from sluicegate.local.provider.quota import Enforcement, Limits

_CALLS = 1_500
_PER_MINUTE, _PER_S = 3_000, 50
_BURST = 10
_LATENCY_S = 0.1
_IDEAL_S = (_CALLS - _BURST) / _PER_S + _LATENCY_S
_WINDOWS = 3
_LONGEST_S = 180.0
_CALLERS = 80  # of all processes, when the provider is watched for minutes
_CONCURRENCY = 40  # of all processes, for the recipe

_ENTRANTS = (
    Entrant(label="sluicegate", contender="benchmarks.duel.ours:Ours", python=Path(sys.executable)),
    Entrant(label="plain backoff", contender="benchmarks.duel.recipe:Recipe", python=Path(sys.executable)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Makespan:
    """One run. `share` is ideal time / time, or of fixed minutes the requests used / those to be had."""

    seconds: float
    share: float
    refused: int
    messages_per_call: float
    judge_p99_ms: float


_COLUMNS: tuple[tuple[str, Callable[[Makespan], float], str], ...] = (
    ("seconds", lambda m: m.seconds, ".2f"),
    ("of the ideal %", lambda m: 100 * m.share, ".1f"),
    ("429s", lambda m: m.refused, ".0f"),
    ("Redis messages/call", lambda m: m.messages_per_call, ".2f"),
    ("judge p99 ms", lambda m: m.judge_p99_ms, ".1f"),
)


def _workload(enforcement: Enforcement, processes: int, seed: int) -> Workload:
    is_fixed = enforcement is Enforcement.FIXED
    return Workload(
        processes=processes,
        callers=_CALLERS // processes,
        calls=0 if is_fixed else _CALLS,
        limits=Limits(
            enforcement=enforcement,
            requests_per_minute=_PER_MINUTE,
            tokens_per_minute=1e12,
            burst_s=_BURST / _PER_S,
        ),
        window_s=60.0,
        requests_per_window=_PER_MINUTE,
        tokens_per_window=0,
        warm_up_s=2.0 if is_fixed else 0.0,
        measured_s=60.0 * _WINDOWS if is_fixed else _LONGEST_S,
        seed=seed,
        concurrency=_CONCURRENCY // processes,
        latency_s=_LATENCY_S,
    )


def _makespan(bout: Bout, workload: Workload) -> Makespan:
    inside = [call for call in bout.served if 0 <= call.sent_at < workload.measured_s]
    if workload.calls:
        unserved = len(bout.pending)
        seconds = workload.measured_s if unserved else max(c.sent_at for c in bout.served) + _LATENCY_S
        share = _IDEAL_S / seconds
    else:
        seconds, share = workload.measured_s, len(inside) / (_PER_MINUTE * _WINDOWS)
    return Makespan(
        seconds=seconds,
        share=share,
        refused=sum(call.wait_s > 0 for call in bout.sent),
        messages_per_call=bout.load.redis_messages / len(inside),
        judge_p99_ms=1e3 * quantile(sorted(bout.judge_round_trips_s), 0.99),
    )


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    models = [Enforcement.BUCKET.value, Enforcement.SLICE.value, Enforcement.FIXED.value]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.makespan", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=models, default=models[:2])
    parser.add_argument("--processes", nargs="+", type=int, choices=(1, 2, 4), default=[2])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--markdown", action="store_true", help="print the table as docs/benchmarks.md has it"
    )
    return parser.parse_args(arguments)


def _rows(args: argparse.Namespace, processes: int) -> Sequence[Sequence[str]]:
    rows = []
    for enforcement in map(Enforcement, args.models):
        runs: dict[str, list[Makespan]] = {entrant.label: [] for entrant in _ENTRANTS}
        for run in range(args.runs):
            for entrant in _ENTRANTS:
                workload = _workload(enforcement, processes, args.seed + run)
                runs[entrant.label].append(_makespan(fight(entrant, workload), workload))
        ours, recipe = (statistics.median(m.seconds / m.share for m in each) for each in runs.values())
        for label, each in runs.items():
            ratio = f"{recipe / ours:.2f}" if label == _ENTRANTS[0].label else "1"
            cells = [cell([read(m) for m in each], form) for _, read, form in _COLUMNS]
            rows.append([enforcement.value, str(processes), label, *cells, ratio])
    return rows


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    args = _arguments(arguments)
    print(
        f"{_CALLS:,} calls of {1000 * _LATENCY_S:g} ms at {_PER_S}/s with a burst of {_BURST}: ideal"
        f" {_IDEAL_S:g} s; fixed: {_WINDOWS} whole minutes of {_PER_MINUTE:,} requests; seed {args.seed}",
        flush=True,
    )
    rows = [row for processes in args.processes for row in _rows(args, processes)]
    head = [
        "provider",
        "processes",
        "limiter",
        *(title for title, _, _ in _COLUMNS),
        "times as fast as backoff",
    ]
    print_table(head, rows, markdown=args.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
