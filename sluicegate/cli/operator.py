"""What an operator's commands share: who gives them, and writing down what they did."""

from __future__ import annotations

import getpass
import socket
import sys
import time
from collections.abc import Mapping

from sluicegate.events.audit import AuditEntry, AuditKind, audit_record
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.security import librdkafka_security
from sluicegate.settings import Settings
from sluicegate.topics import audit_topic

_AUDIT_TIMEOUT_S = 10.0


def who() -> str:
    """Return `account@machine`; a container's account may have no name, then it is `unknown`."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError):  # 3.13 raises OSError where earlier versions raised KeyError
        account = "unknown"
    return f"{account}@{socket.gethostname()}"


def now_ms() -> int:
    """Return this machine's Unix time."""
    return time.time_ns() // 1_000_000


def write_down(
    settings: Settings,
    kind: AuditKind,
    stream: str,
    *,
    target: Mapping[str, str | None] | None = None,
    counts: Mapping[str, int] | None = None,
) -> bool:
    """Publish what was just done to the audit topic; False, and a line on stderr, when Kafka did not take it.

    It is done all the same, so a command that did what it was asked says so by its exit code.
    """
    entry = AuditEntry(
        kind=kind,
        stream=stream,
        who=who(),
        at_ms=now_ms(),
        target=target or {},
        counts=counts or {},
    )
    topic = audit_topic(settings)
    with ConfluentPublisher(
        settings.kafka.bootstrap_servers,
        client_id="sluicegate-operator",
        timeout_s=_AUDIT_TIMEOUT_S,
        security=librdkafka_security(settings.kafka),
    ) as publisher:
        (error,) = publisher.publish_all([audit_record(entry, topic)])
    if error is not None:
        sys.stderr.write(f"sluicegate: done, but not written down ({error})\n")
    return error is None
