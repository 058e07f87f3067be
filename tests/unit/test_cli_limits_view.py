"""What people read of `sluicegate limits`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from sluicegate.cli.limits_view import ScopeLook, as_table, span
from sluicegate.limiter.booking import CircuitReason, ProcessReport, Quota
from sluicegate.limiter.levels import scope_levels
from sluicegate.limiter.stored import ScopeState, Stored
from sluicegate.limiter.wire import process_hash

RUN = "a" * 40
SECOND_US = 1_000_000
NOW_US = 10**12
OPEN = ScopeState(run_id=RUN, generation=1)
EVERYTHING = Quota(
    requests_per_minute=10_000,
    tokens_per_minute=2_000_000,
    input_tokens_per_minute=1_600_000,
    output_tokens_per_minute=400_000,
    requests_per_day=1_000_000,
    tokens_per_day=500_000_000,
    dollars_per_day=2_500,
    concurrency=100,
)


def shown(
    state: ScopeState | None,
    quota: Quota = EVERYTHING,
    *,
    is_named: bool = True,
    processes: dict[str, ProcessReport] | None = None,
    width: int = 100,
) -> str:
    """Return the text of one scope on a screen of that width."""
    reports = {name: (NOW_US, report) for name, report in (processes or {}).items()}
    levels = scope_levels(Stored(scope=state, processes=reports), quota, clock_us=NOW_US, run_id=RUN)
    console = Console(width=width)
    with console.capture() as captured:
        console.print(as_table([ScopeLook(scope="main", is_named=is_named, levels=levels)]))
    return captured.get()


def test_a_full_table_fits_into_a_hundred_columns() -> None:
    """Every dimension, large numbers and long process names: one line each, and no heading is cut."""
    state = replace(OPEN, tats_us=(NOW_US + 40 * SECOND_US,) * 4, learnt=(9e9, 9e9, 9e9, 9e9))
    processes = {letter * 32: ProcessReport(in_flight=1_000, waiting_bulk=10_000) for letter in "ab"}

    text = shown(state, processes=processes)

    assert "bulk waiting  seen" in text
    assert "output-tokens-per-minute" in text
    assert text.count("9,000,000,000") == 8
    assert len(text.splitlines()) == 1 + 1 + 8 + 1 + 3


def test_the_first_line_tells_what_is_in_the_way() -> None:
    """A circuit before a block, a block before a queue."""
    blocked = replace(OPEN, blocked_until_us=NOW_US + 4 * SECOND_US, block_code=1)
    halted = replace(blocked, circuit=int(CircuitReason.MONEY), circuit_since_us=NOW_US - 90 * SECOND_US)
    busy = replace(OPEN, tats_us=(0, NOW_US + 2 * SECOND_US, 0, 0))

    assert shown(OPEN).startswith("main  next call now\n")
    assert shown(busy).startswith("main  next call in 2.0 s: tokens-per-minute\n")
    assert shown(blocked).startswith("main  blocked for 4.0 s: rate-limited\n")
    assert shown(halted).startswith("main  circuit open for 1 min 30 s: money\n")
    assert "a probe may go now; also blocked for 4.0 s" in shown(halted)
    assert shown(None).startswith("main  no call yet\n")
    assert shown(OPEN, Quota(requests_per_minute=0.5)).startswith(
        "main  a usual call is larger than requests-per-minute\n"
    )
    assert shown(OPEN, is_named=False).startswith("main  next call now  not in these settings\n")


def test_whatever_slows_calls_is_said_in_words() -> None:
    """The factor after 429s, the climb, the ceiling, lanes, and who probes."""
    state = replace(
        OPEN,
        safe=0.9,
        safe_at_us=NOW_US,
        ramp_from_us=NOW_US,
        ramp_us=4 * SECOND_US,
        ceiling=5.0,
        ceiling_at_us=NOW_US,
        hungry_until_us=NOW_US + 1,
        circuit=int(CircuitReason.OUTAGE),
        probe_holder=process_hash("worker-c"),
        probe_until_us=NOW_US + SECOND_US,
    )

    text = shown(state, processes={"worker-c": ProcessReport()})

    for sentence in (
        "worker-c probes",
        "after 429s: 90% of the limits is used",
        "slow start: 50% of the rate, all of it in 4.0 s",
        "overload: at most 5.0 calls at once",
        "interactive calls wait: bulk gets its 10%",
    ):
        assert sentence in text


def test_a_scope_without_limits_says_so() -> None:
    """An empty table would look like a fault."""
    assert "no limit is set or known" in shown(OPEN, Quota())


@pytest.mark.parametrize(
    ("us", "words"),
    [(0, "0 ms"), (900, "1 ms"), (250_000, "250 ms"), (3_449_000, "3.4 s"), (200_000_000, "3 min 20 s")],
)
def test_spans_have_the_digits_that_matter(us: int, words: str) -> None:
    """A limiter's waits are often below a second."""
    assert span(us) == words
