"""A run as one line, and runs as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tests.chaos.conductor import Run
from tests.chaos.verdict import Promise

_MOST_SHOWN = 12


def line(run: Run) -> str:
    """Return one line: the seed, its faults, what became of the events, what was broken and what allowed."""
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(run.verdict.fates.items()))
    parts = [
        f"seed {run.seed}",
        " ".join(map(str, run.schedule)),
        f"{fates}; {run.verdict.parked} parked, {run.verdict.calls} calls",
        f"allowed: {_counted(run.verdict.excused)}",
        f"broken: {_counted(run.verdict.broken)}",
        f"{run.seconds:.0f} s, drained in {run.drained_s:.0f} s",
        f"logs up to {run.largest_log_bytes >> 10} KiB",
    ]
    if run.said_dead:
        parts.append(f"{len(run.said_dead)} times /livez said dead")
    return " | ".join([*parts, "ok" if run.is_good else "FAILED"])


def details(run: Run) -> str:
    """Return what is wrong with a run, its logs' folder and how to repeat it; empty when nothing is."""
    if run.is_good and not run.said_dead:
        return ""
    shown: Counter[Promise] = Counter()
    lines = [f"  to repeat: make chaos SEED={run.seed} RUNS=1 (logs in {run.folder})"]
    for finding in run.verdict.failures:
        shown[finding.promise] += 1
        if shown[finding.promise] <= _MOST_SHOWN:
            lines.append(f"  {finding.promise}: {finding.what}")
    lines += [f"  trouble: {trouble}" for trouble in run.troubles]
    lines += [f"  said dead: {said}" for said in run.said_dead[:_MOST_SHOWN]]
    return "\n".join(lines)


def table(runs: Iterable[Run]) -> str:
    """Return the runs as a Markdown table."""
    rows = [
        "| seed | faults | events | parked | calls | allowed | broken |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        faults = ", ".join(fault.kind for fault in run.schedule)
        cells = (
            *(run.seed, faults, sum(run.verdict.fates.values()), run.verdict.parked, run.verdict.calls),
            *(_counted(run.verdict.excused), _counted(run.verdict.broken)),
        )
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def _counted(found: Mapping[Promise, int]) -> str:
    return ", ".join(f"{count} {promise}" for promise, count in sorted(found.items())) or "0"
