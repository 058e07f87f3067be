"""What an answer's headers say of the account's limits, from headers that nobody may trust. Pure.

OpenAI and those who copy it: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, the reset as a span of
time in Go's way of writing (`20ms`, `1.5s`, `6m0s`) or as plain seconds. Anthropic:
`anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, the reset as a
moment of RFC 3339, which is measured against the answer's own `Date`: our clock and the provider's need not
agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, assert_never

from sluicegate.llm.outcomes import QuotaKind, QuotaReport
from sluicegate.llm.retry_after import http_moment_s

LARGEST_QUOTA = 1e12
LONGEST_RESET_S = 7 * 86400.0
_COUNT_DIGITS = 13

# Bounded decimals only, as in retry_after.py: float() and fromisoformat() take much that is none.
_SECONDS = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,9}))?")
_SPAN = re.compile(r"(?:([0-9]{1,3})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,9})(?:\.([0-9]{1,9}))?(m?s))?")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.([0-9]{1,9}))?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_S_PER_HOUR, _S_PER_MINUTE, _S_PER_MS = 3600.0, 60.0, 0.001


class QuotaFamily(StrEnum):
    """Whose names the headers have."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class _Reset(NamedTuple):
    """The time until nothing is used, and the unit in which it was written."""

    after_s: float
    resolution_s: float


_KINDS = tuple(QuotaKind)
_FIELDS = ("limit", "remaining", "reset")
# Where the text of a header is kept while they are read: three fields of each kind in a row.
_PLACES: Mapping[QuotaFamily, Mapping[str, int]] = {
    QuotaFamily.OPENAI: {
        f"x-ratelimit-{field}-{kind}": _KINDS.index(kind) * len(_FIELDS) + offset
        for kind in (QuotaKind.REQUESTS, QuotaKind.TOKENS)
        for offset, field in enumerate(_FIELDS)
    },
    QuotaFamily.ANTHROPIC: {
        f"anthropic-ratelimit-{kind}-{field}": _KINDS.index(kind) * len(_FIELDS) + offset
        for kind in _KINDS
        for offset, field in enumerate(_FIELDS)
    },
}


def read_quotas(family: QuotaFamily, headers: Mapping[str, str], now_s: float) -> tuple[QuotaReport, ...]:
    """Return a report of each limit that the headers name; () when they name none.

    A field that makes no sense is None: not a whole number, a limit of 0, above 1e12, more left than the
    limit, a reset that is past or beyond 7 days. Without limit and reset there is no report. `headers` gives
    its names in lower case; `now_s` is Unix time, used for moments when there is no `Date`.
    """
    places = _PLACES[family]
    texts: list[str] | None = None
    # One pass: httpx walks through all headers at each look-up.
    for name, text in headers.items():
        place = places.get(name)
        if place is not None:
            if texts is None:
                texts = [""] * (len(_KINDS) * len(_FIELDS))
            texts[place] = text.strip(" \t")
    if texts is None:
        return ()
    limits, remainings, reset_texts = (texts[offset :: len(_FIELDS)] for offset in range(len(_FIELDS)))
    match family:
        case QuotaFamily.OPENAI:
            resets = [_span(text) if text else None for text in reset_texts]
        case QuotaFamily.ANTHROPIC:
            answered_at_s = http_moment_s(headers.get("date"))
            since_s = now_s if answered_at_s is None else answered_at_s
            resets = [_until(text, since_s) if text else None for text in reset_texts]
        case _:
            assert_never(family)
    reports = map(_report, _KINDS, limits, remainings, resets)
    return tuple([report for report in reports if report is not None])


def _report(
    kind: QuotaKind, limit_text: str, remaining_text: str, reset: _Reset | None
) -> QuotaReport | None:
    limit = _count(limit_text) or None  # a limit of 0 is none
    if limit is None and reset is None:
        return None
    remaining = _count(remaining_text)
    if limit is not None and remaining is not None and remaining > limit:
        remaining = None
    return QuotaReport(
        kind=kind,
        limit=limit,
        remaining=remaining,
        reset_s=None if reset is None else reset.after_s,
        resolution_s=0.0 if reset is None else reset.resolution_s,
    )


def _count(text: str) -> float | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS):
        return None
    count = float(text)
    return count if count <= LARGEST_QUOTA else None


def _span(text: str) -> _Reset | None:
    """`1h2m3.5s`, `120ms`, or seconds alone; the last part's last digit is the resolution. Not for ""."""
    parts = _SPAN.fullmatch(text)
    if parts is None:
        plain = _SECONDS.fullmatch(text)
        return None if plain is None else _reset(float(text), _unit_s(1.0, plain[2]))
    hours, minutes, number, fraction, unit = parts.groups()
    after_s = 0.0
    if hours is not None:
        after_s += int(hours) * _S_PER_HOUR
    if minutes is not None:
        after_s += int(minutes) * _S_PER_MINUTE
    if number is None:
        return _reset(after_s, _S_PER_HOUR if minutes is None else _S_PER_MINUTE)
    unit_s = _S_PER_MS if unit == "ms" else 1.0
    after_s += unit_s * (int(number) if fraction is None else float(f"{number}.{fraction}"))
    return _reset(after_s, _unit_s(unit_s, fraction))


def _until(text: str, since_s: float) -> _Reset | None:
    moment = _MOMENT.fullmatch(text)
    if moment is None:
        return None
    try:
        after_s = datetime.fromisoformat(text).timestamp() - since_s
    except (ValueError, OverflowError):  # a thirteenth month, the year 0
        return None
    return _reset(after_s, _unit_s(1.0, moment[1]))


def _unit_s(unit_s: float, fraction: str | None) -> float:
    return unit_s if fraction is None else unit_s / 10 ** len(fraction)


def _reset(after_s: float, resolution_s: float) -> _Reset | None:
    return _Reset(after_s, resolution_s) if 0 <= after_s <= LONGEST_RESET_S else None
