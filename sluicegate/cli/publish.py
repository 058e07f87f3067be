"""`sluicegate publish`: JSON lines onto a stream's topic."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.event_lines import read_lines
from sluicegate.errors import ConfigurationError, PublishError
from sluicegate.events.making import EventMaker
from sluicegate.events.models import Event
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.security import librdkafka_security
from sluicegate.processing.handlers import load_handler
from sluicegate.records import OutgoingRecord
from sluicegate.settings import KafkaSettings, Settings
from sluicegate.topics import stream_topics

_SOURCE = "/sluicegate/publish"
_BATCH_RECORDS = 500


def publish(
    stream: str,
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    json: bool = False,
    config: Path | None = None,
) -> int:
    """Publish JSON lines onto a stream's topic.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    file
        A file of JSON lines, one event each; `-` reads standard input.
    json
        Print the outcome as JSON.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    maker = event_maker(settings, stream)
    read = read_lines(_lines(file), maker, time_ms=time.time_ns() // 1_000_000)
    if read.faults:
        for fault in read.faults:
            sys.stderr.write(f"{file}, {fault}\n")
        sys.stderr.write(f"nothing was published: {len(read.faults)} lines are no events of {stream}\n")
        return 1
    if maker.topic not in KafkaAdmin.of(settings.kafka).partition_counts():
        raise ConfigurationError(f"there is no topic {maker.topic}: `sluicegate topics --create` makes it")
    errors = _publish(settings.kafka, read.records)
    done = len(read.records) - len(errors)
    for text in sorted({str(error) for error in errors}):
        sys.stderr.write(f"not published: {text}\n")
    sys.stderr.write(f"published {done} of {len(read.records)} events onto {maker.topic}\n")
    if json:
        outcome = {"topic": maker.topic, "published": done, "failed": len(errors)}
        sys.stdout.write(orjson.dumps(outcome).decode() + "\n")
    return 1 if errors else 0


def event_maker(settings: Settings, stream: str, *, source: str = _SOURCE) -> EventMaker[Event]:
    """Return what makes records of the stream, by the model that its handler takes."""
    own = settings.stream(stream)
    return EventMaker(
        topic=stream_topics(settings, stream).input,
        model=load_handler(own.agent).argument,
        source=source,
        max_event_bytes=own.max_event_bytes,
    )


def _lines(file: str) -> Sequence[bytes]:
    if file == "-":
        return sys.stdin.buffer.read().splitlines()
    try:
        return Path(file).read_bytes().splitlines()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {file}: {exc.strerror}") from exc


def _publish(kafka: KafkaSettings, records: Sequence[OutgoingRecord]) -> list[PublishError]:
    """Publish all in their order, confirmed, and return what failed."""
    errors: list[PublishError] = []
    console = Console(stderr=True)
    with (
        ConfluentPublisher(
            kafka.bootstrap_servers, client_id="sluicegate-publish", security=librdkafka_security(kafka)
        ) as publisher,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("publishing", total=len(records))
        for start in range(0, len(records), _BATCH_RECORDS):
            batch = records[start : start + _BATCH_RECORDS]
            outcomes = publisher.publish_all(batch)
            errors += [error for error in outcomes if error is not None]
            progress.advance(task, len(batch))
    return errors
