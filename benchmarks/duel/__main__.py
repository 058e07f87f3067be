"""`python -m benchmarks.duel`: our limiter and others keep one provider's limit, side by side, in real time.

`--quick` is one short run for a smoke test. How to read the table: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.duel import peers_env
from benchmarks.duel.bout import Entrant, Workload, fight
from benchmarks.duel.figures import Figures, figures
from benchmarks.duel.table import print_bouts
from sluicegate.local.provider.quota import Enforcement, Limits

WINDOW_S = 6.0
REQUESTS, TOKENS = 600, 300_000
MEAN_TOKENS, LARGEST_TOKENS = 1_000.0, 20_000
BUCKET_BURST_S = 1.0  # a sixth of the window: vendors enforce over one to ten seconds of a minute

OURS = {
    "ours": ("sluicegate", "benchmarks.duel.ours:Ours"),
    "strict": ("sluicegate, strict", "benchmarks.duel.ours:OursStrict"),
    "recipe": ("plain backoff", "benchmarks.duel.recipe:Recipe"),
}
PEERS = {
    "litellm": ("LiteLLM v3 script", "benchmarks.duel.peers:LitellmV3"),
    "limits-moving": ("limits, moving window", "benchmarks.duel.peers:LimitsMoving"),
    "limits-sliding": ("limits, sliding counter", "benchmarks.duel.peers:LimitsSliding"),
    "pyrate-log": ("pyrate-limiter, log", "benchmarks.duel.peers:PyrateLog"),
    "pyrate-gcra": ("pyrate-limiter, GCRA", "benchmarks.duel.peers:PyrateGcra"),
    "throttled": ("throttled-py, GCRA", "benchmarks.duel.peers:ThrottledGcra"),
}


def workload(
    enforcement: Enforcement, *, processes: int, callers: int, seed: int, warm_up_s: float, measured_s: float
) -> Workload:
    """Return the duel's workload against one model of a provider."""
    return Workload(
        processes=processes,
        callers=callers,
        limits=Limits(
            enforcement=enforcement,
            requests_per_minute=REQUESTS * 60 / WINDOW_S,
            tokens_per_minute=TOKENS * 60 / WINDOW_S,
            burst_s=BUCKET_BURST_S,
            window_s=WINDOW_S,
        ),
        window_s=WINDOW_S,
        requests_per_window=REQUESTS,
        tokens_per_window=TOKENS,
        warm_up_s=warm_up_s,
        measured_s=measured_s,
        seed=seed,
        concurrency=callers,
        mean_tokens=MEAN_TOKENS,
        largest_call_tokens=LARGEST_TOKENS,
    )


def entrants(names: list[str]) -> tuple[list[Entrant], dict[str, str]]:
    """Return who fights, and why those do not who cannot."""
    here, absent = Path(sys.executable), {}
    chosen = [Entrant(label=OURS[n][0], contender=OURS[n][1], python=here) for n in names if n in OURS]
    if peers := [name for name in names if name in PEERS]:
        try:
            python = peers_env.prepare()
        except (OSError, peers_env.NotInstalledError) as exc:
            absent = {PEERS[name][0]: str(exc) for name in peers}
        else:
            chosen += [Entrant(label=PEERS[n][0], contender=PEERS[n][1], python=python) for n in peers]
    return chosen, absent


def _arguments() -> argparse.Namespace:
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
    return parser.parse_args()


def main() -> None:
    """Run the bouts and print a table for each model."""
    args = _arguments()
    processes, callers = (2, 20) if args.quick else (args.processes, args.callers)
    # After a window and the first turn of all callers the queue stands; then four whole windows are watched.
    turn_s = processes * callers / min(REQUESTS / WINDOW_S, TOKENS / WINDOW_S / MEAN_TOKENS)
    warm_up_s, measured_s = (2.0, WINDOW_S) if args.quick else (max(WINDOW_S, 1.5 * turn_s), 4 * WINDOW_S)
    chosen, absent = entrants(args.only or [*OURS, *PEERS])
    print(
        f"seeds {args.seed} to {args.seed + args.runs - 1}, {processes} processes x {callers} callers,"
        f" {warm_up_s:g} s discarded, then {measured_s:g} s measured",
        flush=True,
    )
    for enforcement in map(Enforcement, args.models or list(Enforcement)):
        results: dict[str, list[Figures]] = {}
        for run in range(args.runs):
            for entrant in chosen:
                work = workload(
                    enforcement,
                    processes=processes,
                    callers=callers,
                    seed=args.seed + run,
                    warm_up_s=warm_up_s,
                    measured_s=measured_s,
                )
                results.setdefault(entrant.label, []).append(figures(fight(entrant, work), work))
        print_bouts(enforcement, results, absent, markdown=args.markdown)


if __name__ == "__main__":
    main()
