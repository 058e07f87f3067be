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
# A limit is followed when so many answers in a row told it.
_TOLD = 3
_LEAST_LIMIT, _LARGEST_LIMIT = 1.0, 1e10
# Less debt than this is the jitter of the network and of wake-ups.
_NOISE_S = 0.1
# How far `reset` may be from what a bucket with that much used would need.
_TOLERANCE_S = 5.0


class Learner:
    """Reads the headers of one scope's calls in one process.

    `reset` is understood as the time until a continuously filled bucket is full, as OpenAI and Anthropic
    describe it, so rate times reset is the debt that the provider sees. Servers that count windows use the
    same names: there `reset` is the end of the window, whatever was used, and no debt. They give themselves
    away by a `reset` that does not fit what is used, and are not asked for debts again.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._counts_windows: set[int] = set()
        self._told: dict[int, tuple[float, int]] = {}

    def observe(
        self,
        report: QuotaReport,
        *,
        own_us: PerMinute,
        raised_before_us: tuple[int, int, int, int],
        limits: PerMinute,
    ) -> Observation | None:
        """Return what is worth telling the others, or None.

        `own_us` is what the call itself took of each dimension's refill, `raised_before_us` what had been
        raised when it was booked, `limits` are those in force.
        """
        if self._quota.learn is Learn.OFF:
            return None
        dimension = _INDEX[report.kind]
        self._notice_windows(dimension, report)
        limit = self._limit(dimension, report, limits[dimension])
        extra_us = 0
        if report.reset_s is not None and dimension not in self._counts_windows and limits[dimension] > 0:
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

    def _notice_windows(self, dimension: int, report: QuotaReport) -> None:
        if report.limit is None or report.remaining is None or report.reset_s is None:
            return
        refill_s = (report.limit - report.remaining) * _MINUTE_S / report.limit
        unit_s = _MINUTE_S / report.limit
        if abs(report.reset_s - refill_s) > _TOLERANCE_S + report.resolution_s + unit_s:
            self._counts_windows.add(dimension)

    def _limit(self, dimension: int, report: QuotaReport, in_force: float) -> float:
        """Return a limit to follow, or 0. One whose reset is longer than a minute is not a minute's."""
        told = report.limit
        is_longer = report.reset_s is not None and report.reset_s > _MINUTE_S + 1 + report.resolution_s
        if told is None or is_longer or not _LEAST_LIMIT <= told <= _LARGEST_LIMIT:
            return 0.0
        configured = self._quota.per_minute[dimension]
        if self._quota.learn is Learn.LOWER and 0 < configured < told:
            told = configured
        last, times = self._told.get(dimension, (0.0, 0))
        times = times + 1 if told == last else 1
        self._told[dimension] = (told, times)
        return told if told != in_force and times >= _TOLD else 0.0


def own_times_us(units: tuple[int, int, int, int], limits: PerMinute) -> PerMinute:
    """Return what a call takes of each dimension, in time of refill; 0 without a limit."""
    first, second, third, fourth = (
        taken * WINDOW_US / limit if limit > 0 else 0.0 for taken, limit in zip(units, limits, strict=True)
    )
    return (first, second, third, fourth)
