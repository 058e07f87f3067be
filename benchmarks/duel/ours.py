"""Our limiter in the duel: the one place here that knows its face."""

from __future__ import annotations

import asyncio
import logging

import structlog

from benchmarks.duel.contender import Call, Plan
from sluicegate.limiter.api import NOTHING, Ask, Cost, Lane, Permit, Signal, SignalKind
from sluicegate.limiter.booking import Quota
from sluicegate.limiter.redis_limiter import RedisLimiter
from sluicegate.state.connecting import connect
from sluicegate.telemetry.metrics import Metrics

_S_PER_MINUTE = 60.0


class Ours:
    """Nothing tuned: the published limit and the defaults."""

    def _strict_window_s(self, plan: Plan) -> float:
        return 0.0

    def _largest_call_tokens(self, plan: Plan) -> int | None:
        return None

    async def open(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """Start the limiter's loop and wait until the guard of a new scope is over."""
        # Every 429 of a bout is in its figures already, and stdout belongs to the worker.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        per_minute = _S_PER_MINUTE / plan.window_s
        self._limiter = RedisLimiter(
            connect(plan.redis_url, max_connections=4, timeout_s=1.0),
            scope="duel",
            quota=Quota(
                requests_per_minute=plan.requests_per_window * per_minute,
                tokens_per_minute=plan.tokens_per_window * per_minute or None,
                strict_window_s=self._strict_window_s(plan),
                largest_call_tokens=self._largest_call_tokens(plan),
            ),
            metrics=Metrics(),
            process_id=f"duel-{plan.process}",
        )
        tasks.create_task(self._limiter.run())
        permit = await self.acquire(Call(tokens=1, asked_at_ms=0, refusals=0))
        self._limiter.settle(permit, NOTHING)

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
        self._limiter.settle(grant, None)
        signal = Signal(kind=SignalKind.RATE_LIMITED, reason="rate-limited", retry_after_s=retry_after_s)
        await self._limiter.report(grant, signal)

    async def done(self, grant: object, call: Call) -> None:
        """Settle what was reserved."""
        assert isinstance(grant, Permit)
        self._limiter.settle(grant, Cost(tokens=call.tokens))


class OursStrict(Ours):
    """For a provider that lets nothing over its limit in any window: window and largest call are known."""

    def _strict_window_s(self, plan: Plan) -> float:
        return plan.window_s

    def _largest_call_tokens(self, plan: Plan) -> int | None:
        return plan.largest_call_tokens or None
