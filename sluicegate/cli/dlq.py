"""`sluicegate dlq STREAM`: what died, and why; or one dead letter with all that is known of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from consumers.inspection.letters import Letter, LetterReader, has_ended_well, newest_of_each_event
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.dlq_view import Found, as_json, as_table, letter_json, letter_text, print_view
from sluicegate.cli.stream_state import decoder_of, standings_of
from sluicegate.errors import StateUnavailableError
from sluicegate.settings import Settings
from sluicegate.state.api import Standing


def dlq(
    stream: str,
    *,
    show: str | None = None,
    payload: bool = False,
    all: bool = False,
    json: bool = False,
    config: Path | None = None,
) -> int:
    """Show a stream's dead letters by reason, or one of them with its headers and history.

    Left out are those whose event has ended otherwise since, because it was replayed, and all but the
    last of an event that died several times. Kafka is read without joining a group; while Redis is away
    every event's last dead letter is shown. Exits 1 when there is no dead letter of the id.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    show
        One of them: its PARTITION/OFFSET in the DLQ, or its event's id, identity (as in logs) or origin.
    payload
        With --show: print the record's value, too.
    all
        Show every dead letter that the topic holds.
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    if show is not None:
        return _show(settings, stream, show, payload=payload, json=json)
    found = find_letters(settings, stream, every=all)
    if json:
        _write_json(as_json(stream, found))
    else:
        print_view(as_table(stream, found))
    return 0


def find_letters(settings: Settings, stream: str, *, every: bool = False) -> Found:
    """Read the DLQ and leave out what no longer counts, unless `every`. Raises BrokerError."""
    with LetterReader(settings, stream, decoder_of(settings, stream)) as reader:
        letters = [letter.without_value() for letter in reader.read()]
    newest = newest_of_each_event(letters)
    standings = _standings(settings, stream, newest)
    stands = {letter.origin: standing for letter, standing in zip(newest, standings, strict=True)}
    shown = letters if every else [each for each in newest if not has_ended_well(stands[each.origin])]
    return Found(letters=tuple(shown), standings=stands, records=len(letters))


def _show(settings: Settings, stream: str, name: str, *, payload: bool, json: bool) -> int:
    with LetterReader(settings, stream, decoder_of(settings, stream)) as reader:
        called = [letter for letter in reader.read() if letter.is_called(name)]
    if not called:
        sys.stderr.write(f"sluicegate: the DLQ of {stream} holds no dead letter {name}\n")
        return 1
    (letter,) = newest_of_each_event(called)[-1:]
    (standing,) = _standings(settings, stream, [letter])
    others = [str(each.place) for each in called if each.place != letter.place]
    if json:
        _write_json(letter_json(letter, standing, others, payload=payload))
    else:
        print_view(letter_text(letter, standing, others, payload=payload))
    return 0


def _standings(settings: Settings, stream: str, letters: Sequence[Letter]) -> list[Standing | None]:
    if not letters:
        return []
    try:
        return standings_of(settings, stream, [letter.ref for letter in letters])
    except StateUnavailableError as exc:
        sys.stderr.write(f"sluicegate: which events have ended otherwise is not known: {exc}\n")
        return [None] * len(letters)


def _write_json(said: object) -> None:
    sys.stdout.write(orjson.dumps(said).decode() + "\n")
