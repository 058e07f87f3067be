"""A quota that others use too: the limiter against every model of a provider, in simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from sluicegate.limiter.api import Cost, Learn
from sluicegate.limiter.booking import (
    Batch,
    BookingRef,
    GiveBack,
    News,
    Observation,
    Quota,
    Reply,
    Request,
    SignalCode,
    Verdict,
    minute_units,
)
from sluicegate.limiter.learner import Learner, own_times_us
from sluicegate.limiter.reference import book
from sluicegate.limiter.sight import Sight
from sluicegate.limiter.stored import ScopeState, Stored
from sluicegate.llm.quota_headers import QuotaFamily, read_quotas
from sluicegate.local.provider import quota as provider
from sluicegate.local.provider.formats import OpenAI
from sluicegate.local.provider.strangers import Strangers

RUN = "a" * 40
PER_MINUTE = 2_400
TOKENS_PER_MINUTE = 2_400_000
QUOTA = Quota(requests_per_minute=PER_MINUTE, tokens_per_minute=TOKENS_PER_MINUTE)
SEED = 4
WARM_UP_S = 10.0
WINDOW_AT_S = 999_960.0  # a multiple of a minute
SECONDS = {
    provider.Enforcement.BUCKET: 60.0,
    provider.Enforcement.SLICE: 60.0,
    provider.Enforcement.FIXED: 60.0,
    provider.Enforcement.LOG: 90.0,
}
SETTLE_WITHIN_S = 0.05
REFUSAL_S = 0.02  # a refusal is answered without work, as a rule
LEAD_US = 1_000
LATE_US = 50_000  # a start that has passed by more is booked anew
DEEP_BURST_S = 10.0
MOST_LATE_S = 0.005  # how late a call's task may wake up


@dataclass(slots=True, kw_only=True)
class Booked:
    """A call's booking, and what had been raised when it was made."""

    ref: BookingRef
    raised_us: tuple[int, int, int, int]
    cost: Cost


@dataclass(slots=True, kw_only=True)
class Counts:
    """What came of a run after its warm-up."""

    seconds: float
    admitted: int = 0
    refused: int = 0
    strangers: float = 0.0
    raised_us: tuple[int, ...] = (0, 0, 0, 0)

    def refused_of_1000(self) -> float:
        """429s of a thousand calls."""
        return 1000 * self.refused / max(1, self.admitted + self.refused)

    def used(self) -> float:
        """What part of what strangers leave is used."""
        return self.admitted / (PER_MINUTE / 60 * self.seconds - self.strangers)


