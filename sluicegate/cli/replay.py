"""`sluicegate replay`: plan what of the DLQ or of the retry tiers is sent back, and send it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import orjson
from cyclopts import Parameter, validators
from rich.console import Console
from rich.progress import Progress

from consumers.replay.candidates import CandidateReader
from consumers.replay.estimate import Estimate, estimate
from consumers.replay.filters import Filters, attempts_range, moment_ms
from consumers.replay.plan import Command
from consumers.replay.replay import Planned, Replay, ReplayPorts
from consumers.replay.sending import Ask
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.replay_view import as_json, show_outcome, show_plan
from sluicegate.errors import SluicegateError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.llm.prices import price_of
from sluicegate.processing.decoding import EventDecoder
from sluicegate.processing.handlers import load_handler
from sluicegate.retry.headers import ReplaySource
from sluicegate.settings import Settings
from sluicegate.state.api import EventRef, Standing
from sluicegate.state.connecting import connect
from sluicegate.state.redis_state import RedisState
from sluicegate.topics import stream_topics

_REDIS_TIMEOUT_S = 10.0
_PIPE_WIDTH = 160
_UNFINISHED = "the replay is not finished: the same command goes on where this one stopped\n"


def _is_time(type_: Any, value: str | None) -> None:
    if value is not None:
        moment_ms(value, 0)


def _is_range(type_: Any, value: str | None) -> None:
    attempts_range(value)


_Time = Annotated[str | None, Parameter(validator=_is_time)]
_Attempts = Annotated[str | None, Parameter(validator=_is_range)]
_Limit = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
_Rate = Annotated[float | None, Parameter(validator=validators.Number(gt=0))]
_Many = Annotated[tuple[str, ...], Parameter(negative="")]
_Statuses = Annotated[tuple[int, ...], Parameter(negative="")]


def replay(
    source: ReplaySource,
    stream: str,
    *,
    since: _Time = None,
    until: _Time = None,
    reason: _Many = (),
    status: _Statuses = (),
    key: _Many = (),
    tenant: _Many = (),
    attempts: _Attempts = None,
    limit: _Limit = None,
    rate: _Rate = None,
    id: str | None = None,
    new: bool = False,
    run: bool = False,
    json: bool = False,
    config: Path | None = None,
) -> int:
    """Plan what is sent back to a stream's workers; with --run, send it.

    Without --run nothing is changed: the plan says how many events, why they are there, and what they will
    take. A run can be interrupted at any moment: the same command goes on where it stopped.

    Parameters
    ----------
    source
        `dlq` sends back dead letters, `retry` what is parked, ahead of its due time.
    stream
        The stream's name, as in [streams.NAME].
    since
        Only what died or was parked since then: 2h, 3d, or 2026-11-24T09:00 (UTC without a zone).
    until
        Only what died or was parked before then.
    reason
        Only these reasons; may be given several times.
    status
        Only events whose last call ended with this HTTP status; may be given several times.
    key
        Only events of this key; may be given several times.
    tenant
        Only events of this tenant; may be given several times.
    attempts
        Only events with so many calls: 3, 3+ or 2-5.
    limit
        Send at most so many, oldest first.
    rate
        Events a second; by default what leaves half of the quota to fresh events.
    id
        Go on with this unfinished replay, by its own filters.
    new
        Start afresh although the same command was interrupted before.
    run
        Send. Without it the plan is only shown.
    json
        Print the plan, or what came of the run, as one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    filters = Filters(
        since=since,
        until=until,
        reasons=_each(reason),
        statuses=tuple(sorted(set(status))),
        keys=_each(key),
        tenants=_each(tenant),
        attempts=attempts,
        limit=limit,
    )
    if id is not None and (new or filters != Filters()):
        sys.stderr.write("sluicegate: --id names a replay with its filters: give neither filters nor --new\n")
        return 2
    command = Command(source=source, stream=stream, filters=filters)
    with _asking(settings) as ask:
        replay = _replay(settings, command, ask)
        planned = replay.plan(afresh=new, name=id)
        need = _need(settings, planned)
        rate_per_s = rate or need.rate_per_s()
        if not run:
            _print(json, planned, need, rate_per_s)
            return 0
        if not json:
            show_plan(_console(sys.stderr), planned, need, rate_per_s)
        try:
            tally = _run(replay, planned, rate_per_s)
        except KeyboardInterrupt:
            sys.stderr.write(_UNFINISHED)
            return 1
        except SluicegateError:
            sys.stderr.write(_UNFINISHED)
            raise
    if json:
        _write(as_json(planned, need, rate_per_s, tally))
    else:
        show_outcome(_console(sys.stdout), planned, tally)
    return 0


def _each(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(given)))


def _replay(settings: Settings, command: Command, ask: Ask) -> Replay:
    own, topics = settings.stream(command.stream), stream_topics(settings, command.stream)
    admin = KafkaAdmin.of(settings.kafka)
    candidates = CandidateReader(
        source=command.source,
        decoder=EventDecoder(
            stream=command.stream,
            model=load_handler(own.agent).argument,
            ordered=own.ordered,
            max_event_bytes=own.max_event_bytes,
        ),
        input_topic=topics.input,
        partitions=admin.partition_counts().get(topics.due, 0),
        horizon_s=settings.retry.horizon_s,
        max_replays=settings.replay.max_replays,
    )
    ports = ReplayPorts(admin=admin, ask=ask, who=_who(), now_ms=lambda: time.time_ns() // 1_000_000)
    return Replay(settings, command, candidates, ports)


def _need(settings: Settings, planned: Planned) -> Estimate:
    stream = planned.plan.command.stream
    own, route = settings.stream(stream), settings.routes(stream)[0]
    return estimate(
        (entry.value_bytes for entry in planned.plan.sends),
        own,
        price_of(settings, route),
        settings.limits_for(route.provider, route.model),
    )


def _run(replay: Replay, planned: Planned, rate_per_s: float) -> dict[str, int]:
    """Send, with a bar on stderr."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending back", total=len(planned.plan.sends))
        done = replay.run(planned, rate_per_s=rate_per_s, progress=lambda sent: bar.advance(task, sent))
        return dict(done)


@contextlib.contextmanager
def _asking(settings: Settings) -> Iterator[Ask]:
    """Give a plain function that asks Redis how events stand; it raises StateUnavailableError."""
    with asyncio.Runner() as runner:
        client = connect(settings.redis, max_connections=1, timeout_s=_REDIS_TIMEOUT_S)
        state = RedisState(
            client,
            group=settings.kafka.group,
            new_gen=lambda: secrets.token_hex(8),
            timeout_s=_REDIS_TIMEOUT_S,
        )

        def ask(refs: Sequence[EventRef]) -> Sequence[Standing | None]:
            return runner.run(state.standings(refs))

        try:
            yield ask
        finally:
            runner.run(client.aclose())


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _print(json: bool, planned: Planned, need: Estimate, rate_per_s: float) -> None:
    if json:
        _write(as_json(planned, need, rate_per_s, None))
    else:
        show_plan(_console(sys.stdout), planned, need, rate_per_s)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH)


def _write(told: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(told).decode() + "\n")
