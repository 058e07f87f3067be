"""RFC 3339 timestamps, as CloudEvents write them, to and from milliseconds since the Unix epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LEAP_SECOND = 60


def parse_rfc3339(text: str) -> int | None:
    """Return milliseconds, rounded down; None when it is no RFC 3339 date-time.

    A leap second counts as the one after it, as Unix time has it.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    offset = timedelta(hours=int(offset_hours or 0), minutes=int(offset_minutes or 0))
    if int(offset_hours or 0) > 23 or int(offset_minutes or 0) > 59 or second > _LEAP_SECOND:
        return None
    try:
        moment = datetime(year, month, day, hour, minute, min(second, _LEAP_SECOND - 1), tzinfo=UTC)
    except ValueError:
        return None
    since_epoch = moment - _EPOCH + (offset if sign == "-" else -offset)
    leap_ms = 1000 if second == _LEAP_SECOND else 0
    return since_epoch // _MILLISECOND + leap_ms + int((fraction or "0").ljust(3, "0")[:3])


def format_rfc3339(timestamp_ms: int) -> str:
    """Write milliseconds as UTC with three decimals; the range is that of the years 1 to 9999."""
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
