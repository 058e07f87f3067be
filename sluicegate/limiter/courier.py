"""Bringing batches to Redis: each again and again until it is answered, and what is learned of the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import structlog

from sluicegate.errors import StateUnavailableError
from sluicegate.limiter.booking import Batch, Reply
from sluicegate.limiter.link import BookingLink, ConnectionLostError
from sluicegate.state.patient import pause_s
from sluicegate.telemetry.metrics import Metrics

_log = structlog.get_logger()

LONGEST_BACKOFF_S = 1.0
# A Redis without memory answers what writes nothing: an outage that flickers is told as one.
_CALM_S = 10.0


def _now() -> float:
    return asyncio.get_running_loop().time()


class Courier:
    """Sends one scope's batches, one at a time.

    `random` gives numbers in [0, 1) for the backoff, `now_s` is a clock that never goes back. `is_up` says
    whether the last try was answered, `round_trip_s` is how long the next answer may well take: the last
    one, or the moving average if that is more.
    """

    def __init__(
        self,
        link: BookingLink,
        *,
        scope: str,
        metrics: Metrics,
        random: Callable[[], float],
        now_s: Callable[[], float] = _now,
    ) -> None:
        self.is_up = False
        self.round_trip_s = self._average_s = 0.001
        self._link = link
        self._scope = scope
        self._metrics = metrics
        self._random = random
        self._now_s = now_s
        self._sequences = itertools.count(1)
        self._told: set[str] = set()
        self._answers_since = 0.0

    async def bring(self, batch: Callable[[], Batch]) -> tuple[Reply, bool]:
        """Return the reply, and whether it may be one from memory, long after its bookings were made.

        `batch` is asked anew at every try: what is left of a block grows shorter during an outage.
        """
        sequence = next(self._sequences)
        for failures in itertools.count():
            sent_at = self._now_s()
            try:
                reply = await self._link.send(batch(), sequence)
            except StateUnavailableError as exc:
                if failures == 0 and isinstance(exc, ConnectionLostError):
                    continue
                self._went_away(exc)
                await asyncio.sleep(pause_s(failures + 1, self._random(), longest_s=LONGEST_BACKOFF_S))
            else:
                self._came_back(self._now_s() - sent_at)
                return reply, failures > 0
        raise AssertionError("count() never ends")

    def _went_away(self, error: StateUnavailableError) -> None:
        # Once for each kind of error in an outage: a server that was restarted with another password is
        # first not there and then refuses, and only the second tells an operator what to do.
        if self.is_up and self._now_s() - self._answers_since >= _CALM_S:
            self._told.clear()
        if (text := str(error)) not in self._told:
            self._told.add(text)
            _log.warning("limiter.redis-away", scope=self._scope, error=text)
        self.is_up = False
        self._metrics.redis.went_away()

    def _came_back(self, round_trip_s: float) -> None:
        if not self.is_up:
            _log.info("limiter.redis-answers", scope=self._scope)
            self._answers_since = self._now_s()
        self.is_up = True
        self._metrics.redis.answered()
        self._average_s += (round_trip_s - self._average_s) / 8
        self.round_trip_s = max(self._average_s, round_trip_s)
