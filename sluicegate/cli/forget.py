"""`sluicegate forget STREAM --key KEY`: removes what Redis keeps of a person."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.operator import write_down
from sluicegate.cli.stream_state import STATE_TIMEOUT_S
from sluicegate.events.audit import AuditKind
from sluicegate.settings import Settings
from sluicegate.state.connecting import connect
from sluicegate.state.forgetting import Forgetting, Forgotten


def forget(
    stream: str,
    *,
    key: str,
    also_open: bool = False,
    reference: str | None = None,
    json: bool = False,
    config: Path | None = None,
) -> int:
    """Remove all that Redis keeps of one key of a stream: the conversation, paid answers, and state.

    While an event of the key is at work, parked or about to be published, nothing is removed and the exit
    code is 1: cancel what is parked (`sluicegate cancel`), or wait, and give the command again. What lies in
    Kafka goes with its topics' retention; see docs/security.md. It is written down without the key.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    key
        The key: a conversation's or document's id.
    also_open
        Also while events are open: what is at work may leave its part behind, be answered and paid twice.
    reference
        Your own word for it (a ticket), for the audit topic; not a name.
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    settings.stream(stream)
    done = asyncio.run(_forget(settings, stream, key, also_open=also_open))
    if json:
        told = {"stream": stream, "removed": done.removed, "open": done.open}
        sys.stdout.write(orjson.dumps(told).decode() + "\n")
    elif done.open and not done.removed:
        sys.stdout.write(f"{done.open} events of this key are still open: nothing was removed\n")
    else:
        sys.stdout.write(f"removed from Redis: {done.removed} keys\n")
    is_written = True
    if done.removed:
        counts = {"removed": done.removed, "open": done.open}
        target = {"reference": reference}
        is_written = write_down(settings, AuditKind.FORGOTTEN, stream, target=target, counts=counts)
    is_refused = done.open > 0 and not also_open
    return 0 if is_written and not is_refused else 1


async def _forget(settings: Settings, stream: str, key: str, *, also_open: bool) -> Forgotten:
    client = connect(settings.redis, max_connections=1, timeout_s=STATE_TIMEOUT_S)
    try:
        forgetting = Forgetting(client, group=settings.kafka.group, timeout_s=STATE_TIMEOUT_S)
        return await forgetting.forget(stream, key, also_open=also_open)
    finally:
        await client.aclose()
