"""What is written down of operators' actions."""

from __future__ import annotations

import orjson

from sluicegate.cli.operator import who
from sluicegate.events.audit import AuditAction, AuditEntry, audit_record


def test_an_action_is_one_record_of_plain_json() -> None:
    """A reader of any language learns who did what to which events, and when; unset filters are left out."""
    entry = AuditEntry(
        action=AuditAction.CANCEL,
        id="a1",
        stream="support-chat",
        who="kim@ops-1",
        at_ms=1_700_000_000_123,
        target={"key": ("c-1", "c-2"), "id": None},
        counts={"cancelled": 2},
    )

    record = audit_record(entry, "sluicegate.audit")

    assert (record.topic, record.key) == ("sluicegate.audit", b"support-chat")
    assert orjson.loads(record.value or b"") == {
        "version": 1,
        "action": "cancel",
        "id": "a1",
        "stream": "support-chat",
        "who": "kim@ops-1",
        "at": "2023-11-14T22:13:20.123Z",
        "target": {"key": ["c-1", "c-2"]},
        "counts": {"cancelled": 2},
    }


def test_the_operator_is_an_account_on_a_machine() -> None:
    """Both parts are there, whatever the machine knows."""
    account, _, machine = who().partition("@")

    assert account
    assert machine
