"""`sluicegate topics`: print, make and check every topic of a deployment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import orjson
from rich.console import Console
from rich.table import Table

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.topic_growth import grow_stream
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.topic_check import create_missing, differences
from sluicegate.topics import TopicSpec, topic_table

Format = Literal["table", "json", "strimzi"]

_PIPE_WIDTH = 240


def topics(
    *,
    create: bool = False,
    check: bool = False,
    format: Format = "table",
    strimzi_cluster: str = "kafka",
    grow: str | None = None,
    partitions: int | None = None,
    config: Path | None = None,
) -> int:
    """Print the topic table, or make, check and widen its topics.

    Parameters
    ----------
    create
        Make the topics that are missing; those that are there stay as they are.
    check
        Compare partition counts and timestamp types with the cluster; exit 1 on a difference.
    format
        What to print: a table, JSON, or KafkaTopic resources for Strimzi.
    strimzi_cluster
        Name of the Kafka resource that the Strimzi resources belong to.
    grow
        Widen this stream's input, `due` and tiers; its publishers and workers are stopped, nothing waits.
    partitions
        How many partitions --grow gives them; else as many as the widest has.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    if grow is not None:
        _tell(grow_stream(settings, grow, partitions))
        return 0
    if partitions is not None:
        sys.stderr.write("sluicegate: --partitions goes with --grow STREAM\n")
        return 2
    found: tuple[str, ...] = ()
    if create or check:
        admin = KafkaAdmin.of(settings.kafka)
        if create:
            made = create_missing(settings, admin)
            _tell([f"made {name}" for name in made] or ["every topic was there already"])
        if check:
            found = differences(settings, admin)
            _tell(found or ["every topic is as it must be"])
    if format != "table" or not (create or check):
        _print(topic_table(settings), format, strimzi_cluster)
    return 1 if found else 0


def as_json(table: Sequence[TopicSpec]) -> str:
    """Write the table as a JSON array."""
    return orjson.dumps(list(table), option=orjson.OPT_INDENT_2).decode()


def as_strimzi(table: Sequence[TopicSpec], cluster: str) -> str:
    """Write the table as KafkaTopic resources, one YAML document each.

    A topic's name may hold what a resource's name may not, so it stands in `topicName`. Replicas are left
    out where the broker's default is meant.
    """
    return "".join("\n".join(_resource(spec, cluster)) + "\n" for spec in table)


def _resource(spec: TopicSpec, cluster: str) -> Iterator[str]:
    # Every text is written as a JSON string, which YAML reads as it is.
    name = re.sub(r"[^a-z0-9.-]", "-", spec.name.lower()).strip(".-")
    yield "---"
    yield "apiVersion: kafka.strimzi.io/v1"
    yield "kind: KafkaTopic"
    yield "metadata:"
    yield f"  name: {_quoted(name)}"
    yield "  labels:"
    yield f"    strimzi.io/cluster: {_quoted(cluster)}"
    yield "spec:"
    yield f"  topicName: {_quoted(spec.name)}"
    yield f"  partitions: {spec.partitions}"
    if spec.replication_factor > 0:
        yield f"  replicas: {spec.replication_factor}"
    yield "  config:"
    for key, value in sorted(spec.config.items()):
        yield f"    {key}: {_quoted(value)}"


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _print(table: Sequence[TopicSpec], format: Format, cluster: str) -> None:
    if format == "json":
        sys.stdout.write(as_json(table) + "\n")
    elif format == "strimzi":
        sys.stdout.write(as_strimzi(table, cluster))
    else:
        # Into a pipe nothing is cut to the width of a terminal that is not there.
        console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        console.print(_as_table(table))


def _as_table(table: Sequence[TopicSpec]) -> Table:
    grid = Table(box=None, pad_edge=False)
    for heading in ("topic", "partitions", "replicas", "written by", "read by", "settings"):
        grid.add_column(heading, justify="right" if heading in {"partitions", "replicas"} else "left")
    for spec in table:
        replicas = str(spec.replication_factor) if spec.replication_factor > 0 else "default"
        config = " ".join(f"{key}={value}" for key, value in spec.config.items())
        grid.add_row(
            spec.name,
            str(spec.partitions),
            replicas,
            ", ".join(spec.writers),
            ", ".join(spec.readers),
            config,
        )
    return grid


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write(line + "\n")