@dataclass(slots=True, kw_only=True)
class World:
    """One process that never stops calling, Redis as the reference, and a provider; times in seconds."""

    provider: provider.Quota
    share: float
    latency_s: float
    start_s: float
    random: random.Random
    counts: Counts
    refusal_s: float = REFUSAL_S
    warm_up_s: float = WARM_UP_S
    learner: Learner
    now_s: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    ticks: Iterator[int] = field(default_factory=itertools.count)
    strangers: Strangers = field(default_factory=Strangers)
    stored: Stored = field(default_factory=lambda: Stored(scope=ScopeState(run_id=RUN, generation=1)))
    sight: Sight = field(default_factory=lambda: Sight(QUOTA))
    observations: dict[int, Observation] = field(default_factory=dict)
    booked: Booked | None = None
    cost: Cost = field(default_factory=Cost)

    def run(self) -> Counts:
        """Let everything happen until the end."""
        self.now_s = self.start_s
        if self.share:
            self.strangers.begin(self.share, self.now_s, None)
        self.ask()
        before = 0.0
        while self.now_s < self.start_s + self.warm_up_s + self.counts.seconds:
            is_warm = self._is_warm()
            self.now_s, _, happen = heapq.heappop(self.events)
            if self._is_warm() and not is_warm:
                self._catch_up()
                before = self.strangers.taken[provider.Dimension.REQUESTS]
            happen()
        self._catch_up()
        self.counts.strangers = self.strangers.taken[provider.Dimension.REQUESTS] - before
        assert self.stored.scope is not None
        self.counts.raised_us = self.stored.scope.raised_us
        return self.counts

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen so long after the start."""
        self._at(self.start_s + seconds, happen)

    def _is_warm(self) -> bool:
        return self.now_s >= self.start_s + self.warm_up_s

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self.events, (at_s, next(self.ticks), happen))

    def _us(self) -> int:
        return int((self.now_s - self.start_s) * 1e6) + 10**13

    def _catch_up(self) -> None:
        self.strangers.catch_up(self.provider, self.now_s, lambda at_s: at_s)

    def _exchange(
        self, *requests: Request, news: tuple[News, ...] = (), give_backs: tuple[GiveBack, ...] = ()
    ) -> Reply:
        observations, self.observations = tuple(self.observations.values()), {}
        batch = Batch(
            requests=requests, news=news, observations=observations, give_backs=give_backs, lead_us=LEAD_US
        )
        self.stored, reply = book(self.stored, batch, QUOTA, clock_us=self._us(), run_id=RUN)
        self.sight.see(reply, self.now_s)
        return reply

    def ask(self, ref: BookingRef | None = None) -> None:
        """Book the next call, or confirm the booking of this one."""
        if ref is None:
            self.cost = Cost(tokens=self.random.randrange(100, 900))
        reply = self._exchange(Request(cost=self.cost, booking=ref or BookingRef()))
        (answer,) = reply.answers
        wake_s = self.now_s + answer.wait_us / 1e6 + self.random.uniform(0, MOST_LATE_S)
        if answer.verdict is Verdict.RETRY:
            self._at(wake_s, self.ask)
            return
        if answer.verdict is Verdict.BOOKED:
            ref = BookingRef(
                generation=reply.generation,
                number=answer.number,
                stretch=answer.stretch,
                start_us=reply.now_us + answer.wait_us,
            )
            self.booked = Booked(ref=ref, raised_us=reply.raised_us, cost=self.cost)
        self._at(wake_s, self.call)

    def call(self) -> None:
        """Make the booked call, unless a block says otherwise by now."""
        booked = self.booked
        assert booked is not None
        if self._us() - booked.ref.start_us > LATE_US:
            self._give_back(booked)
            self.ask()
            return
        if booked.ref.start_us < self.sight.blocked_until_us:
            self.ask(booked.ref)
            return
        self._catch_up()
        charge = {provider.Dimension.REQUESTS: 1.0, provider.Dimension.TOKENS: float(self.cost.tokens)}
        wait_s = self.provider.take(charge, self.now_s)
        started_us = self._us()
        if self._is_warm():
            self.counts.admitted += wait_s == 0
            self.counts.refused += wait_s > 0
        if wait_s > 0:
            self._at(self.now_s + self.refusal_s, lambda: self._refused(started_us, wait_s))
        else:
            self._at(self.now_s + self.latency_s, lambda: self._answered(booked))
        self.ask()

    def _give_back(self, booked: Booked) -> None:
        self._exchange(give_backs=(GiveBack(booking=booked.ref, cost=booked.cost),))

    def _refused(self, started_us: int, wait_s: float) -> None:
        news = News(
            code=SignalCode.RATE_LIMITED, started_us=started_us, retry_after_us=max(1, int(wait_s * 1e6))
        )
        self._exchange(news=(news,))

    def _answered(self, booked: Booked) -> None:
        self._catch_up()
        headers = OpenAI().quota_headers(self.provider, self.now_s)
        for report in read_quotas(QuotaFamily.OPENAI, headers, self.now_s):
            seen = self.learner.observe(
                report,
                now_s=self.now_s,
                own_us=own_times_us(minute_units(booked.cost), self.sight.limits),
                raised_before_us=booked.raised_us,
                limits=self.sight.limits,
            )
            if seen is not None:
                if not self.observations:
                    self._at(self.now_s + SETTLE_WITHIN_S, self._send)
                self.observations[seen.dimension] = seen

    def _send(self) -> None:
        if self.observations:
            self._exchange()


def _world(
    model: provider.Enforcement,
    *,
    share: float,
    latency_s: float,
    refusal_s: float = REFUSAL_S,
    warm_up_s: float = WARM_UP_S,
    start_s: float = WINDOW_AT_S - WARM_UP_S,
    seconds: float | None = None,
    learn: Learn = Learn.FOLLOW,
    burst_s: float = 0.2,
) -> World:
    limits = provider.Limits(
        enforcement=model,
        requests_per_minute=PER_MINUTE,
        tokens_per_minute=TOKENS_PER_MINUTE,
        burst_s=burst_s,
    )
    return World(
        provider=provider.Quota(limits, start_s),
        share=share,
        latency_s=latency_s,
        refusal_s=refusal_s,
        warm_up_s=warm_up_s,
        start_s=start_s,
        random=random.Random(SEED),
        counts=Counts(seconds=seconds or SECONDS[model]),
        learner=Learner(replace(QUOTA, learn=learn)),
    )


@pytest.mark.parametrize("latency_s", [0.1, 2.0])
@pytest.mark.parametrize("model", provider.Enforcement)
def test_what_strangers_leave_is_used(model: provider.Enforcement, latency_s: float) -> None:
    """While others take 30 % there are at most 5 429s in 1000 calls, and 85 % of the rest is used."""
    counts = _world(model, share=0.3, latency_s=latency_s).run()

    assert counts.strangers > 0.2 * PER_MINUTE / 60 * counts.seconds
    assert counts.refused_of_1000() <= 5
    assert counts.used() >= 0.85


@pytest.mark.parametrize(
    ("model", "warm_up_s"), [(provider.Enforcement.BUCKET, 10.0), (provider.Enforcement.SLICE, 30.0)]
)
def test_what_strangers_leave_is_found_though_refusals_come_late(
    model: provider.Enforcement, warm_up_s: float
) -> None:
    """A refusal that takes two seconds counts against the calls before it: soon at most 5 429s in 1000."""
    world = _world(model, share=0.3, latency_s=2.0, refusal_s=2.0, warm_up_s=warm_up_s)

    counts = world.run()

    assert counts.refused_of_1000() <= 5
    assert counts.used() >= 0.85


@pytest.mark.parametrize("latency_s", [0.1, 2.0])
def test_a_deep_bucket_is_not_drained_beside_strangers(latency_s: float) -> None:
    """Headers tell that it sinks long before it is empty: no 429 at all, and its depth is left alone."""
    world = _world(
        provider.Enforcement.BUCKET, share=0.3, latency_s=latency_s, seconds=40.0, burst_s=DEEP_BURST_S
    )

    counts = world.run()

    assert counts.refused == 0
    assert 0.95 <= counts.used() <= 1.01


def test_a_debt_is_raised_once_however_many_calls_saw_it() -> None:
    """Those on the wire for two seconds all tell of the one second that a stranger took."""
    world = _world(provider.Enforcement.BUCKET, share=0.0, latency_s=2.0, seconds=20.0, burst_s=DEEP_BURST_S)
    world.after(
        15.0, lambda: world.provider.charge({provider.Dimension.REQUESTS: PER_MINUTE / 60}, world.now_s)
    )

    counts = world.run()

    assert 0.8e6 <= counts.raised_us[0] <= 1e6
    assert counts.used() >= 0.93


@pytest.mark.parametrize(
    ("model", "latency_s", "into_window_s"),
    [
        (provider.Enforcement.BUCKET, 0.1, 50.0),
        (provider.Enforcement.BUCKET, 2.0, 50.0),
        (provider.Enforcement.SLICE, 0.1, 50.0),
        (provider.Enforcement.SLICE, 2.0, 50.0),
        # A window's reset fits a bucket for a moment: near its end, and in the middle of an even use.
        (provider.Enforcement.FIXED, 0.1, 0.0),
        (provider.Enforcement.FIXED, 2.0, 52.0),
        (provider.Enforcement.FIXED, 0.1, 59.4),
        (provider.Enforcement.LOG, 0.1, 50.0),
    ],
)
def test_alone_nothing_is_lost_by_learning(
    model: provider.Enforcement, latency_s: float, into_window_s: float
) -> None:
    """Own calls are never taken for those of strangers: no debt is raised, no call is lost."""
    start_s = WINDOW_AT_S - 60 + into_window_s
    learning, deaf = (
        _world(model, share=0.0, latency_s=latency_s, start_s=start_s, seconds=40.0, learn=learn).run()
        for learn in (Learn.FOLLOW, Learn.OFF)
    )

    assert learning.raised_us == (0, 0, 0, 0)
    assert learning.admitted >= 0.99 * deaf.admitted
    assert deaf.used() >= 0.97
