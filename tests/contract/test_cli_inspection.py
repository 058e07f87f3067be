"""`parked`, `dlq`, `cancel`, `pause` and `resume` as operators give them, on a broker and a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumers.inspection.costs import MeanCost
from sluicegate.cli.pausing import with_flags
from sluicegate.cli.status import Observatory
from sluicegate.kafka.admin import KafkaAdmin, Partition
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.records import Headers
from sluicegate.retry.headers import RetrySource
from sluicegate.state.api import Cancelled, Copy, EndKind, Run, Stale
from sluicegate.state.pause import Pause
from sluicegate.topics import relay_group
from tests.contract.inspection_stand import HOUR_MS, SECRET, STREAM, Commands, InspectionStand


@pytest.fixture
def stand(embedded_broker: EmbeddedBroker, redis_url: str, prefix: str, tmp_path: Path) -> InspectionStand:
    """Return a deployment's topics without any process."""
    return InspectionStand(
        kafka=embedded_broker.address,
        redis_url=redis_url,
        prefix=prefix,
        folder=tmp_path,
        make_topics=embedded_broker.create_topics,
    )


@pytest.fixture
def commands(stand: InspectionStand, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Return the command line over them."""
    return Commands(stand.config, capsys)


def test_parked_counts_what_the_relay_has_not_released(stand: InspectionStand, commands: Commands) -> None:
    """By tier, with reasons, keys and due times; done above the watermark is done; no group is touched."""
    stand.publish(
        [
            stand.copy(0, due_in_ms=1_000),
            stand.copy(1, due_in_ms=4_000, key="c-2"),
            stand.copy(2, due_in_ms=2_000, reason=None, source=RetrySource.PREDECESSOR),
            stand.copy(3, due_in_ms=3_000),
            stand.copy(4, due_in_ms=5_000, reason="timeout"),
            stand.copy(5, tier=2, due_in_ms=HOUR_MS, partition=1),
        ]
    )
    stand.relay_committed(1, 1, {3})
    stand.ended(1, EndKind.RESULT, key="c-2")

    found = commands.json("parked", STREAM)

    assert commands.code == 0
    first, second = found["tiers"]
    assert (found["parked"], first["parked"], second["parked"]) == (4, 3, 1)
    assert first["reasons"] == {"rate-limited": 1, "predecessor": 1, "timeout": 1}
    assert first["keys"] == [{"key": "c-1", "parked": 2}, {"key": "c-2", "parked": 1}]
    assert (first["ended"], first["cancelled"], second["ended"]) == (1, 0, 0)
    assert first["next_due_at_ms"] < first["last_due_at_ms"] < second["next_due_at_ms"]
    assert first["oldest_published_at_ms"] == pytest.approx(found["at_ms"] - HOUR_MS, abs=60_000)
    table = commands.run("parked", STREAM)
    assert "2 (up to 1 min)" in table
    assert "1 of these have ended meanwhile" in table
    place = Partition(topic=stand.topics.tiers[0], number=0)
    committed = KafkaAdmin(stand.kafka).committed(relay_group(stand.settings), [place])[place]
    assert committed is not None
    assert committed.offset == 1


def test_parked_says_when_nobody_releases(stand: InspectionStand, commands: Commands) -> None:
    """A record that is overdue is the first sign of a relay that is down."""
    stand.publish([stand.copy(0, due_in_ms=-60_000)])

    assert "is `sluicegate relay` running?" in commands.run("parked", STREAM)


def test_nothing_parked_is_said_so(commands: Commands) -> None:
    """An empty table would leave the operator wondering."""
    assert commands.run("parked", STREAM) == f"nothing of {STREAM} is parked\n"


def test_the_dlq_shows_each_event_that_is_still_dead_by_reason(
    stand: InspectionStand, commands: Commands
) -> None:
    """A replayed event that has a result is history, and of one that died twice the last death counts."""
    stand.publish(
        [
            stand.letter(0, ended_ago_ms=9_000),
            stand.letter(1, reason="attempts-exhausted"),
            stand.letter(2),
            stand.letter(0, reason="timeout"),
            stand.letter(3, key="c-2"),
        ]
    )
    stand.ended(0, EndKind.DEAD_LETTER)
    stand.ended(2, EndKind.RESULT)

    found = commands.json("dlq", STREAM)

    assert (found["records"], found["dead_letters"]) == (5, 3)
    counts = {reason: group["dead_letters"] for reason, group in found["reasons"].items()}
    assert counts == {"attempts-exhausted": 1, "bad-request": 1, "timeout": 1}
    assert found["reasons"]["bad-request"]["http_statuses"] == {"400": 1}
    every = commands.json("dlq", STREAM, "--all")
    assert (every["dead_letters"], every["reasons"]["bad-request"]["dead_letters"]) == (5, 3)
    table = commands.run("dlq", STREAM)
    assert "attempts-exhausted" in table
    assert "2 more are history" in table


def test_one_dead_letter_is_found_by_any_of_its_names(stand: InspectionStand, commands: Commands) -> None:
    """With its headers and history; its payload only when it is asked for."""
    stand.publish([stand.letter(6), stand.letter(7, reason="content-refused")])
    for name in ("0/1", "event-7", f"{stand.topics.input}/0/7"):
        found = commands.json("dlq", STREAM, "--show", name)
        assert (found["event_id"], found["reason"]) == ("event-7", "content-refused")

    assert ["dlq-reason", "content-refused"] in found["headers"]
    assert found["last_call"] == {"reason": "content-refused", "http_status": 400}
    text = commands.run("dlq", STREAM, "--show", found["identity"])
    assert "content-refused" in text
    assert "published" in text
    assert SECRET not in text + json.dumps(found)
    assert SECRET in commands.run("dlq", STREAM, "--show", "0/1", "--payload")
    assert SECRET in commands.json("dlq", STREAM, "--show", "0/1", "--payload")["value"]


def test_a_dead_letter_that_is_not_there_is_a_failure(stand: InspectionStand, commands: Commands) -> None:
    """A script that asks for one learns it from the exit code."""
    assert commands.run("dlq", STREAM, "--show", "0/99") == ""
    assert commands.code == 1
    assert "no dead letter 0/99" in commands.err
    assert "has no dead letters" in commands.run("dlq", STREAM)


def test_status_looks_again_and_again(stand: InspectionStand) -> None:
    """Dead letters that still count, pauses, what results cost; what is new shows at the next look."""
    stand.publish([stand.letter(0), stand.letter(1), stand.copy(2), *stand.results(4)])
    stand.ended(1, EndKind.RESULT)
    with Observatory(stand.settings) as observatory:
        chats = observatory.look()[0]
        assert (chats.still_dead, chats.backlog.dead_letters, chats.backlog.parked) == (1, 2, 1)
        assert chats.pause is None
        assert chats.cost == MeanCost(results=4, calls=2.0, input_tokens=50.0, output_tokens=9.0, share=1.0)

        stand.publish([stand.letter(3), stand.letter(0, reason="timeout")])
        with_flags(stand.settings, lambda flags: flags.pause(STREAM, Pause(by="kim@ops-1", at_ms=1)))
        again = observatory.look()[0]

    assert (again.still_dead, again.backlog.dead_letters) == (2, 4)
    assert (again.held_by, again.eta_s) == ("pause", None)


def test_without_redis_status_and_parked_show_what_kafka_knows(
    stand: InspectionStand, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of Redis is when an operator looks first."""
    stand.publish([stand.copy(0), stand.letter(1)])
    monkeypatch.setenv("SLUICEGATE_REDIS__URL", "redis://127.0.0.1:1/0")

    tiers = commands.json("parked", STREAM)["tiers"]
    assert (commands.code, tiers[0]["parked"], tiers[0]["ended"]) == (0, 1, None)
    assert "which events have ended is not known" in commands.err
    assert commands.json("dlq", STREAM)["dead_letters"] == 1
    status = commands.json("status")["streams"][STREAM]
    assert (commands.code, status["parked"], status["dlq"], status["paused"]) == (0, 1, 1, None)
    assert commands.err.count("limits in force are not known") == 1
    commands.run("pause", STREAM)
    assert commands.code == 1


def test_foreign_text_cannot_command_the_terminal(stand: InspectionStand, commands: Commands) -> None:
    """Keys and headers come from anybody: escape sequences are shown and markup is text."""
    hostile = "\x1b]0;owned\x07[bold red]c"
    stand.publish([stand.copy(0, key=hostile), stand.letter(1, key=hostile)])

    shown = commands.run("parked", STREAM) + commands.run("dlq", STREAM, "--show", "0/0", "--payload")

    assert "\x1b" not in shown
    assert shown.count("[bold red]c") >= 2


def _headers(headers: Headers) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


def test_cancelling_a_key_flags_its_parked_events_and_hands_each_a_copy_that_ends_it_now(
    stand: InspectionStand, commands: Commands
) -> None:
    """The copy replaces the live one in `due`; the others of the stream stay; it is written down."""
    stand.publish([stand.copy(0), stand.copy(1, tier=2), stand.copy(2, key="c-2"), stand.copy(3)])
    stand.ended(3, EndKind.RESULT)
    stand.parked(0)
    stand.parked(1)

    found = commands.json("cancel", STREAM, "--key", "c-1")

    assert commands.code == 0
    assert (found["found"], found["cancelled"], found["ended"], found["too_late"]) == (3, 2, 1, 0)
    due = stand.records(stand.topics.due, 2)
    assert sorted(_headers(record.headers)["retry-origin-offset"] for record in due) == ["0", "1"]
    for record in due:
        headers = _headers(record.headers)
        assert headers["retry-replaces"] == "1-a"
        offset, copy = int(headers["retry-origin-offset"]), Copy(id=headers["retry-copy"], replaces="1-a")
        assert isinstance(stand.taken(offset, copy).verdict, Cancelled)
        assert isinstance(stand.taken(offset, Copy(id="1-a")).verdict, Stale)
    assert isinstance(stand.taken(2, Copy(id="1-a"), key="c-2").verdict, Run)
    (written,) = stand.records(stand.audit, 1)
    audit = json.loads(written.value or b"")
    assert (audit["kind"], audit["target"]) == ("cancelled", {"key": "c-1"})
    assert audit["counts"] == {"cancelled": 2, "followers": 0}


def test_what_stood_behind_a_cancelled_event_goes_on_after_it(
    stand: InspectionStand, commands: Commands
) -> None:
    """Its followers were due after it; other keys' and earlier ones keep their due times."""
    behind = RetrySource.PREDECESSOR
    stand.publish(
        [
            stand.copy(5, source=behind),
            stand.copy(3, source=behind),
            stand.copy(4),
            stand.copy(2, source=behind),
            stand.copy(6, source=behind, key="c-2"),
        ]
    )
    for offset in (2, 3, 4, 5):
        stand.parked(offset)

    said = commands.run("cancel", STREAM, "--id", f"{stand.topics.input}/0/3")

    assert said == (
        "1 cancelled: dead letters as soon as a worker takes them\n1 stood behind them and go on now\n"
    )
    due = [_headers(record.headers) for record in stand.records(stand.topics.due, 2)]
    assert [headers["retry-origin-offset"] for headers in due] == ["3", "5"]
    assert {headers["retry-replaces"] for headers in due} == {"1-a"}


def test_cancelling_by_id_means_one_event_and_what_is_due_already_gets_no_second_copy(
    stand: InspectionStand, commands: Commands
) -> None:
    """An origin names it; its copy in `due` finds the flag by itself."""
    stand.publish([stand.copy(0), stand.copy(1, topic=stand.topics.due)])
    stand.parked(1)

    said = commands.run("cancel", STREAM, "--id", f"{stand.topics.input}/0/1")

    assert commands.code == 0
    assert said == "1 were due already: cancelled unless a worker is at work on them\n"
    assert isinstance(stand.taken(1, Copy(id="1-a")).verdict, Cancelled)
    assert len(stand.records(stand.topics.due, 1)) == 1


def test_cancelling_what_is_not_parked_fails_and_says_so(commands: Commands) -> None:
    """And without a word on which events it is wrong usage."""
    assert commands.run("cancel", STREAM, "--key", "c-9") == ""
    assert commands.code == 1
    assert "nothing of key c-9 is parked" in commands.err
    commands.run("cancel", STREAM)
    assert commands.code == 2


def test_pausing_and_resuming_say_who_and_are_written_down(
    stand: InspectionStand, commands: Commands
) -> None:
    """Doing either twice changes nothing, is no failure, and is not written down again."""
    first = commands.json("pause", STREAM, "--reason", "wrong prompt")
    again = commands.json("pause", STREAM, "--reason", "me too")
    status = commands.run("pause", STREAM)
    gone = commands.json("resume", STREAM)
    nothing = commands.run("resume", STREAM)

    assert (first["changed"], again["changed"], gone["changed"]) == (True, False, True)
    assert again["pause"]["reason"] == gone["pause"]["reason"] == "wrong prompt"
    assert first["pause"]["by"] in status
    assert (nothing, commands.code) == (f"{STREAM} was not paused\n", 0)
    kinds = [json.loads(record.value or b"")["kind"] for record in stand.records(stand.audit, 2)]
    assert kinds == ["paused", "resumed"]
