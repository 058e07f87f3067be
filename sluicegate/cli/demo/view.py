"""What a person sees while a demo runs: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumers.inspection.backlog import StreamBacklog
from sluicegate.cli.wording import duration

_PLAIN_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One look at the run. `provider` is the simulator's summary, None where there is none.

    `running` is what the workers themselves say, by stream: what Kafka knows of it is a lower bound.
    """

    at_s: float
    now_ms: int
    backlogs: Sequence[StreamBacklog]
    provider: Mapping[str, Any] | None
    running: Mapping[str, int]
    is_naive: bool = False


class View:
    """Shows scenes and notes on stderr. Use it as a context."""

    def __init__(self, console: Console, *, plain: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live = None if plain or not console.is_terminal else Live(console=console, auto_refresh=False)
        self._said_at_s = -_PLAIN_EVERY_S

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something that happened."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, scene: Scene) -> None:
        """Show the scene: at once on a terminal, else every 5 s."""
        if self._live is not None:
            self._live.update(Group(scene_table(scene), Text(quota_line(scene))), refresh=True)
            return
        now_s = self._clock()
        if now_s - self._said_at_s >= _PLAIN_EVERY_S:
            self._said_at_s = now_s
            self.note(plain_line(scene))


def scene_table(scene: Scene) -> Table:
    """Return the live table: one row a stream."""
    grid = Table(title=f"{scene.at_s:.0f} s", title_justify="left")
    for heading in ("stream", "published", "running", "parked", "due", "done", "dead letters"):
        grid.add_column(heading, justify="left" if heading in ("stream", "parked") else "right")
    for backlog in scene.backlogs:
        grid.add_row(
            backlog.stream,
            str(backlog.published),
            str(_running(backlog, scene)),
            parked_words(backlog, scene.now_ms),
            str(backlog.due),
            str(_done(backlog, scene)),
            str(backlog.dead_letters),
        )
    return grid


def plain_line(scene: Scene) -> str:
    """Return the scene as one line."""
    streams = (
        f"{backlog.stream}: {backlog.published} published, {_running(backlog, scene)} running, "
        f"{parked_words(backlog, scene.now_ms)} parked, {_done(backlog, scene)} done"
        for backlog in scene.backlogs
    )
    return "  |  ".join((f"{scene.at_s:4.0f} s", *streams, quota_line(scene)))


def parked_words(backlog: StreamBacklog, now_ms: int) -> str:
    """Say how many events are parked, in which tiers, and when the next of each is due."""
    tiers = [
        f"tier {tier.tier}: {tier.parked}"
        + ("" if tier.next_due_at_ms is None else f", next {_when(tier.next_due_at_ms, now_ms)}")
        for tier in backlog.tiers
        if tier.parked
    ]
    return f"{backlog.parked} ({'; '.join(tiers)})" if tiers else "0"


def quota_line(scene: Scene) -> str:
    """Say how much of the quota is free and how often the provider refused."""
    if scene.provider is None:
        return "this provider keeps no records"
    levels, counts = scene.provider["levels"], scene.provider["counts"]
    parts = [
        f"{name} {levels[name]['available']:.0f} of {levels[name]['capacity']:.0f} free"
        for name in ("requests", "tokens")
    ]
    is_cut = bool(scene.provider["timeline"]) and scene.provider["timeline"][-1]["cut"]
    state = "CUT" if is_cut else ", ".join(parts)
    return f"quota: {state}  |  calls: {counts['calls']}, 429s: {counts['by_status'].get('429', 0)}"


def _when(due_at_ms: int, now_ms: int) -> str:
    words = duration((due_at_ms - now_ms) / 1000)
    return words if words == "now" else f"in {words}"


def _running(backlog: StreamBacklog, scene: Scene) -> int:
    return scene.running.get(backlog.stream, backlog.running)


def _done(backlog: StreamBacklog, scene: Scene) -> int:
    # The recipe commits once, at its very end: only its results show before.
    return backlog.results + backlog.dead_letters if scene.is_naive else backlog.finished
