"""Our limiter in the duel: the one place here that knows its face."""

from __future__ import annotations

import asyncio
import logging

import structlog

from benchmarks.duel.contender import Call, Plan
from sluicegate.limiter.api import Ask, Cost, Lane, Permit
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics

_S_PER_MINUTE = 60.0


class Ours:
    """Nothing tuned: the published limit and the defaults."""

    def _safe(self, plan: Plan) -> float:
        return 1.0

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Start the limiter's loop and wait until the guard of a new scope is over."""
        # Every 429 of a bout is in its figures already, and stdout belongs to the worker.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        per_minute = self._safe(plan) * _S_PER_MINUTE / plan.window_s
        self._limiter = RedisLimiter(
            connect(plan.redis_url, max_connections=4, timeout_s=1.0),
            scope="duel",
            quota=Quota(
                requests_per_minute=plan.requests_per_window * per_minute,
                tokens_per_minute=plan.tokens_per_window * per_minute or None,
            ),
            metrics=Metrics(),
            process_id=f"duel-{plan.process}",
        )
        tasks.create_task(self._limiter.run())
        permit = await self.acquire(Call(tokens=1, asked_at_ms=0, refusals=0))
        self._limiter.settle(permit, Cost(requests=0, tokens=0))

    async def acquire(self, call: Call) -> Permit:
        """Wait as a worker's call does: a call that was refused stands ahead of fresh ones."""
        answer = await self._limiter.acquire(
            Ask(
                lane=Lane.BULK,
                cost=Cost(tokens=call.tokens),
                origin_timestamp_ms=call.asked_at_ms,
                is_retry=call.refusals > 0,
            )
        )
        assert isinstance(answer, Permit), answer
        return answer

    async def refused(self, grant: object, call: Call, retry_after_s: float) -> None:
        """Block the scope as long as the provider asked."""
        assert isinstance(grant, Permit)
        await self._limiter.block(retry_after_s, "rate-limited")
        self._limiter.settle(grant, None)

    async def done(self, grant: object, call: Call) -> None:
        """Settle what was reserved."""
        assert isinstance(grant, Permit)
        self._limiter.settle(grant, Cost(tokens=call.tokens))


class OursStrict(Ours):
    """For a provider that lets nothing over the limit in any window: less is sent, by what may come at once.

    A bucket admits at most rate x window + burst + one call in any window.
    """

    def _safe(self, plan: Plan) -> float:
        largest = plan.largest_call_tokens / plan.tokens_per_window if plan.tokens_per_window else 0.0
        return 1 / (1 + Quota().burst_s / plan.window_s + largest)
