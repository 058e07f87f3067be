"""What an event of a stream takes, as its newest results tell by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from consumers.inspection.reading import onlooker, partitions_of
from sluicegate.kafka.admin import Bounds, KafkaAdmin
from sluicegate.processing.results import CALLS, INPUT_TOKENS, OUTPUT_TOKENS
from sluicegate.records import Record
from sluicegate.retry.headers import parse_dead_letter_headers
from sluicegate.settings import Settings
from sluicegate.topics import stream_topics

_NEWEST_OF_PARTITION = 50
_LEAST_FOR_SHARE = 8
_LONGEST_NUMBER = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanCost:
    """What `results` results took, each on average. `share` is the part of the input that makes calls."""

    results: int
    calls: float
    input_tokens: float
    output_tokens: float
    share: float


def mean_cost(records: Iterable[Record]) -> MeanCost | None:
    """Return the mean of what the results say; None when none says anything."""
    told: list[tuple[int, int, int]] = []
    origins: dict[int, set[int]] = defaultdict(set)
    for record in records:
        headers = dict(record.headers)
        numbers = [_number(headers.get(name, b"")) for name in (CALLS, INPUT_TOKENS, OUTPUT_TOKENS)]
        if None in numbers:
            continue
        told.append((numbers[0] or 0, numbers[1] or 0, numbers[2] or 0))
        retry = parse_dead_letter_headers(record.headers, now_ms=0)
        if retry is not None and retry.origin.partition == record.partition:
            origins[record.partition].add(retry.origin.offset)
    if not told:
        return None
    calls, input_tokens, output_tokens = (sum(each) / len(told) for each in zip(*told, strict=True))
    return MeanCost(
        results=len(told),
        calls=calls,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        share=_share(origins.values()),
    )


def _share(origins: Iterable[set[int]]) -> float:
    """Return which part of the input's offsets had results: the rest was recorded without a call.

    Looked at between the quartiles, so that a result which waited in a tier for an hour does not count as
    an hour in which nothing was answered. 1 where too little is known.
    """
    answered = spanned = 0
    for offsets in map(sorted, origins):
        if len(offsets) < _LEAST_FOR_SHARE:
            continue
        first, last = len(offsets) // 4, 3 * len(offsets) // 4
        answered += last - first
        spanned += offsets[last] - offsets[first]
    return answered / spanned if spanned else 1.0


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) <= _LONGEST_NUMBER else None


class CostReader:
    """Reads the newest results of a stream. Use it as a context."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = KafkaAdmin.of(settings.kafka)
        self._reader = onlooker(settings)

    def __enter__(self) -> CostReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def look(self, stream: str) -> MeanCost | None:
        """Return what the stream's events take of late; None without results. Raises BrokerError."""
        topic = stream_topics(self._settings, stream).results
        bounds = self._admin.bounds(partitions_of((topic,), self._admin.partition_counts()))
        newest = {
            place: Bounds(low=max(bound.low, bound.high - _NEWEST_OF_PARTITION), high=bound.high)
            for place, bound in bounds.items()
        }
        return mean_cost(self._reader.read(newest))
