"""Redis's clock in every process: due times are measured by it, whatever the machines' clocks say."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
import redis.asyncio

from sluicegate.errors import StateUnavailableError
from sluicegate.state.translation import redis_errors_translated

REFRESH_EVERY_S = 30.0
_RETRY_AFTER_S = 1.0
_SAMPLES = 3
_MOST_DRIFT = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSample:
    """One question for the server's TIME. `asked_s` and `heard_s` are monotonic seconds of this process."""

    asked_s: float
    heard_s: float
    server_us: int

    @property
    def round_trip_s(self) -> float:
        """How uncertain the sample is."""
        return self.heard_s - self.asked_s

    def now_us(self, monotonic_s: float) -> int:
        """Return the server's time, never ahead of it.

        TIME was taken between asking and hearing, halfway at best guess. The guess can be wrong by half
        a round trip either way; half a round trip is therefore taken off it again, which leaves the time
        as it was told, at the moment of hearing. What two clocks may drift apart since is taken off too.
        """
        passed_s = monotonic_s - self.heard_s
        return self.server_us + int(passed_s * (1 - _MOST_DRIFT) * 1_000_000)


class _Reckoning:
    """What both clocks share: the best sample, and the time by it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sample: TimeSample | None = None

    def now_ms(self) -> int:
        """Return the server's time in ms, rounded down.

        Raises StateUnavailableError before the first refresh.
        """
        if self._sample is None:
            raise StateUnavailableError("the clock has not been set: wait for Redis to answer")
        return self._sample.now_us(self._monotonic()) // 1000

    def _learn(self, asked_s: float, reply: tuple[int, int], best: TimeSample | None) -> TimeSample:
        seconds, micros = reply
        sample = TimeSample(
            asked_s=asked_s, heard_s=self._monotonic(), server_us=int(seconds) * 1_000_000 + int(micros)
        )
        return best if best is not None and best.round_trip_s <= sample.round_trip_s else sample


class RedisClock(_Reckoning):
    """The clock of an asyncio process. It is behind the server by at most the best round trip of three."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        timeout_s: float = 2.0,
    ) -> None:
        super().__init__(monotonic)
        self._client = client
        self._timeout_s = timeout_s

    async def refresh(self) -> None:
        """Ask the server. Raises StateUnavailableError; then the clock goes on as it was set before."""
        best: TimeSample | None = None
        with redis_errors_translated():
            async with asyncio.timeout(self._timeout_s):
                for _ in range(_SAMPLES):
                    asked_s = self._monotonic()
                    best = self._learn(asked_s, await self._client.time(), best)
        self._sample = best

    async def run(self) -> None:
        """Refresh every 30 s for ever; while Redis is away the clock goes on and asks again every second."""
        while True:
            try:
                await self.refresh()
            except StateUnavailableError:
                await asyncio.sleep(_RETRY_AFTER_S)
            else:
                await asyncio.sleep(REFRESH_EVERY_S)


class SyncRedisClock(_Reckoning):
    """The clock of a process whose one thread polls: a thread of its own asks, so that polling never waits.

    The client needs a `socket_timeout`.
    """

    def __init__(self, client: redis.Redis, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self._client = client

    def refresh(self) -> None:
        """Ask the server. Raises StateUnavailableError; then the clock goes on as it was set before."""
        best: TimeSample | None = None
        with redis_errors_translated():
            for _ in range(_SAMPLES):
                asked_s = self._monotonic()
                best = self._learn(asked_s, self._client.time(), best)
        self._sample = best

    def run(self, stop: threading.Event) -> None:
        """Refresh every 30 s until `stop` is set; while Redis is away ask again every second."""
        pause_s = 0.0
        while not stop.wait(pause_s):
            try:
                self.refresh()
                pause_s = REFRESH_EVERY_S
            except StateUnavailableError:
                pause_s = _RETRY_AFTER_S
