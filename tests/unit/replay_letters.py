"""Dead letters and filters for the tests of replays."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from consumers.replay.candidates import (
    Candidate,
    CandidateReader,
)
from consumers.replay.filters import Facts, Filters
from sluicegate.events.models import SupportChat
from sluicegate.processing.decoding import EventDecoder
from sluicegate.records import Headers, Origin, Record
from sluicegate.retry.headers import ReplaySource, RetryHeaders, with_retry_headers
from sluicegate.state.api import Copy

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
DLQ, INPUT, DUE = "g.support-chat.dlq", "support-chat", "g.support-chat.due"
OWN_ID = "r-own"


def candidates(source: ReplaySource = ReplaySource.DLQ) -> CandidateReader:
    """Return a reader of a stream with four partitions."""
    return CandidateReader(
        source=source,
        decoder=EventDecoder(stream=INPUT, model=SupportChat, ordered=True, max_event_bytes=10_000),
        input_topic=INPUT,
        partitions=4,
        horizon_s=604_800,
        max_replays=3,
    )


def value(event: int) -> bytes:
    """Return an event's value."""
    told = {
        "conversation_id": f"c-{event}",
        "turn": 0,
        "speaker": "customer",
        "text": "?",
        "tenant": f"t-{event % 2}",
    }
    return json.dumps(told).encode()


def letter(
    event: int,
    *,
    place: tuple[int, int] = (0, 0),
    at_ms: int = NOW_MS - 1000,
    reason: str = "attempts-exhausted",
    extra: Headers = (),
    **changes: Any,
) -> Record:
    """Return a dead letter of the stream's event with that number, which died as the input record."""
    told = RetryHeaders(
        origin=Origin(topic=INPUT, partition=event % 4, offset=event),
        origin_timestamp_ms=1,
        copy=Copy(),
        due_at_ms=at_ms,
        attempt=3,
        reason="server-error",
        http_status=500,
    )
    headers = (("dlq-reason", reason.encode()), *extra)
    return Record(
        topic=DLQ,
        partition=place[0],
        offset=place[1],
        timestamp_ms=at_ms,
        key=f"c-{event}".encode(),
        value=value(event),
        headers=with_retry_headers(headers, replace(told, **changes)),
    )


def candidate(record: Record, source: ReplaySource = ReplaySource.DLQ) -> Candidate:
    """Read a record that has an event."""
    found = candidates(source).read(record, NOW_MS)
    assert isinstance(found, Candidate), found
    return found


reasons = st.sampled_from(["attempts-exhausted", "server-error", "cancelled"])
facts = st.builds(
    Facts,
    at_ms=st.integers(NOW_MS - 4 * HOUR_MS, NOW_MS),
    reasons=st.lists(reasons, min_size=1, max_size=2).map(tuple),
    http_status=st.none() | st.sampled_from([429, 500]),
    key=st.sampled_from(["a", "b"]),
    tenant=st.none() | st.sampled_from(["t", "u"]),
    attempt=st.integers(0, 6),
)
filters = st.builds(
    Filters,
    since=st.none() | st.sampled_from(["1h", "3h"]),
    until=st.none() | st.sampled_from(["1h", "2h"]),
    reasons=st.just(()) | reasons.map(lambda reason: (reason,)),
    statuses=st.sampled_from([(), (500,), (429, 500)]),
    keys=st.sampled_from([(), ("a",), ("a", "b")]),
    tenants=st.sampled_from([(), ("t",)]),
    attempts=st.none() | st.sampled_from(["3", "2+", "1-4"]),
    limit=st.none() | st.integers(1, 9),
)
