"""Where a stream's calls may go: its own provider first, then those that stand in for it.

A permit belongs to one route, so it is here that none gets lost: whatever is cancelled, whenever, a
permit reaches exactly one caller or goes back to its limiter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Circuit,
    Limiter,
    NeverFits,
    Permit,
    ScopeView,
    WaitersReleasedError,
)
from sluicegate.limiter.costs import CostModel
from sluicegate.llm.api import LlmCaller

# The right to probe is here already: what is left is one round trip to Redis.
_PROBE_TURN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One way to an answer. `name` is the provider, or provider/model where the model is another."""

    name: str
    model: str
    limiter: Limiter
    view: ScopeView
    caller: LlmCaller
    costs: CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The right to make one call now, on this route."""

    route: Route
    permit: Permit


class Routes:
    """The routes of one stream, the preferred one first."""

    def __init__(self, routes: Sequence[Route], *, fallback_after_s: float) -> None:
        """A call waits for a route for at most `fallback_after_s` before it asks the next; one is enough."""
        self._routes = tuple(routes)
        self._fallback_after_s = fallback_after_s

    async def acquire(self, ask_for: Callable[[Route], Ask]) -> Granted | Blocked | NeverFits:
        """Wait for a permit of the first route that gives one within its turn, else of any.

        A route that is blocked for longer than a turn, or whose circuit is open, loses its turn unless
        the circuit wants this call for its probe. Blocked is the shortest of those routes' that can ever
        take the call; NeverFits says that there is none. Raises WaitersReleasedError when the process drains.
        """
        if len(self._routes) == 1:
            (only,) = self._routes
            return _on(only, await only.limiter.acquire(ask_for(only)))
        for route in self._routes:
            ask = ask_for(route)
            patience_s = self._patience_s(ask.patience_s)
            permit = None
            if _is_open(route, patience_s):
                ask = replace(ask, patience_s=patience_s)
                permit = await self._take_turn(route, ask, self._fallback_after_s)
            elif route.view.wants_probe():
                # With any patience at all it would be told of the circuit, and never be the probe.
                permit = await self._take_turn(route, replace(ask, patience_s=None), _PROBE_TURN_S)
            if permit is not None:
                return Granted(route=route, permit=permit)
        return await _Race().run([(route, ask_for(route)) for route in self._routes])

    def lead_past(self, refused: Route, patience_s: float | None) -> bool:
        """Whether a call that the route just refused finds it closed and another one open."""
        turns_patience_s = self._patience_s(patience_s)
        others = (route for route in self._routes if route is not refused)
        return not _is_open(refused, turns_patience_s) and any(
            _is_open(other, turns_patience_s) for other in others
        )

    def circuit(self) -> Circuit | None:
        """Return the circuit that is probed first, where every route's is open; None when one is closed."""
        circuits = [route.view.circuit() for route in self._routes]
        known = [circuit for circuit in circuits if circuit is not None]
        if len(known) < len(circuits):
            return None
        return min(known, key=lambda circuit: circuit.next_probe_s)

    def _patience_s(self, patience_s: float | None) -> float:
        """Return how long a route may be blocked without losing its turn."""
        return self._fallback_after_s if patience_s is None else min(self._fallback_after_s, patience_s)

    async def _take_turn(self, route: Route, ask: Ask, turn_s: float) -> Permit | None:
        """Wait for one route's permit; None when its turn is over or it will not give one."""
        try:
            # Its queue may be waited for even by a call that has no patience left for blocks.
            async with asyncio.timeout(turn_s):
                answer = await route.limiter.acquire(ask)
        except TimeoutError:
            return None
        return answer if isinstance(answer, Permit) else None


class _Race:
    """One call that asks several routes at once and takes the first permit."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._winner: Granted | None = None
        self._refusals: list[Blocked | NeverFits] = []
        self._was_released = False

    async def run(self, asks: Sequence[tuple[Route, Ask]]) -> Granted | Blocked | NeverFits:
        """Return the first permit; without any the shortest Blocked."""
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = [group.create_task(self._wait(route, ask)) for route, ask in asks]
        except BaseException:
            # Cancelled between the permit's arrival and our waking up: nobody will make the call.
            if self._winner is not None:
                self._winner.route.limiter.settle(self._winner.permit, NOTHING)
            raise
        if self._winner is not None:
            return self._winner
        if self._was_released:
            raise WaitersReleasedError
        blocked = [refusal for refusal in self._refusals if isinstance(refusal, Blocked)]
        return min(blocked, key=lambda answer: answer.wait_s) if blocked else self._refusals[0]

    async def _wait(self, route: Route, ask: Ask) -> None:
        try:
            answer = await route.limiter.acquire(ask)
        except WaitersReleasedError:
            self._was_released = True
            self._stop_others()
            return
        match answer:
            case Permit() if self._winner is not None:
                route.limiter.settle(answer, NOTHING)  # it came in the same moment as the winner's
            case Permit() as permit:
                self._winner = Granted(route=route, permit=permit)
                self._stop_others()
            case Blocked() | NeverFits():
                self._refusals.append(answer)
            case _:
                assert_never(answer)

    def _stop_others(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()


def _is_open(route: Route, patience_s: float) -> bool:
    return route.view.circuit() is None and route.view.blocked_for_s() <= patience_s


def _on(route: Route, answer: Permit | Blocked | NeverFits) -> Granted | Blocked | NeverFits:
    return Granted(route=route, permit=answer) if isinstance(answer, Permit) else answer
