"""From rate-limit headers to what may be believed of them. Pure; nothing here was sent by a friend."""

from __future__ import annotations

from sluicegate.limiter.api import Learn
from sluicegate.limiter.booking import WINDOW_US, Observation, PerMinute, Quota
from sluicegate.llm.outcomes import QuotaKind, QuotaReport

_INDEX = {
    QuotaKind.REQUESTS: 0,
    QuotaKind.TOKENS: 1,
    QuotaKind.INPUT_TOKENS: 2,
    QuotaKind.OUTPUT_TOKENS: 3,
}
_MINUTE_S = 60.0
_DAY_S = 86_400.0
_LONGEST_RESET_S = 7 * _DAY_S
# A limit is followed when so many answers in a row told it.
_TOLD = 3
_LEAST_LIMIT, _LARGEST_LIMIT = 1.0, 1e10
# Less debt than this is the jitter of the network and of wake-ups.
_NOISE_S = 0.1
# How far `reset` may be from what a bucket with that much used would need. Not the second of a server that
# counts calendar seconds: its `reset` is up to a second, however little of it is used.
_TOLERANCE_S = 0.5
# The `reset` of a window falls while what is used of it rises: it fits a bucket for a moment, never so long.
_PROOF_S = 5.0
# After one that did not fit so long, and so many answers: in ten minutes a window ends ten times. A log
# that is full fits for as long as it is, with a `reset` of a whole minute: that proves nothing.
_NEW_PROOF_S, _NEW_PROOF_ANSWERS, _TELLING_S = 600.0, 100, 30.0


class Learner:
    """Reads the headers of one scope's calls in one process.

    `reset` is understood as the time until a continuously filled bucket is full, as OpenAI and Anthropic
    describe it, so rate times reset is the debt that the provider sees. Servers that count windows use the
    same names: there `reset` is the end of the window, whatever was used, and no debt. They give themselves
    away by a `reset` that does not fit what is used; a bucket is believed when its `reset` has fitted for
    five seconds, and once one did not when a hundred answers in ten minutes have. Reports that make no
    sense, and those of a limit of a day, change nothing.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._misfitted: set[int] = set()
        self._fits: dict[int, tuple[float, int]] = {}  # since when, how many that tell
        self._told: dict[int, tuple[float, int]] = {}

    def observe(
        self,
        report: QuotaReport,
        *,
        now_s: float,
        own_us: PerMinute,
        raised_before_us: tuple[int, int, int, int],
        limits: PerMinute,
    ) -> Observation | None:
        """Return what is worth telling the others, or None.

        `now_s` is a clock that never steps back. `own_us` is what the call itself took of each dimension's
        refill, `raised_before_us` what had been raised when it was booked, `limits` are those in force.
        """
        if self._quota.learn is Learn.OFF or not _makes_sense(report) or _is_longer(report):
            return None
        dimension = _INDEX[report.kind]
        self._compare(dimension, report, now_s)
        limit = self._limit(dimension, report, limits[dimension])
        extra_us = 0
        if report.reset_s is not None and self._is_bucket(dimension, now_s) and limits[dimension] > 0:
            debt_us = (report.reset_s - report.resolution_s - _NOISE_S) * 1e6 - own_us[dimension]
            extra_us = max(0, int(debt_us))
        if not extra_us and not limit:
            return None
        return Observation(
            dimension=dimension,
            extra_us=extra_us,
            raised_before_us=int(raised_before_us[dimension]),
            limit=limit,
        )

    def _compare(self, dimension: int, report: QuotaReport, now_s: float) -> None:
        """Compare `reset` with what is used, as far as the report says both."""
        if report.limit is None or report.remaining is None or report.reset_s is None:
            return
        refill_s = (report.limit - report.remaining) * _MINUTE_S / report.limit
        unit_s = _MINUTE_S / report.limit
        if abs(report.reset_s - refill_s) > _TOLERANCE_S + report.resolution_s + unit_s:
            self._misfitted.add(dimension)
            self._fits.pop(dimension, None)
        else:
            since_s, count = self._fits.get(dimension, (now_s, 0))
            self._fits[dimension] = (since_s, count + (report.reset_s <= _TELLING_S))

    def _is_bucket(self, dimension: int, now_s: float) -> bool:
        since_s, count = self._fits.get(dimension, (now_s, 0))
        if dimension in self._misfitted:
            return now_s - since_s >= _NEW_PROOF_S and count >= _NEW_PROOF_ANSWERS
        return now_s - since_s >= _PROOF_S

    def _limit(self, dimension: int, report: QuotaReport, in_force: float) -> float:
        """Return a limit to follow, or 0."""
        told = report.limit
        if told is None:
            return 0.0
        configured = self._quota.per_minute[dimension]
        if self._quota.learn is Learn.LOWER and 0 < configured < told:
            told = configured
        last, times = self._told.get(dimension, (0.0, 0))
        times = times + 1 if told == last else 1
        self._told[dimension] = (told, times)
        return told if told != in_force and times >= _TOLD else 0.0


def _makes_sense(report: QuotaReport) -> bool:
    limit, remaining, reset_s = report.limit, report.remaining, report.reset_s
    return (
        (limit is None or _LEAST_LIMIT <= limit <= _LARGEST_LIMIT)
        and (remaining is None or 0 <= remaining <= (_LARGEST_LIMIT if limit is None else limit))
        and (reset_s is None or 0 <= reset_s <= _LONGEST_RESET_S)
    )


def _is_longer(report: QuotaReport) -> bool:
    """Whether the limit is one of a longer time than a minute: of a day, however little of it is used."""
    if report.reset_s is None:
        return False
    if report.reset_s > _MINUTE_S + 1 + report.resolution_s:
        return True
    if report.limit is None or report.remaining is None:
        return False
    used = (report.limit - report.remaining) / report.limit
    tolerance_s = _TOLERANCE_S + report.resolution_s
    return used > 0 and abs(report.reset_s - used * _DAY_S) <= tolerance_s < report.reset_s


def own_times_us(units: tuple[int, int, int, int], limits: PerMinute) -> PerMinute:
    """Return what a call takes of each dimension, in time of refill; 0 without a limit."""
    first, second, third, fourth = (
        taken * WINDOW_US / limit if limit > 0 else 0.0 for taken, limit in zip(units, limits, strict=True)
    )
    return (first, second, third, fourth)
