"""Which events an operator means, as the options say it and as it is applied to a record. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

_SPAN = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_SECONDS_IN = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RANGE = re.compile(r"([0-9]{1,7})(?:(\+)|-([0-9]{1,7}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The options that choose events, as they were given. Empty means no restriction.

    They name a replay together with its source and stream, so `2h` stays `2h` here: the same command of a
    later hour is the same replay. Lists are sorted and hold nothing twice. `limit` bounds how many are
    sent, oldest first.
    """

    since: str | None = None
    until: str | None = None
    reasons: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    attempts: str | None = None
    limit: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the filters that are set, for the audit and for `--json`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value not in (None, ())
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Filters:
        """Read what `as_json` wrote. Raises TypeError or ValueError for anything else."""
        if unknown := given.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown filters: {sorted(unknown)}")
        return cls(
            since=given.get("since"),
            until=given.get("until"),
            reasons=tuple(map(str, given.get("reasons", ()))),
            statuses=tuple(map(int, given.get("statuses", ()))),
            keys=tuple(map(str, given.get("keys", ()))),
            tenants=tuple(map(str, given.get("tenants", ()))),
            attempts=given.get("attempts"),
            limit=given.get("limit"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the filters look at. `reasons` are the dead letter's own and that of its last call."""

    at_ms: int
    reasons: tuple[str, ...]
    http_status: int | None
    key: str
    tenant: str | None
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """The filters with their times fixed: `since_ms` <= when it died or was parked < `until_ms`."""

    filters: Filters
    since_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def at(cls, filters: Filters, now_ms: int) -> Matcher:
        """Fix the filters' times. Raises ValueError for a time that is none."""
        return cls(
            filters=filters,
            since_ms=None if filters.since is None else moment_ms(filters.since, now_ms),
            until_ms=None if filters.until is None else moment_ms(filters.until, now_ms),
        )

    def matches(self, facts: Facts) -> bool:
        """Whether the operator means this event."""
        own = self.filters
        least, most = attempts_range(own.attempts)
        return (
            (self.since_ms is None or facts.at_ms >= self.since_ms)
            and (self.until_ms is None or facts.at_ms < self.until_ms)
            and (not own.reasons or not set(own.reasons).isdisjoint(facts.reasons))
            and (not own.statuses or facts.http_status in own.statuses)
            and (not own.keys or facts.key in own.keys)
            and (not own.tenants or facts.tenant in own.tenants)
            and facts.attempt >= least
            and (most is None or facts.attempt <= most)
        )


def moment_ms(text: str, now_ms: int) -> int:
    """Read `2h` (so long ago; s, m, h or d) or an ISO 8601 time, UTC where it names no zone.

    Raises ValueError, which says what is expected.
    """
    if span := _SPAN.fullmatch(text):
        return now_ms - int(span[1]) * _SECONDS_IN[span[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time like 2026-11-24T09:00 or a span like 90s, 15m, 2h, 3d") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def attempts_range(text: str | None) -> tuple[int, int | None]:
    """Read `3` (exactly), `3+` (at least) or `2-5` as the least and the most attempts; None: any.

    Raises ValueError, which says what is expected.
    """
    if text is None:
        return 0, None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError("must be a number of attempts like 3, 3+ or 2-5")
    least = int(found[1])
    if found[2]:
        return least, None
    most = int(found[3]) if found[3] else least
    if most < least:
        raise ValueError("must not end below its beginning")
    return least, most
