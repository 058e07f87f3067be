"""`sluicegate local`: the embedded stack in the foreground."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from sluicegate.cli.configuration import command_settings
from sluicegate.errors import StackError
from sluicegate.local.stack import LocalStack, StackPlan
from sluicegate.local.toml import Value, write_environment, write_toml
from sluicegate.topics import topic_table

_LOOK_EVERY_S = 0.5


def local(
    *,
    requests_per_minute: float = 3000,
    tokens_per_minute: float = 250_000,
    latency_ms: float = 300,
    config: Path | None = None,
) -> None:
    """Run a broker, a Redis and a provider until Ctrl-C, with every topic made.

    Prints the settings that point at them as TOML, and as environment variables in its comments.
    Everything is forgotten when it ends.

    Parameters
    ----------
    requests_per_minute
        What the provider admits, and what the printed settings allow.
    tokens_per_minute
        The same for tokens.
    latency_ms
        How long the provider takes for an answer.
    config
        Configuration file: its streams, group and partitions say which topics to make.

    """
    table = topic_table(command_settings(config))
    plan = StackPlan(
        topics={topic.name: topic.partitions for topic in table},
        provider_options=(
            *("--requests-per-minute", f"{requests_per_minute:g}"),
            *("--tokens-per-minute", f"{tokens_per_minute:.0f}"),
            *("--latency-ms", f"{latency_ms:g}"),
        ),
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-local-") as folder,
        LocalStack(plan, folder=Path(folder)) as stack,
    ):
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        sys.stdout.write(settings_text(stack, limits))
        sys.stdout.flush()
        sys.stderr.write("running; Ctrl-C stops everything\n")
        _wait(stack, stopping)
    sys.stderr.write("stopped\n")


def settings_text(stack: LocalStack, limits: Mapping[str, float]) -> str:
    """Return the settings that point at a stack: TOML, with the environment's form in comments."""
    tables: dict[str, Mapping[str, Value]] = {
        "kafka": {"bootstrap_servers": stack.kafka},
        "redis": {"url": stack.redis},
        "providers.main": {"base_url": stack.provider_base_url},
        "limits.main": dict(limits),
    }
    lines = [
        write_toml(tables),
        "# The same in the environment:",
        *(f"# export {line}" for line in write_environment(tables)),
        "#",
        "# sluicegate worker support-chat --config FILE --embedded-broker",
        "# sluicegate worker documents --config FILE --embedded-broker",
        "# sluicegate relay --config FILE",
    ]
    return "\n".join(lines) + "\n"


def _wait(stack: LocalStack, stopping: threading.Event) -> None:
    while not stopping.wait(_LOOK_EVERY_S):
        process = stack.provider_process
        if process is not None and (code := process.exit_code) is not None:
            raise StackError(f"the provider ended with code {code}:\n{process.tail()}")
