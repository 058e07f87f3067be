"""`make chaos SEED=n RUNS=k`: k runs from seed n on, one line each, and a table at the end."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.conductor import Run, run_seed
from tests.chaos.faults import FaultKind
from tests.chaos.report import details, line, table
from tests.chaos.stand import Broker


def main() -> int:
    """Run, print, and return 1 if any promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after the other")
    given = parser.parse_args()
    # Whoever is terminated leaves nobody behind: every process ends with its block.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    runs: list[Run] = []
    with Broker() as broker:
        for seed in range(given.seed, given.seed + given.runs):
            folder = Path(tempfile.mkdtemp(prefix=f"sluicegate-chaos-{seed}-"))
            run = run_seed(seed, broker, folder)
            runs.append(run)
            print(line(run), flush=True)
            if told := details(run):
                print(told, flush=True)
            if run.is_good:
                shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(runs)}")
    struck = {fault.kind for run in runs for fault in run.schedule}
    if untouched := sorted(set(FaultKind) - struck):
        print(f"\nnot drawn by these seeds: {', '.join(untouched)}")
    return 0 if all(run.is_good for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
