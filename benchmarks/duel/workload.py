"""What the processes of a bout want, and the duel's own workload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.duel.contender import Plan
from benchmarks.duel.worker import Orders
from sluicegate.local.provider.quota import Enforcement, Limits

WINDOW_S = 6.0
REQUESTS, TOKENS = 600, 300_000
MEAN_TOKENS, LARGEST_TOKENS = 1_000.0, 20_000
BUCKET_BURST_S = 1.0  # a sixth of the window: vendors enforce over one to ten seconds of a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the processes want and how long they are watched.

    `calls` 0: every one of `callers` per process asks again as soon as it was answered. Else that many calls
    in all stand there at the start. `concurrency` is for the contender that has no limiter.
    """

    processes: int
    callers: int
    limits: Limits
    window_s: float
    requests_per_window: int
    tokens_per_window: int
    warm_up_s: float
    measured_s: float
    seed: int
    calls: int = 0
    concurrency: int = 40
    latency_s: float = 0.1
    mean_tokens: float = 0.0
    sigma: float = 1.0
    largest_call_tokens: int = 0

    def refill_s(self, tokens: float) -> float:
        """Return in which time the limit gives what a call takes."""
        request_s = self.window_s / self.requests_per_window
        return max(request_s, tokens * self.window_s / self.tokens_per_window if tokens else 0.0)

    @property
    def mean_refill_s(self) -> float:
        """The same for a mean call."""
        return self.refill_s(self.mean_tokens)

    def orders(self, contender: str, folder: Path, redis_url: str, process: int) -> Orders:
        """Return what one process is told."""
        plan = Plan(
            redis_url=redis_url,
            process=process,
            concurrency=self.concurrency,
            window_s=self.window_s,
            requests_per_window=self.requests_per_window,
            tokens_per_window=self.tokens_per_window,
            largest_call_tokens=self.largest_call_tokens,
            seed=self.seed,
        )
        share = self.calls // self.processes + (process < self.calls % self.processes)
        return Orders(
            contender=contender,
            judge=str(folder / "judge"),
            report=str(folder / f"report-{process}"),
            plan=plan,
            callers=self.callers,
            calls=share,
            latency_s=self.latency_s,
            mean_tokens=self.mean_tokens,
            sigma=self.sigma,
        )


def duel_workload(
    enforcement: Enforcement, *, processes: int, callers: int, seed: int, warm_up_s: float, measured_s: float
) -> Workload:
    """Return the duel's workload against one model of a provider."""
    return Workload(
        processes=processes,
        callers=callers,
        limits=Limits(
            enforcement=enforcement,
            requests_per_minute=REQUESTS * 60 / WINDOW_S,
            tokens_per_minute=TOKENS * 60 / WINDOW_S,
            burst_s=BUCKET_BURST_S,
            window_s=WINDOW_S,
        ),
        window_s=WINDOW_S,
        requests_per_window=REQUESTS,
        tokens_per_window=TOKENS,
        warm_up_s=warm_up_s,
        measured_s=measured_s,
        seed=seed,
        concurrency=callers,
        mean_tokens=MEAN_TOKENS,
        largest_call_tokens=LARGEST_TOKENS,
    )


def quick_workload(enforcement: Enforcement, *, seed: int) -> Workload:
    """Return a short form: 8 s, one window of them measured, and a queue of less than a second."""
    return duel_workload(enforcement, processes=2, callers=20, seed=seed, warm_up_s=2.0, measured_s=WINDOW_S)


def full_workload(enforcement: Enforcement, *, processes: int, callers: int, seed: int) -> Workload:
    """Return the duel: four whole windows, after one window and the first turn of all callers."""
    turn_s = processes * callers * max(WINDOW_S / REQUESTS, MEAN_TOKENS * WINDOW_S / TOKENS)
    return duel_workload(
        enforcement,
        processes=processes,
        callers=callers,
        seed=seed,
        warm_up_s=max(WINDOW_S, 1.5 * turn_s),
        measured_s=4 * WINDOW_S,
    )
