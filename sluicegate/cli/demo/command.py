"""The command: its options, its ledger on stdout, its exit code."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
from cyclopts import Parameter, validators
from rich.console import Console
from rich.table import Table

from sluicegate.cli.demo.plan import DemoOptions
from sluicegate.cli.demo.run import run_demo
from sluicegate.cli.demo.view import View
from sluicegate.local.ledger import Ledger

_LIMIT = 400
_REQUESTS_PER_MINUTE = 420.0
_TOKENS_PER_MINUTE = 400_000.0
_SEEDS = 1_000_000

_Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]
_Rate = Annotated[float, Parameter(validator=validators.Number(gt=0))]


def demo(
    *,
    chats: Path | None = None,
    documents: Path | None = None,
    limit: _Count = _LIMIT,
    requests_per_minute: _Rate = _REQUESTS_PER_MINUTE,
    tokens_per_minute: _Rate = _TOKENS_PER_MINUTE,
    workers: _Count = 2,
    kill_worker: Annotated[bool, Parameter(negative=())] = False,
    kafka: str | None = None,
    redis: str | None = None,
    provider: str | None = None,
    naive: Annotated[bool, Parameter(negative=())] = False,
    no_cut: Annotated[bool, Parameter(negative=())] = False,
    seed: int | None = None,
    plain: Annotated[bool, Parameter(negative=())] = False,
    json: Path | None = None,
) -> int:
    """Run the whole main job on an embedded stack, with a live view and a ledger at the end.

    Support chats and documents are published, answered under a quota, parked when the provider refuses,
    released and answered. The ledger is computed from Kafka and the provider's records alone. Exits 1
    when it shows a broken promise.

    Parameters
    ----------
    chats
        JSON lines of chat messages; else conversations written for this project.
    documents
        JSON lines of documents, or a folder of texts; else descriptions of installed Python packages.
    limit
        How many events at most: a tenth of them documents, the rest chats.
    requests_per_minute
        The provider's quota of requests.
    tokens_per_minute
        The provider's quota of tokens.
    workers
        Worker processes of each stream.
    kill_worker
        Kill a worker with SIGKILL on the way, and start another.
    kafka
        Address of a Kafka to use; the run's topics and groups are deleted afterwards.
    redis
        Address of a Redis to use; the run's keys are deleted afterwards.
    provider
        Address of a provider to use, in the OpenAI format.
    naive
        Run the recipe that people start with instead: fixed concurrency, backoff, no shared limiter.
    no_cut
        Leave the quota alone; else it is cut for 10 s in the middle.
    seed
        Seed of the run's order and of the simulator; else one is drawn.
    plain
        Lines instead of a live view.
    json
        File for the ledger as JSON.

    """
    options = DemoOptions(
        chats=chats,
        documents=documents,
        limit=limit,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        workers=workers,
        kill_worker=kill_worker,
        kafka=kafka,
        redis=redis,
        provider=provider,
        naive=naive,
        cut=not no_cut,
        seed=secrets.randbelow(_SEEDS) if seed is None else seed,
        plain=plain,
        json=json,
    )
    ledger = _run(options)
    Console(soft_wrap=True).print(ledger_table(ledger))
    if json is not None:
        json.write_bytes(orjson.dumps(ledger.as_json(), option=orjson.OPT_INDENT_2) + b"\n")
    broken = () if naive else ledger.broken(worker_was_killed=kill_worker)
    if broken:
        sys.stderr.write(f"not as promised: {', '.join(broken)}\n")
    return 1 if broken else 0


def _run(options: DemoOptions) -> Ledger:
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-demo-"))
    # SIGTERM unwinds like Ctrl-C, so that no child process outlives the run.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with View(Console(stderr=True), plain=options.plain) as view:
            ledger = run_demo(options, view, folder)
    except BaseException:
        sys.stderr.write(f"logs and configurations are kept in {folder}\n")
        raise
    if ledger.broken(worker_was_killed=options.kill_worker) and not options.naive:
        sys.stderr.write(f"logs and configurations are kept in {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return ledger


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def ledger_table(ledger: Ledger) -> Table:
    """Return the ledger for people; keys of which nothing is known show a dash."""
    grid = Table(title="ledger", title_justify="left", show_header=False)
    grid.add_column(justify="left")
    grid.add_column(justify="right")
    for key, value in ledger.as_json().items():
        grid.add_row(key, "-" if value is None else f"{value}")
    return grid
