"""When some event could have used the quota: times at which it was neither parked nor done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sluicegate.local.ledger.history import History
from sluicegate.records import Origin

Span = tuple[float, float]


def active_spans(history: History, *, until_s: float) -> tuple[Span, ...]:
    """Return the times, in seconds since the epoch, at which some event was neither parked nor done.

    An event that has not ended is at it until `until_s`. One that ends silently makes no call, so its
    waiting wastes no quota, and Kafka does not know when it ended: it is left out.
    """
    ended_s: dict[Origin, float] = {}
    for end in history.ends:
        at_s = end.timestamp_ms / 1000
        ended_s[end.origin] = min(at_s, ended_s.get(end.origin, at_s))
    parked = _parked_spans(history, until_s)
    spans: list[Span] = []
    for event in history.published:
        if event.ends_silently and event.origin not in ended_s:
            continue
        span = (event.timestamp_ms / 1000, ended_s.get(event.origin, until_s))
        spans.extend(_without(span, parked[event.origin]))
    return union(spans)


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join spans that touch; the result is ascending and disjoint."""
    joined: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def _parked_spans(history: History, until_s: float) -> defaultdict[Origin, list[Span]]:
    released_s: dict[tuple[Origin, str], float] = {}
    for copy in history.released:
        at_s, name = copy.timestamp_ms / 1000, (copy.origin, copy.copy)
        released_s[name] = min(at_s, released_s.get(name, at_s))
    spans: defaultdict[Origin, list[Span]] = defaultdict(list)
    for copy in history.parked:
        end_s = released_s.get((copy.origin, copy.copy), until_s)
        spans[copy.origin].append((copy.timestamp_ms / 1000, end_s))
    return spans


def _without(span: Span, holes: Iterable[Span]) -> Iterable[Span]:
    start, end = span
    for hole_start, hole_end in union(holes):
        if start < min(hole_start, end):
            yield start, min(hole_start, end)
        start = max(start, hole_end)
    if start < end:
        yield start, end
