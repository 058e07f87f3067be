"""The command table: what each command is for, and where it is found when it runs.

One command is one module `sluicegate/cli/NAME.py` with one function `NAME`, which is imported only when
that command runs. Its parameters are its options (their help comes from the docstring's `Parameters`
section), and every command that reads the settings takes `config: Path | None = None` by keyword. A
command returns nothing or an exit code, prints its data on stdout, and logs on stderr; an error of ours
that leaves it becomes one line on stderr and exit code 1. Wrong usage is exit code 2.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cyclopts import App

from sluicegate.errors import SluicegateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line of `sluicegate --help`, and the example that its own help ends with."""

    name: str
    help: str
    example: str

    @property
    def target(self) -> str:
        """Where cyclopts finds the function, once it is called for."""
        return f"sluicegate.cli.{self.name}:{self.name}"


COMMANDS = (
    Command(
        name="demo",
        help="Run the whole main job on an embedded stack, with a live view and a ledger at the end.",
        example="sluicegate demo --kill-worker --json ledger.json",
    ),
    Command(
        name="worker",
        help="Run the worker of one stream.",
        example="sluicegate worker support-chat --config sluicegate.toml",
    ),
    Command(
        name="relay",
        help="Run the retry relay: it hands parked events back when they are due.",
        example="sluicegate relay --config sluicegate.toml",
    ),
    Command(
        name="publish",
        help="Publish JSON lines onto a stream's topic, each validated before the first is sent.",
        example="sluicegate publish support-chat chats.jsonl",
    ),
    Command(
        name="contract",
        help="Write JSON Schemas and an AsyncAPI document for who publishes events and reads results.",
        example="sluicegate contract --out contract",
    ),
    Command(
        name="topics",
        help="Print, create or check every topic.",
        example="sluicegate topics --create --config sluicegate.toml",
    ),
    Command(
        name="rights",
        help="Print who may do what in Kafka and Redis, as ACLs that grant each role the least it needs.",
        example="sluicegate rights --format redis --config sluicegate.toml",
    ),
    Command(
        name="provider",
        help="Run the provider simulator: a real HTTP server that enforces limits.",
        example="sluicegate provider --port 8089 --requests-per-minute 600 --enforcement slice",
    ),
    Command(
        name="local",
        help="Run a broker, a Redis and a provider here until Ctrl-C, and print the settings for them.",
        example="sluicegate local --requests-per-minute 600 > sluicegate.toml",
    ),
    Command(
        name="doctor",
        help="Check the configuration, Kafka, topics, Redis and providers, and say what to do.",
        example="sluicegate doctor --config sluicegate.toml",
    ),
    Command(
        name="status",
        help="Show each stream's backlog, what runs, what is parked, and when it will be done.",
        example="sluicegate status --watch",
    ),
    Command(
        name="replay",
        help="Plan what of the DLQ or of the retry tiers is sent back; with --run, send it.",
        example="sluicegate replay dlq support-chat --since 2h --reason attempts-exhausted --run",
    ),
    Command(
        name="limits",
        help="Show each scope's limits, how much of them is used, and what calls wait for.",
        example="sluicegate limits --watch",
    ),
    Command(
        name="parked",
        help="Show what waits in a stream's retry tiers: how much, since when, until when, and why.",
        example="sluicegate parked support-chat",
    ),
    Command(
        name="dlq",
        help="Show a stream's dead letters by reason, or one of them.",
        example="sluicegate dlq support-chat --show 0/17",
    ),
    Command(
        name="cancel",
        help="End parked events as dead letters, by key or by id.",
        example="sluicegate cancel support-chat --key c-1042",
    ),
    Command(
        name="pause",
        help="Stop a stream's intake in all its workers.",
        example="sluicegate pause support-chat --reason 'wrong prompt'",
    ),
    Command(
        name="resume",
        help="Start a paused stream's intake again.",
        example="sluicegate resume support-chat",
    ),
    Command(
        name="forget",
        help="Remove all that Redis keeps of one key of a stream: history, answers, state.",
        example="sluicegate forget support-chat --key c-1042 --reference T-77",
    ),
)


def build_app() -> App:
    """Return the command line with every command known by name and none of them imported."""
    # Plain text help needs none of rich's Markdown machinery, which would double the start-up time.
    app = App(
        name="sluicegate",
        help="Kafka pipelines for LLM work that keep moving when the provider says 429.",
        help_epilogue="Example: sluicegate demo",
        help_format="plaintext",
        version=_version,
    )
    for command in COMMANDS:
        app.command(
            command.target,
            name=command.name,
            help=command.help,
            help_epilogue=f"Example: {command.example}",
        )
    return app


def main() -> int:
    """Run the command line of this process and return its exit code."""
    sys.excepthook = _tell_crash
    threading.excepthook = _tell_thread_crash
    return run(build_app(), sys.argv[1:])


def run(app: App, arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; wrong usage leaves through SystemExit(2)."""
    try:
        code: int = app(arguments, result_action="return_int_as_exit_code_else_zero")
    except SluicegateError as exc:
        sys.stderr.write(f"sluicegate: {exc}\n")
        return 1
    return code


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell a bug without its values: Python's own traceback would quote what an exception quotes (G7)."""
    if issubclass(kind, KeyboardInterrupt):
        return
    from sluicegate.telemetry.logs import story_of

    sys.stderr.write(f"sluicegate: this is a bug; please report it\n{story_of(error)}\n")


def _tell_thread_crash(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _tell_crash(args.exc_type, args.exc_value, args.exc_traceback)


def _version() -> str:
    from importlib.metadata import version

    return version("sluicegate")
