"""The ledger itself: every key of the demo's JSON, computed from raw histories."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from sluicegate.local.ledger.activity import active_spans
from sluicegate.local.ledger.fates import (
    Fate,
    count_duplicate_ends,
    count_out_of_order,
    count_parked,
    count_repeated_ends,
    fates,
    lateness_ms,
    quantile,
)
from sluicegate.local.ledger.history import History
from sluicegate.local.ledger.provider import (
    ProviderHistory,
    count_over_limit,
    count_paid_twice,
    efficiency,
    ideal_s,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the run was: with how many workers of each stream, on which Kafka and Redis, from which seed."""

    workers: int
    kafka: str
    redis: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What became of every event and every call. None: the provider keeps no records to compute it from.

    `published` is the sum of the five fates that follow it.
    """

    published: int
    completed: int
    recorded: int
    dead_lettered: int
    waiting: int
    lost: int
    duplicate_results: int
    repeated_results: int
    out_of_order: int
    parked: int
    released_early: int
    lateness_p50_ms: float | None
    lateness_p99_ms: float | None
    provider_calls: int | None
    provider_429s: int | None
    limit_exceeded: int | None
    paid_twice: int | None
    makespan_s: float
    ideal_s: float | None
    efficiency: float | None
    workers: int
    kafka: str
    redis: str
    seed: int

    def as_json(self) -> dict[str, int | float | str | None]:
        """Return the keys and values in their order."""
        return asdict(self)

    def broken(self, *, worker_was_killed: bool) -> tuple[str, ...]:
        """Name the keys that break a promise; after a kill, repeats of what was in flight break none."""
        must_be_zero = [
            "lost",
            "duplicate_results",
            "released_early",
            "out_of_order",
            "limit_exceeded",
            "waiting",
        ]
        if not worker_was_killed:
            must_be_zero += ["repeated_results", "paid_twice"]
        return tuple(key for key in must_be_zero if getattr(self, key))


def compute_ledger(history: History, provider: ProviderHistory | None, facts: RunFacts) -> Ledger:
    """Compute every key; `provider` None leaves those that need its records None."""
    fate = Counter(fates(history).values())
    start_s = min((event.timestamp_ms for event in history.published), default=0) / 1000
    end_s = max((end.timestamp_ms / 1000 for end in history.ends), default=start_s)
    late_ms = lateness_ms(history.released)
    return Ledger(
        published=len(history.published),
        completed=fate[Fate.COMPLETED],
        recorded=fate[Fate.RECORDED],
        dead_lettered=fate[Fate.DEAD_LETTERED],
        waiting=fate[Fate.WAITING],
        lost=fate[Fate.LOST],
        duplicate_results=count_duplicate_ends(history.ends),
        repeated_results=count_repeated_ends(history.ends),
        out_of_order=count_out_of_order(history.published, history.ends),
        parked=count_parked(history.parked),
        released_early=sum(late < 0 for late in late_ms),
        lateness_p50_ms=quantile(late_ms, 0.5),
        lateness_p99_ms=quantile(late_ms, 0.99),
        provider_calls=None if provider is None else len(provider.calls),
        provider_429s=None if provider is None else provider.throttled,
        limit_exceeded=None if provider is None else count_over_limit(provider.calls, provider.quota),
        paid_twice=None if provider is None else count_paid_twice(provider.calls),
        makespan_s=round(end_s - start_s, 3),
        ideal_s=None if provider is None else round(ideal_s(provider, start_s=start_s), 3),
        efficiency=None if provider is None else _efficiency(history, provider, end_s),
        workers=facts.workers,
        kafka=facts.kafka,
        redis=facts.redis,
        seed=facts.seed,
    )


def _efficiency(history: History, provider: ProviderHistory, end_s: float) -> float | None:
    last_call_s = max((call.at_s for call in provider.calls), default=end_s)
    share = efficiency(provider, active_spans(history, until_s=max(end_s, last_call_s)))
    return None if share is None else round(share, 4)
