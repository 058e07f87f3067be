"""`sluicegate pause STREAM`: stops a stream's intake in all its workers."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.operator import now_ms, who, write_down
from sluicegate.cli.pausing import pause_json, told, with_flags
from sluicegate.events.audit import AuditKind
from sluicegate.state.pause import Pause


def pause(stream: str, *, reason: str | None = None, json: bool = False, config: Path | None = None) -> None:
    """Stop a stream's intake in all its workers, from the input and from `due`, until `resume`.

    Workers see it within a second, and those that start later too. What is at work finishes, calls
    included; nothing else is begun. Paused workers stay ready and in their group. It needs Redis alone;
    a stream that is paused already stays as it is.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    reason
        Why, for `status` and the workers' logs.
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    settings.stream(stream)
    wanted = Pause(by=who(), at_ms=now_ms(), reason=reason)
    stands = with_flags(settings, lambda flags: flags.pause(stream, wanted))
    is_new = stands == wanted
    if json:
        said = {"stream": stream, "paused": True, "changed": is_new, "pause": pause_json(stands)}
        sys.stdout.write(orjson.dumps(said).decode() + "\n")
    elif is_new:
        sys.stdout.write(f"{stream} is paused: what is at work finishes, see `sluicegate status`\n")
    else:
        sys.stdout.write(f"{stream} has been paused {told(stands, now_ms())}\n")
    if is_new:
        write_down(settings, AuditKind.PAUSED, stream, target={"reason": reason})
