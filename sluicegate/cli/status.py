"""`sluicegate status`: where every stream's events are, and when they will be done."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson
from rich.console import Console
from rich.live import Live

from consumers.inspection.costs import CostReader, MeanCost
from consumers.inspection.inspector import Inspector
from consumers.inspection.letters import LetterBook, has_ended_well
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.limits import Observer
from sluicegate.cli.operator import now_ms
from sluicegate.cli.outlook import Look, Rates, RedisLook, StreamStatus, outlook
from sluicegate.cli.status_view import as_json, as_table
from sluicegate.cli.stream_state import STATE_TIMEOUT_S, decoder_of, state_of
from sluicegate.errors import ConfigurationError, StateUnavailableError
from sluicegate.settings import Settings
from sluicegate.state.api import EventRef
from sluicegate.state.connecting import connect
from sluicegate.state.pause import PauseFlags

_RATE_WINDOW_S = 2.0
_WATCH_EVERY_S = 1.0
_COSTS_EVERY_S = 15.0
_PIPE_WIDTH = 160
_MOST_LETTERS = 10_000
_AT_ONCE = 200


def status(*, watch: bool = False, json: bool = False, config: Path | None = None) -> None:
    """Show each stream's backlog, what runs, what is parked, and when it will be done.

    Events are counted from Kafka's offsets and commits; no consumer group is disturbed. `running` is what
    workers must have taken, so a lower bound. `dlq` leaves out events that have ended otherwise since. When
    a backlog ends at the quota is estimated from what the newest results cost and from the limits as they
    are in force; Redis tells those, and without it the configured ones stand.

    Parameters
    ----------
    watch
        Look again every second until Ctrl-C.
    json
        Print one JSON object a look.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    with Observatory(settings) as observatory, contextlib.suppress(KeyboardInterrupt):
        observatory.look()
        if watch:
            _watch(observatory, json=json)
            return
        time.sleep(_RATE_WINDOW_S)
        found = observatory.look()
        if json:
            _print_json(found)
        else:
            _console().print(as_table(found, now_ms=now_ms()))


class Observatory:
    """Looks at Kafka and Redis, again and again. Use it as a context; not safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rates = Rates()
        self._stack = ExitStack()
        self._inspector = self._stack.enter_context(Inspector(settings))
        self._cost_reader = self._stack.enter_context(CostReader(settings))
        self._costs: Mapping[str, MeanCost | None] = {}
        self._costs_until_s = 0.0
        self._books = {stream: book for stream in settings.streams if (book := self._book(stream))}
        self._redis_was_away = False

    def __enter__(self) -> Observatory:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def look(self) -> tuple[StreamStatus, ...]:
        """Return how every stream stands. Raises BrokerError; without Redis less is known, and said once."""
        backlogs = self._inspector.look()
        if time.monotonic() >= self._costs_until_s:
            self._costs = {stream: self._cost_reader.look(stream) for stream in self._settings.streams}
            self._costs_until_s = time.monotonic() + _COSTS_EVERY_S
        found = self._ask_redis({stream: book.events() for stream, book in self._books.items()})
        rates = self._rates.add(backlogs, time.monotonic())
        look = Look(backlogs=backlogs, costs=self._costs, redis=found)
        return outlook(self._settings, look, rates, now_ms=now_ms())

    def _book(self, stream: str) -> LetterBook | None:
        try:
            decoder = decoder_of(self._settings, stream)
        except ConfigurationError:
            return None  # its handler is not installed here: its dead letters are counted and not looked up
        book = LetterBook(self._settings, stream, decoder, most=_MOST_LETTERS)
        self._stack.callback(book.close)
        return book

    def _ask_redis(self, dead: Mapping[str, Sequence[EventRef] | None]) -> RedisLook | None:
        try:
            found = asyncio.run(look_at_redis(self._settings, dead))
        except StateUnavailableError as exc:
            if not self._redis_was_away:
                sys.stderr.write(f"sluicegate: pauses and limits in force are not known: {exc}\n")
            self._redis_was_away = True
            return None
        self._redis_was_away = False
        return found


async def look_at_redis(settings: Settings, dead: Mapping[str, Sequence[EventRef] | None]) -> RedisLook:
    """Read pauses, limits and how the dead letters' events stand. Raises StateUnavailableError."""
    client = connect(settings.redis, max_connections=2, timeout_s=STATE_TIMEOUT_S)
    try:
        flags = PauseFlags(client, group=settings.kafka.group, timeout_s=STATE_TIMEOUT_S)
        pauses = {stream: await flags.find(stream) for stream in settings.streams}
        scopes = await Observer(client, settings, strangers=False).look()
        still_dead: dict[str, int] = {}
        for stream, refs in dead.items():
            if refs is not None:
                state = state_of(settings, stream, client)
                still_dead[stream] = 0
                for first in range(0, len(refs), _AT_ONCE):
                    standings = await state.standings(refs[first : first + _AT_ONCE])
                    still_dead[stream] += sum(not has_ended_well(each) for each in standings)
    finally:
        await client.aclose()
    return RedisLook(
        pauses={stream: pause for stream, pause in pauses.items() if pause is not None},
        scopes={look.scope: look.levels for look in scopes},
        still_dead=still_dead,
    )


def _watch(observatory: Observatory, *, json: bool) -> None:
    live = None if json else Live(console=_console(), auto_refresh=False, transient=False)
    with live or contextlib.nullcontext():
        while True:
            time.sleep(_WATCH_EVERY_S)
            found = observatory.look()
            if live is None:
                _print_json(found)
            else:
                live.update(as_table(found, now_ms=now_ms()), refresh=True)


def _print_json(statuses: Sequence[StreamStatus]) -> None:
    sys.stdout.write(orjson.dumps(as_json(statuses)).decode() + "\n")
    sys.stdout.flush()


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
