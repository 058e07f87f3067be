"""How long a provider asks to wait, from headers that nobody may trust.

`retry-after-ms` (OpenAI, Azure) is the most exact and goes first, then `retry-after` as seconds or as an HTTP
date (RFC 9110, 10.2.3). A date is measured against the answer's own `Date`, so that our clock and the
provider's need not agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 7 * 86400.0

# Plain decimals only: float() would also take "1_000", "nan", "1e300" and digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]*)?")
_MS_PER_S = 1000.0


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Return the wait in seconds, at most 7 days; None when there is none that makes sense.

    `headers` has case-insensitive or lower-case names; `now_s` is Unix time, used when there is no `Date`.
    """
    wait_ms = _number(headers.get("retry-after-ms"))
    if wait_ms is not None:
        return min(wait_ms / _MS_PER_S, MAX_RETRY_AFTER_S)
    text = headers.get("retry-after")
    wait_s = _number(text)
    if wait_s is None:
        wait_s = _until(text, headers.get("date"), now_s)
    return None if wait_s is None else min(wait_s, MAX_RETRY_AFTER_S)


def _number(text: str | None) -> float | None:
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    return float(text)


def _until(text: str | None, answered_at: str | None, now_s: float) -> float | None:
    due = http_moment_s(text)
    if due is None:
        return None
    answered = http_moment_s(answered_at)
    wait_s = due - (now_s if answered is None else answered)
    return wait_s if wait_s >= 0 else None


def http_moment_s(text: str | None) -> float | None:
    """Return the Unix time that a header's HTTP date names; None when there is none that makes sense."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
        # HTTP dates are in GMT; one that names no zone is read as if it did.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def http_date(moment_s: float) -> str:
    """Return the RFC 9110 form of a Unix time, for those who write the header."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
