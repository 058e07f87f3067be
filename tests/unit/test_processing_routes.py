"""Which route takes a call, and that no permit is ever lost on the way to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from sluicegate.limiter.api import (
    NOTHING,
    Ask,
    Blocked,
    Cost,
    Dimension,
    Lane,
    NeverFits,
    Permit,
    Signal,
    SignalKind,
    WaitersReleasedError,
)
from sluicegate.limiter.costs import CostModel
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.limiter.profiles import Profile
from sluicegate.processing.routes import Granted, Route, Routes
from tests.unit.processing_world import ScriptedCaller, answer
from tests.waiting import wait_until

TURN_S = 0.01
LONG_S = 1e6  # a turn that never ends in a test
MOST_STEPS = 40
OPENS_AT_STEP = 8  # by then a call waits wherever it is going to wait


def route(limiter: FakeLimiter) -> Route:
    """Return a route named as its scope."""
    return Route(
        name=limiter.scope,
        model="m",
        limiter=limiter,
        view=limiter,
        caller=ScriptedCaller(lambda request: answer()),
        costs=CostModel(Profile.GENERIC),
    )


def ask_of(patience_s: float | None = None, tokens: int = 1) -> Callable[[Route], Ask]:
    """Return what every route is asked."""
    ask = Ask(
        lane=Lane.INTERACTIVE,
        cost=Cost(tokens=tokens),
        origin_timestamp_ms=0,
        patience_s=patience_s,
    )
    return lambda route: ask


def limiters(count: int = 3, **more: int) -> list[FakeLimiter]:
    """Return as many scopes, the preferred one first."""
    return [FakeLimiter(scope=name, **more) for name in ("main", "backup", "last")[:count]]


def routes_of(scopes: list[FakeLimiter], *, turn_s: float = LONG_S) -> Routes:
    """Return the routes over these scopes."""
    return Routes([route(scope) for scope in scopes], fallback_after_s=turn_s)


async def taken(routes: Routes, ask: Callable[[Route], Ask]) -> str:
    """Return the name of the route that granted the call."""
    async with asyncio.timeout(3):
        granted = await routes.acquire(ask)
    assert isinstance(granted, Granted)
    return granted.route.name


# --- Which route ------------------------------------------------------------------------------------


async def test_the_preferred_route_takes_the_call_while_it_is_open() -> None:
    """The others are not even asked."""
    scopes = limiters()
    assert await taken(routes_of(scopes), ask_of()) == "main"
    assert [len(scope.asked) for scope in scopes] == [1, 0, 0]


async def test_one_route_costs_no_task() -> None:
    """Without a fallback a call asks its limiter as if there were no routes, with its own patience."""
    (scope,) = limiters(1)
    before = asyncio.all_tasks()
    scope.block(60)
    waiting = asyncio.ensure_future(routes_of([scope], turn_s=0).acquire(ask_of(None)))
    await wait_until(lambda: scope.waiting == 1)
    assert asyncio.all_tasks() - before == {waiting}
    assert [ask.patience_s for ask in scope.asked] == [None]
    scope.advance(60)
    assert isinstance(await waiting, Granted)


@pytest.mark.parametrize("closed", ["blocked", "circuit"])
async def test_a_closed_route_loses_its_turn_at_once(closed: str) -> None:
    """Blocked for longer than a turn, or with an open circuit, it is not waited for."""
    scopes = limiters()
    scopes[0].block(LONG_S + 1) if closed == "blocked" else scopes[0].open_circuit()
    assert await taken(routes_of(scopes), ask_of()) == "backup"
    assert scopes[0].asked == []


async def test_a_route_blocked_for_less_than_a_turn_is_waited_for() -> None:
    """A short wait for the preferred route is better than another provider."""
    scopes = limiters(2)
    scopes[0].block(4)
    routes = routes_of(scopes, turn_s=5)
    call = asyncio.ensure_future(taken(routes, ask_of()))
    await wait_until(lambda: scopes[0].waiting == 1)
    scopes[0].advance(4)
    assert await call == "main"


async def test_a_block_that_comes_while_it_is_waited_for_ends_the_turn() -> None:
    """The wait's length is known at once, so nobody sits out the rest of the turn."""
    scopes = limiters(2)
    scopes[0].block(4)
    call = asyncio.ensure_future(taken(routes_of(scopes, turn_s=5), ask_of()))
    await wait_until(lambda: scopes[0].waiting == 1)
    scopes[0].block(60)
    assert await call == "backup"


