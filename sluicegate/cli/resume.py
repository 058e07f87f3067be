"""`sluicegate resume STREAM`: starts a paused stream's intake again."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.operator import now_ms, write_down
from sluicegate.cli.pausing import pause_json, told, with_flags
from sluicegate.events.audit import AuditKind


def resume(stream: str, *, json: bool = False, config: Path | None = None) -> None:
    """Start a paused stream's intake again, in all its workers and within a second.

    What had become due goes first, then the input where it stood. A stream that is not paused stays as
    it is.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    settings.stream(stream)
    lifted = with_flags(settings, lambda flags: flags.resume(stream))
    if json:
        said = {
            "stream": stream,
            "paused": False,
            "changed": lifted is not None,
            "pause": pause_json(lifted),
        }
        sys.stdout.write(orjson.dumps(said).decode() + "\n")
    elif lifted is None:
        sys.stdout.write(f"{stream} was not paused\n")
    else:
        sys.stdout.write(f"{stream} goes on; it was paused {told(lifted, now_ms())}\n")
    if lifted is not None:
        write_down(settings, AuditKind.RESUMED, stream)
