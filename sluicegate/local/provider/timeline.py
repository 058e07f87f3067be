"""The history of a quota: its limits as they changed, and the outages in which nothing was admitted."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.local.provider.ideal import Period, held_limits
from sluicegate.local.provider.quota import Limits


@dataclass(slots=True, kw_only=True)
class Cut:
    """An outage of the quota. Refusals ask to wait `retry_after_s`, at most until the end unless `fixed`."""

    start_at: float
    end_at: float
    retry_after_s: float
    fixed: bool

    def wait_s(self, now_s: float) -> float:
        """Return what a call refused now is told to wait."""
        return self.retry_after_s if self.fixed else min(self.retry_after_s, self.end_at - now_s)


class Timeline:
    """Remembers every change, and what holds now."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = [(now_s, limits)]
        self._cuts: list[Cut] = []

    def change(self, limits: Limits, now_s: float) -> None:
        """From now on other limits hold."""
        self._limits.append((now_s, limits))

    def begin_cut(self, cut: Cut) -> None:
        """Begin an outage; one that still runs ends where this one begins."""
        self.end_cut(cut.start_at)
        self._cuts.append(cut)

    def end_cut(self, now_s: float) -> None:
        """End the outage that runs, if one does."""
        if running := self.cut_at(now_s):
            running.end_at = now_s

    def cut_at(self, now_s: float) -> Cut | None:
        """Return the outage that runs at a moment."""
        if self._cuts and self._cuts[-1].start_at <= now_s < self._cuts[-1].end_at:
            return self._cuts[-1]
        return None

    def open_from(self, at_s: float) -> float:
        """Return the first moment from this one on that no outage known now covers."""
        cut = self.cut_at(at_s)
        return at_s if cut is None else cut.end_at

    def periods(self, now_s: float) -> tuple[Period, ...]:
        """Return the history so far as periods that touch; the last one runs."""
        marks = {at for at, _ in self._limits}
        marks.update(cut.start_at for cut in self._cuts)
        marks.update(cut.end_at for cut in self._cuts if cut.end_at <= now_s)
        starts = sorted(marks)
        ends: list[float | None] = [*starts[1:], None]
        return tuple(self._period(start, end) for start, end in zip(starts, ends, strict=True))

    def _period(self, start_at: float, end_at: float | None) -> Period:
        limits = next(limits for at, limits in reversed(self._limits) if at <= start_at)
        cut = next((cut for cut in self._cuts if cut.start_at <= start_at < cut.end_at), None)
        return Period(
            start_at=start_at,
            end_at=end_at,
            enforcement=limits.enforcement,
            window_s=limits.window_s,
            limited=held_limits(limits),
            cut=cut is not None,
            retry_after_s=None if cut is None else cut.retry_after_s,
        )
