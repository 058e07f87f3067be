"""RFC 3339 timestamps, as CloudEvents write them, to and from milliseconds since the Unix epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:(\d\d)(?:\.\d{1,18})?(?:[Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LEAP_SECOND = "60"


def parse_rfc3339(text: str) -> int | None:
    """Return milliseconds, rounded down; None when it is no RFC 3339 date-time.

    A leap second counts as the one after it, as Unix time has it.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    start, end = match.span(1)
    is_leap = match[1] == _LEAP_SECOND
    if is_leap:
        text = f"{text[:start]}59{text[end:]}"
    try:
        # It reads more than RFC 3339 allows, all of which the pattern has refused.
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (moment - _EPOCH) // _MILLISECOND + 1000 * is_leap


def format_rfc3339(timestamp_ms: int) -> str:
    """Write milliseconds as UTC with three decimals; the range is that of the years 1 to 9999."""
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Events of one second share it."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
