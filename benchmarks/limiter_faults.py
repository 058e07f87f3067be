"""What becomes of a limit, and for how long calls pause, in every way in which Redis goes away.

Run with `python -m benchmarks.limiter_faults [--markdown]`, which takes about a minute; it starts servers of
its own. The faults are those of `tests/contract/test_limiter_outages.py`: two processes, each with six
callers in each of two scopes that never stop asking for 100 calls/s with a burst of 5.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

import structlog

from tests.contract.limiter_crew import REQUESTS, fullest_window
from tests.contract.limiter_faults import FAULTS, GUARD_S, Fault, Passage, pass_through

_WINDOWS_S = (1.0, 6.0)
_CALLS_BEFORE = 300
_CALLS_AFTER = 450
_AT_ONCE = 3
_TIME_LIMIT_S = 90.0
_HEAD = (
    "fault",
    *(f"most in {window_s:g} s / allowed" for window_s in _WINDOWS_S),
    "calls while away",
    "last of them after, ms",
    "back to first call, s",
    "longest pause, s",
    "away and guard, s",
)


def _row(fault: Fault, passage: Passage) -> tuple[str, ...]:
    fullest = (
        max(fullest_window(starts, window_s, REQUESTS) for starts in passage.crew.starts.values())
        for window_s in _WINDOWS_S
    )
    away = passage.between(passage.away_at, passage.back_at)
    return (
        fault.name,
        *(f"{share:.3f}" for share in fullest),
        str(len(away)),
        f"{(max(away) - passage.away_at) * 1e3:.0f}" if away else "-",
        f"{max(passage.pauses_s()):.2f}",
        f"{passage.longest_pause_s():.2f}",
        f"{passage.back_at - passage.away_at + (GUARD_S if fault.is_other_run else 0):.2f}",
    )


async def _measure() -> list[tuple[str, ...]]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def measure(fault: Fault) -> tuple[str, ...]:
        async with places:
            passage = await pass_through(fault, calls_before=_CALLS_BEFORE, calls_after=_CALLS_AFTER)
            return _row(fault, passage)

    async with asyncio.timeout(_TIME_LIMIT_S):
        return await asyncio.gather(*map(measure, FAULTS))


def _print(rows: Sequence[Sequence[str]], *, markdown: bool) -> None:
    if markdown:
        for cells in (_HEAD, ["---"] * len(_HEAD), *rows):
            print(f"| {' | '.join(cells)} |")
        return
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    for cells in (_HEAD, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)))


def main(*, markdown: bool = False) -> None:
    """Print the table. A part above 1 is more than the limit allows; calls booked before may go at once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    _print(asyncio.run(_measure()), markdown=markdown)


if __name__ == "__main__":
    main(markdown="--markdown" in sys.argv)
