"""What `sluicegate status` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumers.inspection.backlog import StreamBacklog, TierBacklog
from consumers.inspection.costs import MeanCost
from sluicegate.cli.outlook import Look, Rates, RedisLook, StreamStatus, outlook
from sluicegate.cli.status_view import as_json, as_table
from sluicegate.cli.wording import counted, duration, moment, printable
from sluicegate.limiter.levels import scope_levels
from sluicegate.limiter.quotas import quota_for
from sluicegate.limiter.stored import ScopeState, Stored
from sluicegate.settings import Settings, load_settings
from sluicegate.state.pause import Pause

NOW_MS = 3_000
ONE_CALL = MeanCost(results=20, calls=1.0, input_tokens=100.0, output_tokens=20.0, share=1.0)
PAUSE = Pause(by="kim@ops-1", at_ms=1_000, reason="wrong [prompt]")


@pytest.fixture
def limited(tmp_path: Path) -> Settings:
    """Return settings with a quota of two calls a second."""
    return _settings(tmp_path, "requests_per_minute = 120")


def _settings(folder: Path, limits: str) -> Settings:
    path = folder / "sluicegate.toml"
    path.write_text(f"[limits.main]\n{limits}\n")
    return load_settings(path, {})


def backlog(
    *,
    published: int = 100,
    lag: int = 0,
    parked: int = 0,
    due: int = 0,
    stream: str = "documents",
    last_due_at_ms: int = 9_000,
) -> StreamBacklog:
    """Make a backlog with one tier."""
    tier = TierBacklog(
        tier=2,
        parked=parked,
        next_due_at_ms=8_000 if parked else None,
        last_due_at_ms=last_due_at_ms if parked else None,
    )
    return StreamBacklog(
        stream=stream,
        published=published,
        lag=lag,
        running=0,
        tiers=(tier,),
        due=due,
        results=0,
        dead_letters=7,
    )


def seen(
    settings: Settings,
    *backlogs: StreamBacklog,
    costs: dict[str, MeanCost | None] | None = None,
    rate: float = 0.0,
    **redis: Any,
) -> StreamStatus:
    """Return the outlook of the first backlog beside the others."""
    look = Look(backlogs=backlogs, costs=costs or {}, redis=RedisLook(**redis))
    return outlook(settings, look, {backlogs[0].stream: rate}, now_ms=NOW_MS)[0]


def test_the_rate_is_what_was_finished_between_looks() -> None:
    """20 events in 4 s are 5 a second."""
    rates = Rates()
    assert rates.add([backlog(lag=80)], 10.0) == {"documents": 0.0}

    assert rates.add([backlog(lag=40, parked=20)], 14.0) == {"documents": 5.0}


def test_old_looks_are_forgotten() -> None:
    """A rate is of the last half minute."""
    rates = Rates()
    rates.add([backlog(lag=100)], 0.0)
    rates.add([backlog(lag=50)], 40.0)

    assert rates.add([backlog(lag=40)], 50.0) == {"documents": 1.0}


def test_the_quota_says_when_the_backlog_ends_and_the_rate_when_it_would_so(limited: Settings) -> None:
    """60 events at two calls a second, while workers finish one a second."""
    found = seen(limited, backlog(lag=60), costs={"documents": ONE_CALL}, rate=1.0)

    assert (found.at_quota_s, found.at_rate_s, found.eta_s) == (30.0, 60.0, 30.0)
    assert found.bound_by == "requests-per-minute"


def test_what_events_cost_of_late_counts_and_not_their_number(limited: Settings) -> None:
    """Documents of five calls take five times as long; half of a chat's messages may take none.

    What is parked or due has made a call, so all of it counts.
    """
    five = MeanCost(results=9, calls=5.0, input_tokens=0.0, output_tokens=0.0, share=1.0)
    half = MeanCost(results=9, calls=1.0, input_tokens=0.0, output_tokens=0.0, share=0.5)

    assert seen(limited, backlog(lag=60), costs={"documents": five}).at_quota_s == 150.0
    assert seen(limited, backlog(lag=60, parked=4, due=6), costs={"documents": half}).at_quota_s == 20.0


def test_before_the_first_result_an_event_is_one_call(limited: Settings) -> None:
    """It is known to be a guess, and better than none."""
    assert seen(limited, backlog(lag=60)).at_quota_s == 30.0


def test_the_limit_that_takes_longest_is_named(tmp_path: Path) -> None:
    """Tokens are counted as the provider charges them: here the longest answer, 512 tokens a call."""
    settings = _settings(tmp_path, "requests_per_minute = 120\ntokens_per_minute = 5120")

    found = seen(settings, backlog(lag=60), costs={"documents": ONE_CALL})

    assert (found.at_quota_s, found.bound_by) == (360.0, "tokens-per-minute")


def test_what_a_day_has_left_is_free_and_the_rest_takes_its_time(tmp_path: Path) -> None:
    """1,000 calls a day: 1,500 events need half a day more than what is left today."""
    settings = _settings(tmp_path, "requests_per_day = 1000")

    assert seen(settings, backlog(lag=900), costs={"documents": ONE_CALL}).at_quota_s == 0.0
    found = seen(settings, backlog(lag=1500), costs={"documents": ONE_CALL})
    assert (found.at_quota_s, found.bound_by) == (43_200.0, "requests-per-day")


def test_streams_on_one_quota_are_forecast_as_lanes_share_it(limited: Settings) -> None:
    """Interactive work has nine tenths while bulk waits, and whoever is last has the rest."""
    chats, documents = backlog(lag=108, stream="support-chat"), backlog(lag=60)

    assert seen(limited, chats, documents).at_quota_s == pytest.approx(60)
    assert seen(limited, documents, chats).at_quota_s == pytest.approx(84)
    assert seen(limited, chats, backlog()).at_quota_s == pytest.approx(54)


def test_nothing_ends_before_its_last_parked_event_is_due(limited: Settings) -> None:
    """A full quota does not make an hour in a tier shorter."""
    found = seen(limited, backlog(parked=1, last_due_at_ms=NOW_MS + 600_000))

    assert (found.at_quota_s, found.bound_by) == (600.0, "due-time")


def test_a_limit_that_headers_lowered_is_the_one_that_counts(limited: Settings) -> None:
    """So does the part of it that is used after 429s; and a block is waited for first."""
    state = ScopeState(
        run_id="r",
        last_now_us=1_000_000,
        blocked_until_us=11_000_000,
        learnt=(60.0, 0.0, 0.0, 0.0),
        safe=0.5,
        safe_at_us=1_000_000,
    )
    levels = scope_levels(Stored(scope=state), quota_for(limited, "main"), clock_us=1_000_000, run_id="r")

    found = seen(limited, backlog(lag=60), scopes={"main": levels})

    assert found.at_quota_s == pytest.approx(130)


def test_a_pause_and_an_open_circuit_have_no_end_that_could_be_told(limited: Settings) -> None:
    """Somebody has to act: a time would be made up."""
    state = ScopeState(run_id="r", last_now_us=1_000_000, circuit=1)
    levels = scope_levels(Stored(scope=state), quota_for(limited, "main"), clock_us=1_000_000, run_id="r")

    circuit = seen(limited, backlog(lag=60), scopes={"main": levels}, rate=1.0)
    paused = seen(limited, backlog(lag=60), pauses={"documents": PAUSE}, rate=1.0)

    assert (circuit.held_by, circuit.eta_s) == ("circuit", None)
    assert (paused.held_by, paused.eta_s) == ("pause", None)


def test_an_empty_backlog_is_done_whatever_holds_its_stream(limited: Settings) -> None:
    """Zero is known."""
    assert seen(limited, backlog(), pauses={"documents": PAUSE}).eta_s == 0.0


def test_without_a_limit_the_rate_is_all_there_is() -> None:
    """And without movement nobody knows: an unknown end is not an end."""
    settings = load_settings(None, {})

    assert seen(settings, backlog(lag=60), rate=2.0).eta_s == 30.0
    assert seen(settings, backlog(lag=60)).eta_s is None


def test_json_has_the_figures_of_each_tier_and_the_dead_letters_that_count(limited: Settings) -> None:
    """Programs read times as milliseconds since the epoch."""
    found = as_json([seen(limited, backlog(lag=1, parked=3), still_dead={"documents": 2})])
    unknown = as_json([seen(limited, backlog())])

    documents = found["streams"]["documents"]
    assert documents["tiers"] == [{"tier": 2, "parked": 3, "next_due_at_ms": 8_000, "last_due_at_ms": 9_000}]
    assert documents["parked"] == 3
    assert (documents["dlq"], documents["dlq_records"]) == (2, 7)
    assert unknown["streams"]["documents"]["dlq"] == 7


def test_people_see_which_tier_holds_what_how_long_and_who_paused(limited: Settings) -> None:
    """The table names the tier, the wait and the reason, whatever characters it has."""
    console = Console(width=160)
    status = seen(limited, backlog(lag=1, parked=3), pauses={"documents": PAUSE})
    with console.capture() as captured:
        console.print(as_table([status], now_ms=NOW_MS))
    text = captured.get()

    assert "3 (2: 3)" in text
    assert "5 s" in text
    assert "documents is paused for 2 s by kim@ops-1: wrong [prompt]" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "now"),
        (0.2, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (180_000, "2 d 2 h"),
    ],
)
def test_durations_are_said_in_the_units_that_matter(seconds: float, words: str) -> None:
    """Nobody wants seconds beside hours."""
    assert duration(seconds) == words


def test_foreign_text_is_one_line_of_bounded_length() -> None:
    """Control characters are shown by name; what is cut says so."""
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert printable("x" * 100, 10) == "xxxxxxxxx…"


def test_counts_and_moments_are_said_plainly() -> None:
    """The largest first, the rest by number; moments in UTC."""
    assert counted({"a": 1, "b": 5, "c": 1}, 2) == "b 5, a 1, 1 more"
    assert moment(1_700_000_000_123) == "2023-11-14 22:13:20Z"
