"""The provider's mind, without HTTP: what becomes of a call, and what is remembered of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sluicegate.local.provider.answers import Answer, Question, answer
from sluicegate.local.provider.call_log import CallLog
from sluicegate.local.provider.faults import (
    CapacityFault,
    CutFault,
    EarlyFault,
    Fault,
    FaultPlan,
    LateFault,
    LimitsFault,
    StrangersFault,
    parse_fault,
)
from sluicegate.local.provider.formats import Format
from sluicegate.local.provider.ideal import held_limits, ideal_s, write_limits, write_period
from sluicegate.local.provider.quota import Dimension, Limits, Quota
from sluicegate.local.provider.strangers import Strangers
from sluicegate.local.provider.timeline import Cut, Timeline

_MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a simulator is started with. `concurrency` is how many calls an account may have in flight."""

    limits: Limits
    concurrency: int | None = None
    latency_ms: float = 100.0
    jitter_ms: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """429, by the quota or a cut. `wait_s` is infinite for a call that no bucket can hold."""

    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowded:
    """Too many calls are in flight, before the quota was asked: for the account, or for the provider."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StruckEarly:
    """An injected error status or redirect, before the quota was asked."""

    fault: EarlyFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The quota took the call: after `latency_s` it is answered, unless a fault spoils the answer."""

    answer: Answer
    latency_s: float
    fault: LateFault | None


Verdict = Refused | Crowded | StruckEarly | Admitted


