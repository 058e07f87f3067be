"""What the newest results tell of an event's cost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from consumers.inspection.costs import MeanCost, mean_cost
from sluicegate.records import Headers, Origin, Record
from sluicegate.retry.headers import origin_headers


def result(origin_offset: int, *, partition: int = 0, calls: bytes = b"2", own: int | None = None) -> Record:
    """Make a result of an event; `own` is the partition that it lies in, its origin's by default."""
    headers: Headers = (
        ("llm-calls", calls),
        ("llm-input-tokens", b"100"),
        ("llm-output-tokens", b"30"),
        *origin_headers(Origin(topic="in", partition=partition, offset=origin_offset), 1),
    )
    place = partition if own is None else own
    return Record(
        topic="r", partition=place, offset=0, timestamp_ms=1, key=b"k", value=b"{}", headers=headers
    )


def share(offsets: Iterable[int]) -> float:
    """Return the share that results of these origins tell of."""
    found = mean_cost([result(offset) for offset in offsets])
    assert found is not None
    return found.share


def test_the_mean_is_over_the_results_that_tell_anything() -> None:
    """Results of an earlier release, or of somebody else, say nothing."""
    silent = Record(topic="r", partition=0, offset=0, timestamp_ms=1, key=None, value=b"{}")

    found = mean_cost([result(1), result(2, calls=b"4"), result(3, calls=b"many"), silent])

    assert found == MeanCost(results=2, calls=3.0, input_tokens=100.0, output_tokens=30.0, share=1.0)
    assert mean_cost([silent]) is None


def test_events_without_a_call_show_as_gaps_between_origins() -> None:
    """Every other message of a chat is recorded: half of the input makes calls."""
    assert share(range(0, 40, 2)) == pytest.approx(0.5)
    assert share(range(20)) == 1.0


def test_a_result_that_waited_for_long_is_no_gap() -> None:
    """One parked event's origin lies far back; the others still tell that all of them are answered."""
    assert share([3, *range(5_000, 5_020)]) == 1.0


def test_too_few_results_or_results_elsewhere_tell_of_no_share() -> None:
    """Where results are partitioned otherwise than the input their gaps mean nothing."""
    assert share(range(0, 10, 2)) == 1.0
    elsewhere = mean_cost([result(offset, own=5) for offset in range(0, 40, 2)])
    assert elsewhere is not None
    assert elsewhere.share == 1.0
