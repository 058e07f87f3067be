"""`sluicegate limits`: what every scope of the limiter is at."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.limits_view import ScopeLook, as_json, as_table
from sluicegate.errors import StateUnavailableError
from sluicegate.limiter.booking import EPOCH_S
from sluicegate.limiter.levels import scope_levels
from sluicegate.limiter.quotas import quota_for
from sluicegate.limiter.reading import read_stored
from sluicegate.limiter.stored import scope_key
from sluicegate.settings import Settings
from sluicegate.state.connecting import connect
from sluicegate.state.translation import redis_errors_translated

if TYPE_CHECKING:
    import redis.asyncio

_TIMEOUT_S = 2.0
_WATCH_EVERY_S = 1.0
_SCAN_EVERY_S = 30.0
_SCAN_COUNT = 1_000
_PIPE_WIDTH = 160
_BEFORE, _AFTER = scope_key("\n").split("\n")


def limits(*, watch: bool = False, json: bool = False, config: Path | None = None) -> int:
    """Show each scope's limits, how much of them is used, and what calls wait for.

    Everything is read from Redis; nothing is booked and nothing is changed. Exits 1 when Redis does not
    answer; `--watch` says so and keeps trying, and exits 1 when that was the last it saw.

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
    if not watch:
        asyncio.run(_once(settings, json=json))
        return 0
    watcher = Watcher(settings, json=json)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watcher.run())
    return watcher.exit_code


class Observer:
    """Looks at the scopes that the settings name, and with `strangers` at those that Redis has besides.

    Finding those walks through all of Redis's keys.
    """

    def __init__(self, client: redis.asyncio.Redis, settings: Settings, *, strangers: bool = True) -> None:
        self._client = client
        self._wants_strangers = strangers
        self._settings = settings
        self._named = named_scopes(settings)
        self._strangers: list[str] = []
        self._scanned_at = -_SCAN_EVERY_S

    async def look(self) -> tuple[ScopeLook, ...]:
        """Read every scope, those of the settings first.

        Raises StateUnavailableError when one round trip takes longer than 2 s or goes wrong.
        """
        with redis_errors_translated():
            if self._wants_strangers and time.monotonic() - self._scanned_at >= _SCAN_EVERY_S:
                self._strangers = sorted(await self._stored_scopes() - set(self._named))
                self._scanned_at = time.monotonic()
            async with asyncio.timeout(_TIMEOUT_S):
                clock_us, run_id = await self._server()
            return tuple(
                [await self._look_at(scope, clock_us, run_id) for scope in (*self._named, *self._strangers)]
            )

    async def _server(self) -> tuple[int, str]:
        """Return Redis's time as the limiter counts it, and which server this is."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.info("server")
            (seconds, micros), facts = await pipeline.execute()
        return (int(seconds) - EPOCH_S) * 1_000_000 + int(micros), str(facts["run_id"])

    async def _look_at(self, scope: str, clock_us: int, run_id: str) -> ScopeLook:
        async with asyncio.timeout(_TIMEOUT_S):
            stored = await read_stored(self._client, scope)
        quota = quota_for(self._settings, scope)
        levels = scope_levels(stored, quota, clock_us=clock_us, run_id=run_id)
        return ScopeLook(scope=scope, is_named=scope in self._named, levels=levels)

    async def _stored_scopes(self) -> set[str]:
        found: set[str] = set()
        cursor = 0
        while True:
            async with asyncio.timeout(_TIMEOUT_S):
                cursor, keys = await self._client.scan(cursor, match=scope_key("*"), count=_SCAN_COUNT)
            found.update(_scope_of(key if isinstance(key, str) else key.decode()) for key in keys)
            if cursor == 0:
                return found


def _scope_of(key: str) -> str:
    return key.removeprefix(_BEFORE).removesuffix(_AFTER)


def named_scopes(settings: Settings) -> tuple[str, ...]:
    """Return the scopes of the streams' routes, then those that only have a `[limits]` section."""
    routes = (route.scope for stream in settings.streams for route in settings.routes(stream))
    return tuple(dict.fromkeys((*routes, *settings.limits)))


class Watcher:
    """Looks once a second until cancelled, through outages too; a terminal shows the newest look in place.

    `exit_code` is that of a command which ended with the last look.
    """

    def __init__(self, settings: Settings, *, json: bool) -> None:
        self.exit_code = 0
        self._settings = settings
        self._json = json
        is_live = sys.stdout.isatty() and not json
        self._live = Live(console=_console(), auto_refresh=False) if is_live else None

    async def run(self) -> None:
        """Show look after look; Redis's absence is one more thing to show."""
        with self._live or contextlib.nullcontext():
            async with _observer(self._settings) as observer:
                while True:
                    try:
                        self._show(await observer.look())
                        self.exit_code = 0
                    except StateUnavailableError as exc:
                        self._complain(exc)
                        self.exit_code = 1
                    await asyncio.sleep(_WATCH_EVERY_S)

    def _show(self, looks: Sequence[ScopeLook]) -> None:
        if self._live is not None:
            self._live.update(as_table(looks), refresh=True)
            return
        _print(looks, json=self._json)
        if not self._json:
            _console().print()  # one look ends where the next begins

    def _complain(self, error: StateUnavailableError) -> None:
        sentence = f"{error}; trying again"
        if self._live is None:
            sys.stderr.write(f"sluicegate: {sentence}\n")
        else:
            self._live.update(Text(sentence, style="red"), refresh=True)


async def _once(settings: Settings, *, json: bool) -> None:
    async with _observer(settings) as observer:
        _print(await observer.look(), json=json)


@contextlib.asynccontextmanager
async def _observer(settings: Settings) -> AsyncIterator[Observer]:
    client = connect(settings.redis, max_connections=2, timeout_s=_TIMEOUT_S)
    try:
        yield Observer(client, settings)
    finally:
        await client.aclose()


def _print(looks: Sequence[ScopeLook], *, json: bool) -> None:
    if json:
        sys.stdout.write(orjson.dumps(as_json(looks)).decode() + "\n")
        sys.stdout.flush()
    else:
        _console().print(as_table(looks))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
