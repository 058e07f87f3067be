"""`sluicegate contract`: JSON Schemas and an AsyncAPI document for who publishes events and reads results."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from sluicegate.cli.configuration import command_settings
from sluicegate.contract.files import Files, breaking, contract_files, drift, is_contract_file
from sluicegate.contract.schemas import StreamContract
from sluicegate.errors import ConfigurationError
from sluicegate.processing.handlers import load_handler
from sluicegate.settings import Settings
from sluicegate.topics import stream_topics

_FOLDER = Path("contract")


def contract(
    *, out: Path = _FOLDER, check: bool = False, allow_breaking: bool = False, config: Path | None = None
) -> int:
    """Write JSON Schemas and the AsyncAPI document of every stream.

    Files that are there are only replaced by ones that break nobody who holds them.

    Parameters
    ----------
    out
        The folder for the files.
    check
        Write nothing; fail when the files there are not what would be written.
    allow_breaking
        Replace files also when that breaks publishers or readers.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    wanted = contract_files(stream_contracts(command_settings(config)))
    there = _read(out)
    broken = () if allow_breaking else breaking(there, wanted)
    if broken:
        _say(broken)
        sys.stderr.write("give the model another ce_type (.v2), or say --allow-breaking\n")
        return 1
    if check:
        changes = drift(there, wanted)
        _say(f"{out}/{change}" for change in changes)
        if changes:
            sys.stderr.write(f"`sluicegate contract --out {out}` writes what the models say\n")
        return 1 if changes else 0
    _write(out, wanted)
    return 0


def stream_contracts(settings: Settings) -> tuple[StreamContract, ...]:
    """Return what each stream of the settings promises, by the models of its handler."""
    found = []
    for name, stream in settings.streams.items():
        handler = load_handler(stream.agent)
        found.append(
            StreamContract(
                name=name,
                topics=stream_topics(settings, name),
                event=handler.argument,
                result=handler.result,
                max_event_bytes=stream.max_event_bytes,
            )
        )
    return tuple(found)


def _read(folder: Path) -> Files:
    try:
        paths = [path for path in folder.iterdir() if is_contract_file(path.name)] if folder.is_dir() else []
        return {path.name: path.read_bytes() for path in sorted(paths)}
    except OSError as exc:
        raise ConfigurationError(f"cannot read {folder}: {exc.strerror}") from exc


def _write(folder: Path, files: Files) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_bytes(text)
            sys.stdout.write(f"{folder / name}\n")
    except OSError as exc:
        raise ConfigurationError(f"cannot write {folder}: {exc.strerror}") from exc


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"{line}\n")
