"""`python -m benchmarks.duel`: our limiter and others keep one provider's limit, side by side, in real time.

`--quick` is one short run for a smoke test. How to read the table: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.duel.bout import fight
from benchmarks.duel.entrants import OURS, PEERS, entrants
from benchmarks.duel.figures import Figures, figures
from benchmarks.duel.peers_env import versions
from benchmarks.duel.table import print_bouts
from benchmarks.duel.workload import full_workload, quick_workload
from sluicegate.local.provider.quota import Enforcement


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duel", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=[e.value for e in Enforcement])
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--callers", type=int, default=40, help="per process")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables as docs/benchmarks.md has them"
    )
    parser.add_argument("--quick", action="store_true", help="8 s, 2 processes x 20 callers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] = ()) -> None:
    """Run the bouts and print a table for each model."""
    args = _arguments(arguments)
    chosen, absent = entrants(args.only or [*OURS, *PEERS])
    if peers := [entrant for entrant in chosen if entrant.is_peer]:
        print(f"peers: {versions(peers[0].python)}")
    for enforcement in map(Enforcement, args.models or list(Enforcement)):
        results: dict[str, list[Figures]] = {}
        for seed in range(args.seed, args.seed + args.runs):
            if args.quick:
                work = quick_workload(enforcement, seed=seed)
            else:
                work = full_workload(enforcement, processes=args.processes, callers=args.callers, seed=seed)
            for entrant in [entrant for entrant in chosen if entrant.label not in absent]:
                try:
                    bout = fight(entrant, work)
                except RuntimeError as exc:
                    if not entrant.is_peer:
                        raise
                    absent[entrant.label] = f"failed: {exc}"
                else:
                    results.setdefault(entrant.label, []).append(figures(bout, work))
        print(
            f"\n{work.processes} processes x {work.callers} callers, {work.warm_up_s:g} s discarded, then"
            f" {work.measured_s:g} s measured, {args.runs} runs with seeds from {args.seed}"
        )
        print_bouts(enforcement, results, absent, markdown=args.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
