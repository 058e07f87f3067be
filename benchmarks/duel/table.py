"""The duel's tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.duel.figures import Figures
from sluicegate.local.provider.quota import Enforcement

_TITLES = {
    Enforcement.BUCKET: "continuous bucket that holds 1 s of the rate",
    Enforcement.SLICE: "calendar seconds, each with its share",
    Enforcement.FIXED: "fixed windows of 6 s",
    Enforcement.LOG: "sliding log of 6 s",
}
_COLUMNS: tuple[tuple[str, Callable[[Figures], float], str], ...] = (
    ("utilisation %", lambda f: 100 * f.utilisation, ".1f"),
    ("most in a window / limit", lambda f: f.most_in_a_window, ".2f"),
    ("429s per 1000", lambda f: f.refused_per_1000, ".1f"),
    ("Redis messages/call", lambda f: f.redis_messages_per_call, ".2f"),
    ("script µs/call", lambda f: f.script_us_per_call, ".0f"),
    ("Redis CPU µs/call", lambda f: f.redis_cpu_us_per_call, ".0f"),
    ("wait p50 s", lambda f: f.wait_p50_s, ".2f"),
    ("wait p99 s", lambda f: f.wait_p99_s, ".2f"),
    ("p99 / ideal", lambda f: f.p99_to_ideal, ".2f"),
    ("large / small wait", lambda f: f.large_to_small, ".2f"),
    ("large never served", lambda f: f.never_served, ".0f"),
    ("Jain", lambda f: f.fairness, ".3f"),
    ("workers' CPU s/s", lambda f: f.workers_cpu, ".2f"),
)


def print_bouts(
    enforcement: Enforcement, results: dict[str, list[Figures]], absent: dict[str, str], *, markdown: bool
) -> None:
    """Print one provider's table: the median of the runs, and the least and the most of several."""
    rows = [
        [label, *(cell([read(f) for f in runs], form) for _, read, form in _COLUMNS)]
        for label, runs in results.items()
    ]
    rows += [[label, reason] for label, reason in absent.items()]
    print(f"\n{'### ' if markdown else ''}Provider: {_TITLES[enforcement]}\n")
    print_table(["limiter", *(title for title, _, _ in _COLUMNS)], rows, markdown=markdown)
    everything = [f for runs in results.values() for f in runs]
    if everything:
        print(
            f"\nthe judge took at most {100 * max(f.harness_cpu for f in everything):.0f} % of one core and"
            f" answered within {max(f.judge_p99_ms for f in everything):.1f} ms (worst p99)",
            flush=True,
        )


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """Print rows under a head, in columns or as Markdown."""
    full = [head, *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in full]
        lines.insert(1, "|" + "---|" * len(head))
    else:
        widths = [max(len(row[i]) for row in full) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in full
        ]
    print("\n".join(line.rstrip() for line in lines), flush=True)


def cell(values: list[float], form: str) -> str:
    """Return the median, and the least and the most where there are several."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    middle = format(statistics.median(known), form)
    if len(known) == 1:
        return middle
    return f"{middle} ({format(min(known), form)}-{format(max(known), form)})"