class QueueingLimiter(FakeLimiter):
    """Has others to serve first."""

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Grant a few steps later."""
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().acquire(ask)


async def test_a_call_without_patience_still_waits_for_its_turn() -> None:
    """Patience is for blocks: a mere queue at the preferred route is waited for all the same."""
    scopes = [QueueingLimiter(scope="main"), FakeLimiter(scope="backup")]
    assert await taken(routes_of(scopes), ask_of(patience_s=0)) == "main"


async def test_a_route_that_gives_no_permit_in_its_turn_is_left_for_the_next() -> None:
    """Its ask is cancelled, so nothing stays booked there."""
    scopes = limiters(2)
    scopes[0].block(TURN_S / 2)  # fake time stands still: it gives none
    assert await taken(routes_of(scopes, turn_s=TURN_S), ask_of()) == "backup"
    assert scopes[0].waiting == 0


async def test_when_all_had_their_turn_the_first_permit_of_any_wins() -> None:
    """The losers' asks are cancelled."""
    scopes = limiters()
    for scope in scopes:
        scope.block(60)
    call = asyncio.ensure_future(taken(routes_of(scopes, turn_s=TURN_S), ask_of()))
    await wait_until(lambda: all(scope.waiting for scope in scopes))
    scopes[2].advance(60)
    assert await call == "last"
    assert [scope.waiting for scope in scopes] == [0, 0, 0]


async def test_a_permit_that_comes_with_the_winners_is_given_back() -> None:
    """Two routes that open in the same moment: one call, and the other's permit counts nothing."""
    scopes = limiters(2)
    for scope in scopes:
        scope.block(60)
    call = asyncio.ensure_future(taken(routes_of(scopes, turn_s=TURN_S), ask_of()))
    await wait_until(lambda: all(scope.waiting for scope in scopes))
    for scope in scopes:
        scope.advance(60)
    winner = await call
    for scope in scopes:
        kept = 1 if scope.scope == winner else 0
        assert len(scope.granted) - list(scope.settled.values()).count(NOTHING) == kept


async def test_the_call_that_a_circuit_wants_for_its_probe_goes_there() -> None:
    """Else a fallback that works would keep the preferred route's circuit open for ever."""
    scopes = limiters(2)
    scopes[0].open_circuit()
    routes = routes_of(scopes)
    assert await taken(routes, ask_of()) == "backup"
    scopes[0].advance(5)
    assert await taken(routes, ask_of()) == "main"
    assert await taken(routes, ask_of()) == "backup"
    await scopes[0].report(scopes[0].granted[0], Signal(kind=SignalKind.ALIVE, reason="completed"))
    assert await taken(routes, ask_of()) == "main"


# --- Answers other than a permit --------------------------------------------------------------------


async def test_blocked_everywhere_is_the_shortest_of_all_waits() -> None:
    """An impatient call parks until the first route opens."""
    scopes = limiters()
    for scope, wait_s in zip(scopes, (300, 60, 600), strict=True):
        scope.block(wait_s)
    assert await routes_of(scopes, turn_s=5).acquire(ask_of(5)) == Blocked(wait_s=60)


async def test_a_route_that_can_never_take_the_call_is_left_out() -> None:
    """The call waits for those that can."""
    scopes = [FakeLimiter(scope="main", largest_tokens=10), *limiters(3)[1:]]
    scopes[1].block(60)
    scopes[2].block(300)
    routes = routes_of(scopes, turn_s=5)
    assert await routes.acquire(ask_of(5, tokens=11)) == Blocked(wait_s=60)
    scopes[1].advance(60)
    assert await taken(routes, ask_of(5, tokens=11)) == "backup"


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_a_call_that_fits_no_route_never_fits(is_blocked: bool) -> None:
    """Also while all are blocked: no wait can help."""
    scopes = limiters(largest_tokens=10)
    for scope in scopes:
        scope.block(600 if is_blocked else 0)
    answer = await routes_of(scopes, turn_s=5).acquire(ask_of(5, tokens=11))
    assert answer == NeverFits(dimension=Dimension.TOKENS)


@pytest.mark.parametrize("turn_s", [TURN_S, LONG_S])
async def test_a_drain_lets_a_call_go_wherever_it_waits(turn_s: float) -> None:
    """In a route's turn and in the wait for all of them."""
    scopes = limiters(2)
    for scope in scopes:
        scope.block(60)
    call = asyncio.ensure_future(routes_of(scopes, turn_s=turn_s).acquire(ask_of()))
    most = 1 if turn_s == LONG_S else 2
    await wait_until(lambda: sum(scope.waiting for scope in scopes) == most)
    for scope in scopes:
        scope.release_waiters()
    with pytest.raises(WaitersReleasedError):
        await call
    assert [scope.waiting for scope in scopes] == [0, 0]


