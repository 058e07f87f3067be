"""What `sluicegate status` says."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from consumers.inspection.backlog import StreamBacklog, TierBacklog
from sluicegate.cli.status import Rates, as_json, as_table
from sluicegate.cli.wording import duration
from sluicegate.settings import Settings, load_settings


@pytest.fixture
def limited(tmp_path: Path) -> Settings:
    """Return settings with a quota of two calls a second."""
    path = tmp_path / "sluicegate.toml"
    path.write_text("[limits.main]\nrequests_per_minute = 120\n")
    return load_settings(path, {})


def backlog(
    *, published: int = 100, lag: int = 0, parked: int = 0, stream: str = "documents"
) -> StreamBacklog:
    """Make a backlog with one tier."""
    tier = TierBacklog(tier=2, parked=parked, next_due_at_ms=8_000 if parked else None)
    return StreamBacklog(
        stream=stream,
        published=published,
        lag=lag,
        running=0,
        tiers=(tier,),
        due=0,
        results=0,
        dead_letters=0,
    )


def test_the_rate_is_what_was_finished_between_looks(limited: Settings) -> None:
    """20 events in 4 s are 5 a second, and 60 more will take 12 s."""
    rates = Rates(limited)
    rates.add([backlog(lag=80)], 10.0)

    (found,) = rates.add([backlog(lag=40, parked=20)], 14.0)

    assert (found.rate_per_s, found.eta_s) == (5.0, 12.0)


def test_before_anything_moves_the_quota_says_when_it_ends(limited: Settings) -> None:
    """60 events at two a second."""
    (found,) = Rates(limited).add([backlog(lag=60)], 0.0)

    assert (found.rate_per_s, found.eta_s) == (0.0, 30.0)


def test_without_quota_and_movement_nobody_knows() -> None:
    """An unknown end is not an end."""
    (found,) = Rates(load_settings(None, {})).add([backlog(lag=60)], 0.0)

    assert found.eta_s is None


def test_old_looks_are_forgotten(limited: Settings) -> None:
    """A rate is of the last half minute."""
    rates = Rates(limited)
    rates.add([backlog(lag=100)], 0.0)
    rates.add([backlog(lag=50)], 40.0)

    (found,) = rates.add([backlog(lag=40)], 50.0)

    assert found.rate_per_s == 1.0


def test_json_has_the_figures_of_each_tier(limited: Settings) -> None:
    """Programs read times as milliseconds since the epoch."""
    found = as_json(Rates(limited).add([backlog(lag=1, parked=3)], 0.0))

    assert found["streams"]["documents"]["tiers"] == [{"tier": 2, "parked": 3, "next_due_at_ms": 8_000}]
    assert found["streams"]["documents"]["parked"] == 3


def test_people_see_which_tier_holds_what_and_how_long(limited: Settings) -> None:
    """The table names the tier and the wait."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(as_table(Rates(limited).add([backlog(lag=1, parked=3)], 0.0), now_ms=3_000))
    text = captured.get()

    assert "3 (2: 3)" in text
    assert "5 s" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "now"), (0.2, "1 s"), (59.4, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_in_the_units_that_matter(seconds: float, words: str) -> None:
    """Nobody wants seconds beside hours."""
    assert duration(seconds) == words
