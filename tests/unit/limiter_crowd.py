"""Processes that share one scope in simulated time; nothing in it is the limiter's but `book`."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

from sluicegate.limiter.booking import Batch, News, Quota, Reply
from sluicegate.limiter.reference import book
from sluicegate.limiter.stored import ScopeState, Stored
from tests.unit.limiter_process import SECOND_US, Call, Outcome, Process

HOUR_US = 3_600 * SECOND_US
T0 = 10_000 * HOUR_US
_RUN = "a" * 40


class Crowd:
    """The shared clock, the shared state and the provider. `random` is seeded, so a run can be repeated."""

    def __init__(
        self,
        quota: Quota,
        *,
        provider: Callable[[Call], Outcome] = lambda call: Outcome(),
        processes: int = 1,
        width: int = 10**9,
        look_us: int = SECOND_US,
        seed: int = 1,
    ) -> None:
        self.quota, self.provider, self.random = quota, provider, Random(seed)
        self.now_us = T0
        self.stored, _ = book(Stored(), Batch(), quota, clock_us=T0 - HOUR_US, run_id=_RUN)
        self.calls: list[Call] = []
        self.on_wire: set[Call] = set()
        self.most_on_wire = self.sends = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.processes = [Process(self, i, width=width, look_us=look_us) for i in range(processes)]

    @property
    def state(self) -> ScopeState:
        """What is stored of the scope."""
        assert self.stored.scope is not None
        return self.stored.scope

    def at(self, at_us: int, what: Callable[[], None]) -> None:
        """Do something then."""
        heapq.heappush(self._due, (at_us, next(self._order), what))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until_us = self.now_us + round(seconds * SECOND_US)
        for process in self.processes:
            self.at(self.now_us, process.step)
        while self._due and self._due[0][0] <= until_us:
            self.now_us, _, what = heapq.heappop(self._due)
            what()
        self.now_us = until_us

    def send(self, index: int, batch: Batch) -> Reply:
        """Call the script for one process."""
        self.sends += 1
        self.stored, reply = book(
            self.stored,
            batch,
            self.quota,
            clock_us=self.now_us,
            run_id=_RUN,
            me=f"p{index}",
            me_hash=index + 1,
        )
        return reply

    def tell(self, *news: News, index: int = 0) -> Reply:
        """Send signals in one batch, as of calls that the crowd does not know."""
        return self.send(index, Batch(news=news))

    def begin(self, call: Call) -> Outcome:
        """Put a call on the wire."""
        self.calls.append(call)
        self.on_wire.add(call)
        self.most_on_wire = max(self.most_on_wire, len(self.on_wire))
        return self.provider(call)

    def end(self, call: Call) -> None:
        """Take it off the wire."""
        self.on_wire.discard(call)