# --- Whether a refused call may go elsewhere ----------------------------------------------------------


def test_a_refused_call_is_led_past_a_closed_route_to_an_open_one() -> None:
    """Only if the refusing route is closed for longer than the call would wait there, and another is open."""
    scopes = limiters(2)
    main, backup = (route(scope) for scope in scopes)
    routes = Routes([main, backup], fallback_after_s=5)
    assert not routes.lead_past(main, None)
    scopes[0].block(4)
    assert not routes.lead_past(main, None)
    assert routes.lead_past(main, 3)
    scopes[0].block(60)
    assert routes.lead_past(main, None)
    assert not routes.lead_past(backup, None)
    scopes[1].open_circuit()
    assert not routes.lead_past(main, None)
    assert routes.lead_past(backup, None) is False
    assert not Routes([main], fallback_after_s=5).lead_past(main, None)


# --- No permit is lost --------------------------------------------------------------------------------


# Which routes open together, one group a step of the event loop.
OPENINGS = {
    "all at once": ((0, 1, 2),),
    "one after the other": ((2,), (1,), (0,)),
    "the preferred one alone": ((0,),),
}


@pytest.mark.parametrize("turn_s", [0.0, LONG_S])
@pytest.mark.parametrize("opening", OPENINGS)
async def test_a_call_cancelled_at_any_step_loses_no_permit(opening: str, turn_s: float) -> None:
    """For every step of the event loop: each permit granted is in the caller's hands or given back."""
    outcomes = set()
    for cancel_at in range(MOST_STEPS):
        scopes = limiters()
        for scope in scopes:
            scope.block(60)
        call = asyncio.ensure_future(routes_of(scopes, turn_s=turn_s).acquire(ask_of()))
        groups = list(OPENINGS[opening])
        for step in range(MOST_STEPS):
            if step >= OPENS_AT_STEP and groups:
                for number in groups.pop(0):
                    scopes[number].advance(60)
            if step == cancel_at:
                call.cancel()
            await asyncio.sleep(0)
        kept = await _kept(call)
        outcomes.add(kept)
        granted = sum(len(scope.granted) for scope in scopes)
        given_back = sum(list(scope.settled.values()).count(NOTHING) for scope in scopes)
        assert granted - given_back == kept, f"cancelled at step {cancel_at}"
        assert [scope.waiting for scope in scopes] == [0, 0, 0], f"cancelled at step {cancel_at}"
    assert outcomes == {0, 1}


async def _kept(call: asyncio.Future[Granted | Blocked | NeverFits]) -> int:
    await asyncio.wait({call}, timeout=3)
    assert call.done()
    return 0 if call.cancelled() else int(isinstance(call.result(), Granted))


class LateLimiter(FakeLimiter):
    """Hears its cancellation only when it has its answer: the latest moment there is."""

    async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
        """Wait, cancelled or not."""
        asked = asyncio.ensure_future(super().acquire(ask))
        while not asked.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({asked})
        return asked.result()


async def test_a_permit_that_comes_after_the_winners_is_given_back() -> None:
    """A loser that could not be stopped in time settles its permit as a call that was never made."""
    late, backup = scopes = [LateLimiter(scope="main"), FakeLimiter(scope="backup")]
    for scope in scopes:
        scope.block(60)
    call = asyncio.ensure_future(taken(routes_of(scopes, turn_s=0), ask_of()))
    await wait_until(lambda: all(scope.waiting for scope in scopes))
    backup.advance(60)
    await wait_until(lambda: len(backup.granted) == 1)
    late.advance(60)
    assert await call == "backup"
    assert list(late.settled.values()) == [NOTHING]
    assert backup.settled == {}


async def test_a_failure_of_our_own_in_one_limiter_gives_back_the_others_permit() -> None:
    """A bug must stop the process, and not leave a booking behind as well."""

    class BrokenLimiter(FakeLimiter):
        async def acquire(self, ask: Ask) -> Permit | Blocked | NeverFits:
            await super().acquire(ask)
            raise RuntimeError

    scopes = [BrokenLimiter(scope="main"), FakeLimiter(scope="backup")]
    for scope in scopes:
        scope.block(60)
    call = asyncio.ensure_future(routes_of(scopes, turn_s=0).acquire(ask_of()))
    await wait_until(lambda: all(scope.waiting for scope in scopes))
    for scope in scopes:
        scope.advance(60)
    with pytest.raises(ExceptionGroup):
        await call
    assert len(scopes[1].granted) == 1
    assert len(scopes[1].granted) == list(scopes[1].settled.values()).count(NOTHING)