class Simulator:
    """Decides, charges and remembers. `now_s` is Unix time that never steps back, `random` uniform [0, 1)."""

    def __init__(
        self, configuration: Configuration, *, now_s: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self.now_s = now_s
        self._random = random
        self._configuration = configuration
        self._started_at = now_s()
        self.quota = Quota(configuration.limits, self._started_at)
        self._timeline = Timeline(configuration.limits, self._started_at)
        self._faults = FaultPlan(random)
        self._strangers = Strangers()
        self._at_work: set[int] = set()
        self._charged: Counter[Dimension] = Counter()
        self.log = CallLog()

    def receive(self, format: Format, question: Question, request_id: str) -> tuple[int, Verdict]:
        """Return the call's number and what becomes of it; `finish` it whatever happens."""
        now_s = self._catch_up()
        sequence = self.log.begin(
            received_at=now_s,
            request_id=request_id,
            format=format.name,
            model=question.model,
            prompt_tokens=question.prompt_tokens,
        )
        if early := self._faults.strike_early(request_id, now_s):
            self.log.struck(sequence, early.kind)
            return sequence, StruckEarly(fault=early)
        if refused := self._turn_away(sequence, format, now_s):
            self.log.refuse(now_s)
            return sequence, refused
        charge = format.charge(question)
        wait_s = self.quota.take(charge, now_s)
        if wait_s > 0:
            self.log.refuse(now_s)
            return sequence, Refused(wait_s=wait_s)
        self._at_work.add(sequence)
        self._charged.update(charge)
        self.log.admit(sequence, charge[Dimension.TOKENS], now_s)
        late = self._faults.strike_late(request_id, now_s)
        if late is not None:
            self.log.struck(sequence, late.kind)
        jitter_ms = self._random() * self._configuration.jitter_ms
        latency_s = (self._configuration.latency_ms + jitter_ms) / _MS_PER_S
        return sequence, Admitted(answer=answer(question), latency_s=latency_s, fault=late)

    def _turn_away(self, sequence: int, format: Format, now_s: float) -> Refused | Crowded | None:
        """What becomes of a call that the quota is not even asked for."""
        if cut := self._timeline.cut_at(now_s):
            self.log.struck(sequence, "cut")
            self._faults.count(CutFault)
            return Refused(wait_s=cut.wait_s(now_s))
        shortage = self._faults.capacity(now_s)
        if shortage is not None and len(self._at_work) >= shortage.concurrency:
            self.log.struck(sequence, shortage.kind)
            self._faults.count(CapacityFault)
            return Crowded(status=format.overloaded_status)
        concurrency = self._configuration.concurrency
        if concurrency is not None and len(self._at_work) >= concurrency:
            return Crowded(status=format.crowded_status)
        return None

    def answered(self, sequence: int, format: Format, given: Answer) -> None:
        """Charge what this provider charges for output, now that it is given."""
        charge = format.charge_answer(given)
        if charge:
            now_s = self._catch_up()
            self.quota.charge(charge, now_s)
            self._charged.update(charge)
            self.log.charge(sequence, charge[Dimension.TOKENS], now_s)

    def quota_headers(self, format: Format) -> dict[str, str]:
        """Return the rate-limit headers of an answer that is given now."""
        return format.quota_headers(self.quota, self._catch_up())

    def finish(self, sequence: int, *, status: int | None, completion_tokens: int, whole: bool) -> None:
        """Remember how a call ended; `whole` when its answer was written to the last byte."""
        self._at_work.discard(sequence)
        self.log.finish(
            sequence,
            status=status,
            completion_tokens=completion_tokens,
            completed_at=self.now_s() if whole else None,
        )

    def begin_fault(self, body: bytes) -> Fault:
        """Begin what a `POST /faults` asks for and return it. Raises ValueError when it is not understood."""
        fault = parse_fault(body)
        now_s = self._catch_up()
        match fault:
            case CutFault():
                retry_after_s = fault.for_s if fault.retry_after_s is None else fault.retry_after_s
                self._timeline.begin_cut(
                    Cut(
                        start_at=now_s,
                        end_at=now_s + fault.for_s,
                        retry_after_s=retry_after_s,
                        fixed=fault.fixed,
                    )
                )
            case LimitsFault():
                old = self.quota.limits
                limits = replace(
                    old,
                    requests_per_minute=fault.requests_per_minute or old.requests_per_minute,
                    tokens_per_minute=fault.tokens_per_minute or old.tokens_per_minute,
                    input_tokens_per_minute=fault.input_tokens_per_minute or old.input_tokens_per_minute,
                    output_tokens_per_minute=fault.output_tokens_per_minute or old.output_tokens_per_minute,
                )
                self.quota.change(limits, now_s)
                self._timeline.change(limits, now_s)
            case StrangersFault():
                self._strangers.begin(
                    fault.share, now_s, None if fault.for_s is None else now_s + fault.for_s
                )
            case _:
                pass
        self._faults.add(fault, now_s)
        return fault

    def clear_faults(self) -> None:
        """End every fault and cut now."""
        now_s = self._catch_up()
        self._faults.clear(now_s)
        self._strangers.end()
        self._timeline.end_cut(now_s)

    def stats(self) -> dict[str, Any]:
        """Return all of `GET /stats` but the calls."""
        now_s = self._catch_up()
        log = self.log
        return {
            "now": now_s,
            "started_at": self._started_at,
            "configuration": self._shown_configuration(),
            "timeline": [write_period(period) for period in self._timeline.periods(now_s)],
            "faults": self._faults.report(now_s),
            "counts": {
                "calls": log.calls,
                "admitted": log.admitted,
                "refused": log.refused,
                "answered": log.answered,
                "by_status": {str(status): count for status, count in sorted(log.by_status.items())},
            },
            "in_flight": log.in_flight,
            "most_in_flight": log.most_in_flight,
            "strangers": {
                dimension.value: self._strangers.taken[dimension] for dimension in self.quota.meters
            },
            "levels": self._levels(now_s),
            "last_10_s": log.last_seconds(now_s),
            "ideal": self._ideal(now_s),
            "calls_dropped": log.dropped,
        }

    def _catch_up(self) -> float:
        """Return the time, with all taken that strangers take until then: go through here to the quota."""
        now_s = self.now_s()
        self._strangers.catch_up(self.quota, now_s, self._timeline.open_from)
        return now_s

    def _shown_configuration(self) -> dict[str, Any]:
        limits = self.quota.limits
        return {
            "enforcement": limits.enforcement.value,
            "burst_s": limits.burst_s,
            "window_s": limits.window_s,
            **write_limits(held_limits(limits)),
            "concurrency": self._configuration.concurrency,
            "latency_ms": self._configuration.latency_ms,
            "jitter_ms": self._configuration.jitter_ms,
            "seed": self._configuration.seed,
        }

    def _levels(self, now_s: float) -> dict[str, dict[str, float]]:
        limits = self.quota.limits
        return {
            dimension.value: {
                "available": limits.burst(dimension) - meter.used(now_s),
                "capacity": limits.burst(dimension),
            }
            for dimension, meter in self.quota.meters.items()
        }

    def _ideal(self, now_s: float) -> dict[str, float | int | None] | None:
        log = self.log
        if log.first_admitted_at is None:
            return None
        last = log.last_completed_at
        return {
            "started_at": log.first_admitted_at,
            "last_completed_at": last,
            "requests": log.admitted,
            "tokens": log.tokens_charged,
            "makespan_s": None if last is None else last - log.first_admitted_at,
            "ideal_s": ideal_s(
                self._timeline.periods(now_s),
                started_at=log.first_admitted_at,
                used=self._charged,
                latency_s=self._configuration.latency_ms / _MS_PER_S,
            ),
        }
