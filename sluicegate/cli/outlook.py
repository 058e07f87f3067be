"""How fast a backlog moves, and when it ends: at the rate seen, and at the quota. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from consumers.inspection.backlog import StreamBacklog
from consumers.inspection.costs import MeanCost
from sluicegate.limiter.api import Lane
from sluicegate.limiter.forecast import Load, forecast
from sluicegate.limiter.levels import ScopeLevels, scope_levels
from sluicegate.limiter.profiles import reserved_tokens
from sluicegate.limiter.quotas import quota_for
from sluicegate.limiter.stored import Stored
from sluicegate.llm.prices import price_of
from sluicegate.settings import Settings
from sluicegate.state.pause import Pause

_REMEMBERED_S = 30.0
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLook:
    """What Redis said: pauses by stream, levels by scope, and how many dead letters still count.

    A stream is missing in `still_dead` when its DLQ holds more than is looked at.
    """

    pauses: Mapping[str, Pause] = field(default_factory=dict)
    scopes: Mapping[str, ScopeLevels] = field(default_factory=dict)
    still_dead: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything that was seen of a deployment at one moment. `redis` None: it did not answer."""

    backlogs: Sequence[StreamBacklog]
    costs: Mapping[str, MeanCost | None]
    redis: RedisLook | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A stream's backlog and its outlook.

    `at_rate_s` None: nothing moves. `at_quota_s` None: no limit is known, or something that only people or
    the provider can end holds the stream; `held_by` says what: a pause, an open circuit. `bound_by` names
    what takes longest: a limit, a block, or the last due time.
    """

    backlog: StreamBacklog
    rate_per_s: float
    at_rate_s: float | None
    at_quota_s: float | None = None
    bound_by: str | None = None
    held_by: str | None = None
    pause: Pause | None = None
    cost: MeanCost | None = None
    still_dead: int | None = None

    @property
    def eta_s(self) -> float | None:
        """When it ends: at the quota, else at the rate seen; None when nobody can know."""
        if self.held_by is not None:
            return None
        return self.at_rate_s if self.at_quota_s is None else self.at_quota_s


class Rates:
    """Turns looks at a backlog into rates, over the last half minute or what there is of it."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[str, int]]] = []

    def add(self, backlogs: Sequence[StreamBacklog], at_s: float) -> Mapping[str, float]:
        """Remember a look and return each stream's events per second. `at_s` is monotonic."""
        self._looks = [look for look in self._looks if look[0] > at_s - _REMEMBERED_S]
        self._looks.append((at_s, {backlog.stream: backlog.finished for backlog in backlogs}))
        since_s, before = self._looks[0]
        passed_s = at_s - since_s
        return {
            each.stream: max(0.0, (each.finished - before.get(each.stream, each.finished)) / passed_s)
            if passed_s > 0
            else 0.0
            for each in backlogs
        }


def outlook(
    settings: Settings, look: Look, rates: Mapping[str, float], *, now_ms: int
) -> tuple[StreamStatus, ...]:
    """Say when each stream's backlog ends.

    An event is taken to cost what the newest results did; before there is one, a single call of unknown
    size. A scope that several streams share is shared in the forecast as the limiter does it, by lanes.
    """
    loads: dict[str, dict[Lane, Load]] = defaultdict(dict)
    for backlog in look.backlogs:
        scope, lane = _place(settings, backlog.stream)
        load = _load(settings, backlog, look.costs.get(backlog.stream))
        loads[scope][lane] = loads[scope].get(lane, Load()) + load
    return tuple(
        _status(settings, backlog, look, loads, rates.get(backlog.stream, 0.0), now_ms)
        for backlog in look.backlogs
    )


def _status(
    settings: Settings,
    backlog: StreamBacklog,
    look: Look,
    loads: Mapping[str, Mapping[Lane, Load]],
    rate_per_s: float,
    now_ms: int,
) -> StreamStatus:
    stream = backlog.stream
    redis = look.redis or RedisLook()
    scope, lane = _place(settings, stream)
    levels = redis.scopes.get(scope) or _configured(settings, scope)
    at_quota = _at_quota(backlog, loads[scope], lane, levels, now_ms)
    at_rate_s = backlog.remaining / rate_per_s if rate_per_s > 0 else None
    pause = redis.pauses.get(stream)
    held_by = "pause" if pause is not None else "circuit" if levels.circuit is not None else None
    is_held = held_by is not None and backlog.remaining > 0
    return StreamStatus(
        backlog=backlog,
        rate_per_s=rate_per_s,
        at_rate_s=0.0 if backlog.remaining == 0 else at_rate_s,
        at_quota_s=None if is_held else at_quota[0],
        bound_by=None if is_held else at_quota[1],
        held_by=held_by if is_held else None,
        pause=pause,
        cost=look.costs.get(stream),
        still_dead=redis.still_dead.get(stream),
    )


def _at_quota(
    backlog: StreamBacklog, loads: Mapping[Lane, Load], lane: Lane, levels: ScopeLevels, now_ms: int
) -> tuple[float | None, str | None]:
    if backlog.remaining == 0:
        return 0.0, None
    found = forecast(loads, lane, levels.levels, safe=levels.safe, bulk_share=levels.bulk_share)
    if found is None:
        return None, None
    seconds, bound_by = found.seconds, found.bound_by.value
    if levels.block is not None:
        seconds += (levels.block.until_us - levels.now_us) / 1e6
        bound_by = levels.block.cause.value
    last_due = [tier.last_due_at_ms for tier in backlog.tiers if tier.last_due_at_ms is not None]
    if last_due and (waits_s := (max(last_due) - now_ms) / 1000) > seconds:
        return waits_s, "due-time"
    return seconds, bound_by


def _load(settings: Settings, backlog: StreamBacklog, cost: MeanCost | None) -> Load:
    if cost is None:
        return Load(calls=float(backlog.remaining))
    # What was parked did make a call, so only of the input a part needs none.
    calls = (backlog.lag * cost.share + backlog.parked + backlog.due) * cost.calls
    own = settings.streams[backlog.stream]
    way = settings.routes(backlog.stream)[0]
    input_tokens = cost.input_tokens / cost.calls if cost.calls else 0.0
    output_tokens = cost.output_tokens / cost.calls if cost.calls else 0.0
    charged = reserved_tokens(
        settings.providers[way.provider].profile,
        prompt_tokens=round(input_tokens),
        output_tokens=round(output_tokens),
        max_output_tokens=own.max_output_tokens,
    )
    return Load(
        calls=calls,
        tokens=calls * charged,
        input_tokens=calls * input_tokens,
        output_tokens=calls * output_tokens,
        dollars=calls * _dollars(settings, backlog.stream, input_tokens, output_tokens),
    )


def _dollars(settings: Settings, stream: str, input_tokens: float, output_tokens: float) -> float:
    way = settings.routes(stream)[0]
    limits = settings.limits_for(way.provider, way.model)
    if limits is None or limits.dollars_per_day is None:
        return 0.0  # the price table is slow to load, and nobody asks for it
    price = price_of(settings, way)
    return 0.0 if price is None else price.micro_dollars(round(input_tokens), round(output_tokens)) / _MILLION


def _place(settings: Settings, stream: str) -> tuple[str, Lane]:
    return settings.routes(stream)[0].scope, Lane(settings.streams[stream].lane)


def _configured(settings: Settings, scope: str) -> ScopeLevels:
    """Return the levels of a scope that nobody has used: what the settings say."""
    return scope_levels(Stored(), quota_for(settings, scope), clock_us=0, run_id="")
