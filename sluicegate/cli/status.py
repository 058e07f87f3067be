"""`sluicegate status`: where every stream's events are, and when they will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table

from consumers.inspection.backlog import StreamBacklog
from consumers.inspection.inspector import Inspector
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.wording import duration
from sluicegate.settings import Settings

_RATE_WINDOW_S = 2.0
_WATCH_EVERY_S = 1.0
_REMEMBERED_S = 30.0
_PIPE_WIDTH = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A stream's backlog with how fast it moves. `eta_s` None: nothing moves and no quota is set."""

    backlog: StreamBacklog
    rate_per_s: float
    eta_s: float | None


class Rates:
    """Turns looks at a backlog into rates, over the last half minute or what there is of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._looks: list[tuple[float, dict[str, int]]] = []

    def add(self, backlogs: Sequence[StreamBacklog], at_s: float) -> tuple[StreamStatus, ...]:
        """Remember a look and return each stream's status. `at_s` is monotonic."""
        self._looks = [look for look in self._looks if look[0] > at_s - _REMEMBERED_S]
        self._looks.append((at_s, {backlog.stream: backlog.finished for backlog in backlogs}))
        since_s, before = self._looks[0]
        passed_s = at_s - since_s
        statuses = []
        for backlog in backlogs:
            finished = backlog.finished - before.get(backlog.stream, backlog.finished)
            rate = finished / passed_s if passed_s > 0 else 0.0
            statuses.append(
                StreamStatus(backlog=backlog, rate_per_s=max(0.0, rate), eta_s=self._eta_s(backlog, rate))
            )
        return tuple(statuses)

    def _eta_s(self, backlog: StreamBacklog, rate: float) -> float | None:
        """At the rate seen; before anything moved, at the quota with one call an event."""
        if backlog.remaining == 0:
            return 0.0
        if rate <= 0:
            own = self._settings.streams[backlog.stream]
            limits = self._settings.limits_for(own.provider, own.model)
            if limits is None or limits.requests_per_minute is None:
                return None
            rate = limits.requests_per_minute / 60
        return backlog.remaining / rate


def status(*, watch: bool = False, json: bool = False, config: Path | None = None) -> None:
    """Show each stream's backlog, what runs, what is parked, and when it will be done.

    Everything comes from Kafka's offsets and commits; no consumer group is disturbed. `running` is what
    workers must have taken, so a lower bound.

    Parameters
    ----------
    watch
        Look again every second until Ctrl-C.
    json
        Print one JSON object a look.
    config
        Configuration file.

    """
    settings = command_settings(config)
    rates = Rates(settings)
    with Inspector(settings) as inspector:
        rates.add(inspector.look(), time.monotonic())
        if watch:
            _watch(inspector, rates, json=json)
            return
        time.sleep(_RATE_WINDOW_S)
        found = rates.add(inspector.look(), time.monotonic())
        if json:
            _print_json(found)
        else:
            _console().print(as_table(found, now_ms=_now_ms()))


def as_json(statuses: Sequence[StreamStatus]) -> dict[str, Any]:
    """Return what `--json` prints: one object a stream."""
    return {
        "streams": {
            status.backlog.stream: {
                "published": status.backlog.published,
                "lag": status.backlog.lag,
                "running": status.backlog.running,
                "parked": status.backlog.parked,
                "tiers": [
                    {"tier": tier.tier, "parked": tier.parked, "next_due_at_ms": tier.next_due_at_ms}
                    for tier in status.backlog.tiers
                ],
                "due": status.backlog.due,
                "results": status.backlog.results,
                "dlq": status.backlog.dead_letters,
                "rate_per_s": round(status.rate_per_s, 3),
                "eta_s": None if status.eta_s is None else round(status.eta_s, 1),
            }
            for status in statuses
        }
    }


def as_table(statuses: Sequence[StreamStatus], *, now_ms: int) -> Table:
    """Return what people see."""
    grid = Table(box=None, pad_edge=False)
    for heading in (
        "stream",
        "lag",
        "running",
        "parked",
        "next due",
        "due",
        "results",
        "dlq",
        "rate",
        "done in",
    ):
        grid.add_column(heading, justify="left" if heading == "stream" else "right")
    for status in statuses:
        backlog = status.backlog
        next_due = [tier.next_due_at_ms for tier in backlog.tiers if tier.next_due_at_ms is not None]
        grid.add_row(
            backlog.stream,
            str(backlog.lag),
            str(backlog.running),
            _parked(backlog),
            duration((min(next_due) - now_ms) / 1000) if next_due else "",
            str(backlog.due),
            str(backlog.results),
            str(backlog.dead_letters),
            f"{status.rate_per_s:.1f}/s",
            "?" if status.eta_s is None else duration(status.eta_s),
        )
    return grid


def _parked(backlog: StreamBacklog) -> str:
    tiers = [f"{tier.tier}: {tier.parked}" for tier in backlog.tiers if tier.parked]
    return f"{backlog.parked} ({', '.join(tiers)})" if tiers else "0"


def _watch(inspector: Inspector, rates: Rates, *, json: bool) -> None:
    live = Live(console=_console(), auto_refresh=False, transient=False) if not json else None
    try:
        if live is not None:
            live.start()
        while True:
            time.sleep(_WATCH_EVERY_S)
            found = rates.add(inspector.look(), time.monotonic())
            if live is None:
                _print_json(found)
            else:
                live.update(as_table(found, now_ms=_now_ms()), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.stop()


def _print_json(statuses: Sequence[StreamStatus]) -> None:
    sys.stdout.write(orjson.dumps(as_json(statuses)).decode() + "\n")
    sys.stdout.flush()


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
