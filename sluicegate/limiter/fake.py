"""A limiter for the tests of other rooms: grants at once, and blocks when a test says so."""

from __future__ import annotations

import asyncio

from sluicegate.limiter.api import Ask, Blocked, Cost, Dimension, NeverFits, Permit, WaitersReleasedError


class FakeLimiter:
    """Grants every ask at once unless the scope is blocked; time moves only when `advance` is called.

    `settled` maps a permit's id to what it was settled with, `blocks` lists what `block` was told, and
    `asked` lists every ask in order. A call of more than `largest_tokens` never fits.
    """

    def __init__(self, *, scope: str = "main", largest_tokens: int | None = None) -> None:
        self.scope = scope
        self.asked: list[Ask] = []
        self.granted: list[Permit] = []
        self.settled: dict[str, Cost | None] = {}
        self.blocks: list[tuple[float, str]] = []
        self._largest_tokens = largest_tokens
        self._now_s = 0.0
        self._blocked_until_s = 0.0
        self._is_draining = False
        self._waiters: dict[asyncio.Future[Blocked | None], Ask] = {}

    @property
    def waiting(self) -> int:
        """How many asks have no answer yet."""
        return len(self._waiters)

    def blocked_for_s(self) -> float:
        """Return how long the scope stays blocked, in fake seconds."""
        return max(0.0, self._blocked_until_s - self._now_s)

    def advance(self, seconds: float) -> None:
        """Let fake time pass; a block that ends lets its waiters go."""
        self._now_s += seconds
        if self.blocked_for_s() > 0:
            return
        for answer in self._waiters:
            if not answer.done():
                answer.set_result(None)

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Grant at once; while blocked wait for `advance`, or answer Blocked beyond the ask's patience."""
        self.asked.append(ask)
        if self._is_draining:
            raise WaitersReleasedError
        if self._largest_tokens is not None and ask.cost.tokens > self._largest_tokens:
            return NeverFits(dimension=Dimension.TOKENS)
        asked_at_s = self._now_s
        while self.blocked_for_s() > 0:
            if ask.patience_s is not None and self.blocked_for_s() > ask.patience_s:
                return Blocked(wait_s=self.blocked_for_s())
            answer: asyncio.Future[Blocked | None] = asyncio.get_running_loop().create_future()
            self._waiters[answer] = ask
            try:
                blocked = await answer
            finally:
                del self._waiters[answer]
            if blocked is not None:
                return blocked
        permit = Permit(
            id=f"fake-{len(self.granted)}",
            scope=self.scope,
            cost=ask.cost,
            waited_s=self._now_s - asked_at_s,
        )
        self.granted.append(permit)
        return permit

    def settle(self, permit: Permit, actual: Cost | None) -> None:
        """Remember what the call took. Raises AssertionError for a second settlement: a caller's bug."""
        if permit.id in self.settled:
            raise AssertionError(f"permit {permit.id} was settled twice")
        self.settled[permit.id] = actual

    async def block(self, seconds: float, reason: str) -> None:
        """Block the scope in fake time and answer the waiters whose patience is shorter."""
        self.blocks.append((seconds, reason))
        self._blocked_until_s = max(self._blocked_until_s, self._now_s + seconds)
        for answer, ask in self._waiters.items():
            if ask.patience_s is not None and self.blocked_for_s() > ask.patience_s and not answer.done():
                answer.set_result(Blocked(wait_s=self.blocked_for_s()))

    def release_waiters(self) -> None:
        """Let everybody go who waits, and refuse everybody who comes."""
        self._is_draining = True
        for answer in self._waiters:
            if not answer.done():
                answer.set_exception(WaitersReleasedError())
