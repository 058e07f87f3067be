"""What is written down of operators' actions."""

from __future__ import annotations

import orjson

from sluicegate.cli.operator import who
from sluicegate.events.audit import AuditEntry, AuditKind, audit_record


def test_an_action_is_one_record_of_plain_json() -> None:
    """A reader of any language learns who did what to which events, and when; unset filters are left out."""
    entry = AuditEntry(
        kind=AuditKind.CANCELLED,
        stream="support-chat",
        who="kim@ops-1",
        at_ms=1_700_000_000_123,
        target={"key": "c-1", "id": None},
        counts={"cancelled": 2},
    )

    record = audit_record(entry, "sluicegate.audit")

    assert (record.topic, record.key) == ("sluicegate.audit", b"support-chat")
    assert orjson.loads(record.value or b"") == {
        "kind": "cancelled",
        "stream": "support-chat",
        "who": "kim@ops-1",
        "at_ms": 1_700_000_000_123,
        "target": {"key": "c-1"},
        "counts": {"cancelled": 2},
    }


def test_the_operator_is_an_account_on_a_machine() -> None:
    """Both parts are there, whatever the machine knows."""
    account, _, machine = who().partition("@")

    assert account
    assert machine
