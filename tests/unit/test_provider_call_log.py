"""The record of every call."""

from __future__ import annotations

from sluicegate.local.provider.call_log import CallLog


def _begin(log: CallLog, request_id: str = "e/reply/1", at: float = 10.0) -> int:
    return log.begin(received_at=at, request_id=request_id, format="openai", model="small", prompt_tokens=7)


def test_a_call_is_remembered_with_all_that_a_ledger_needs() -> None:
    """Who asked, when, what it was charged, how it ended."""
    log = CallLog()
    number = _begin(log, "abc/chunk-3/repair/2")
    log.admit(number, 64, 10.0)
    log.struck(number, "slow")
    log.finish(number, status=200, completion_tokens=9, completed_at=11.5)
    assert list(log.rows()) == [
        {
            "sequence": 0,
            "received_at": 10.0,
            "completed_at": 11.5,
            "request_id": "abc/chunk-3/repair/2",
            "identity": "abc",
            "step": "chunk-3/repair",
            "attempt": 2,
            "format": "openai",
            "model": "small",
            "admitted": True,
            "status": 200,
            "fault": "slow",
            "tokens_charged": 64,
            "prompt_tokens": 7,
            "completion_tokens": 9,
        }
    ]


def test_a_running_or_broken_call_has_neither_status_nor_end() -> None:
    """Null is what was not seen, not zero."""
    log = CallLog()
    running, broken = _begin(log), _begin(log)
    log.finish(broken, status=None, completion_tokens=0, completed_at=None)
    rows = list(log.rows())
    assert [(row["status"], row["completed_at"]) for row in rows] == [(None, None), (None, None)]
    assert (log.in_flight, log.answered, running) == (1, 0, 0)


def test_a_request_id_of_another_shape_has_no_parts() -> None:
    """Anybody may call, with any id or none."""
    log = CallLog()
    for request_id in ("", "abc", "abc/reply", "abc/reply/x", "/reply/1", "é" * 600):
        _begin(log, request_id)
    assert {(row["identity"], row["step"], row["attempt"]) for row in log.rows()} == {(None, None, None)}
    assert len(list(log.rows())[-1]["request_id"]) == 256


def test_only_the_newest_calls_are_kept_and_the_rest_is_counted() -> None:
    """Memory is bounded; numbers go on, and late ends of dropped calls do no harm."""
    log = CallLog(chunk_calls=4, kept_chunks=3)
    for index in range(21):
        _begin(log, f"e{index}/reply/1")
    log.finish(0, status=200, completion_tokens=1, completed_at=1.0)
    log.finish(20, status=200, completion_tokens=1, completed_at=2.0)
    rows = list(log.rows())
    assert [row["sequence"] for row in rows] == list(range(12, 21))
    assert [row["identity"] for row in rows] == [f"e{index}" for index in range(12, 21)]
    assert (log.calls, log.dropped, rows[-1]["status"]) == (21, 12, 200)


def test_calls_above_a_number_are_given_on_their_own() -> None:
    """A live reader pages on instead of reading all of it again."""
    log = CallLog(chunk_calls=4)
    for _ in range(10):
        _begin(log)
    assert [row["sequence"] for row in log.rows(after=6)] == [7, 8, 9]
    assert list(log.rows(after=9)) == []


def test_the_last_ten_seconds_are_counted_apart() -> None:
    """What a live view shows is now, not the whole run."""
    log = CallLog()
    for second in range(30):
        log.admit(_begin(log), 5, 100.0 + second)
        log.refuse(100.0 + second)
    assert log.last_seconds(129.5) == {"admitted": 10, "refused": 10, "tokens": 50}
    assert (log.admitted, log.refused, log.tokens_charged) == (30, 30, 150)
