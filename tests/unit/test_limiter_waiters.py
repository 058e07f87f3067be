"""The order in which waiters book, and that those who left are not kept."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.limiter.api import Ask, Cost, Lane
from sluicegate.limiter.waiters import LaneQueue, TenantTurns, Waiter, WaiterQueues


def _waiter(
    loop: asyncio.AbstractEventLoop,
    origin_ms: int = 0,
    *,
    tenant: str | None = None,
    tokens: int = 1,
    lane: Lane = Lane.BULK,
    is_retry: bool = False,
) -> Waiter:
    ask = Ask(
        lane=lane,
        cost=Cost(tokens=tokens),
        origin_timestamp_ms=origin_ms,
        tenant=tenant,
        is_retry=is_retry,
    )
    return Waiter(ask=ask, answer=loop.create_future(), asked_at=0.0, blocked_before_s=0.0)


def _weigh(cost: Cost) -> float:
    return float(cost.tokens)


def _drain(turns: TenantTurns) -> list[Waiter]:
    drained = []
    while (waiter := turns.pop()) is not None:
        drained.append(waiter)
    return drained


async def test_waiters_that_left_during_a_long_block_are_swept_out() -> None:
    """Rebalances behind a head that cannot book leave a bounded queue, and everybody who stayed in order."""
    loop = asyncio.get_running_loop()
    lane = LaneQueue(_weigh)
    stayed = [_waiter(loop, origin_ms) for origin_ms in range(100)]
    for waiter in reversed(stayed):
        lane.push(waiter)

    for origin_ms in range(1000, 51_000):
        gone = _waiter(loop, origin_ms, tenant=f"t-{origin_ms}")
        lane.push(gone)
        gone.answer.cancel()

    assert len(lane) <= 2048
    assert [lane.pop() for _ in stayed] == stayed
    assert lane.pop() is None


async def test_a_tenant_with_much_work_does_not_starve_another() -> None:
    """Of a thousand waiters of one tenant and ten of another that came later, the ten go in turn."""
    loop = asyncio.get_running_loop()
    turns = TenantTurns(_weigh)
    for n in range(1000):
        turns.push(_waiter(loop, n, tenant="much"))
    for n in range(10):
        turns.push(_waiter(loop, 5000 + n, tenant="little"))

    first = [turns.pop() for _ in range(20)]

    assert Counter(waiter.ask.tenant for waiter in first if waiter) == {"much": 10, "little": 10}


async def test_turns_are_by_cost_not_by_count() -> None:
    """A tenant whose calls are ten times as large gets a tenth of the calls."""
    loop = asyncio.get_running_loop()
    turns = TenantTurns(_weigh)
    for n in range(200):
        turns.push(_waiter(loop, n, tenant="large", tokens=1000))
        turns.push(_waiter(loop, n, tenant="small", tokens=100))

    first = [turns.pop() for _ in range(110)]

    assert Counter(waiter.ask.tenant for waiter in first if waiter) == {"large": 10, "small": 100}


async def test_a_pause_earns_no_credit() -> None:
    """Who comes back after others were served starts level with them."""
    loop = asyncio.get_running_loop()
    turns = TenantTurns(_weigh)
    for n in range(100):
        turns.push(_waiter(loop, n, tenant="steady"))
    for _ in range(50):
        turns.pop()
    for n in range(50):
        turns.push(_waiter(loop, n, tenant="late"))

    first = [turns.pop() for _ in range(20)]

    assert Counter(waiter.ask.tenant for waiter in first if waiter) == {"steady": 10, "late": 10}


async def test_a_turn_that_got_nothing_is_not_charged() -> None:
    """A waiter put back again and again is still next of its tenant, and its tenant loses nothing."""
    loop = asyncio.get_running_loop()
    turns = TenantTurns(_weigh)
    first = _waiter(loop, 0, tenant="a")
    for waiter in (first, _waiter(loop, 1, tenant="a"), _waiter(loop, 0, tenant="b")):
        turns.push(waiter)

    for _ in range(5):
        popped = turns.pop()
        assert popped is not None
        turns.put_back(popped)

    assert Counter(waiter.ask.tenant for waiter in _drain(turns)[:2]) == {"a": 1, "b": 1}


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 3), st.integers(1, 50), st.integers(0, 100)),
            st.tuples(st.just("pop"), st.just(0), st.just(0), st.just(0)),
            st.tuples(st.just("bounce"), st.just(0), st.just(0), st.just(0)),
            st.tuples(st.just("leave"), st.integers(0, 40), st.just(0), st.just(0)),
        ),
        max_size=120,
    )
)
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is pushed, put back and left: each who stays is served once, a tenant's oldest first."""
    loop = asyncio.new_event_loop()
    try:
        turns = TenantTurns(_weigh)
        waiting: list[Waiter] = []
        for step, who, tokens, origin_ms in steps:
            match step:
                case "push":
                    waiter = _waiter(loop, origin_ms, tenant=f"t-{who}", tokens=tokens)
                    turns.push(waiter)
                    waiting.append(waiter)
                case "leave" if waiting:
                    waiting.pop(who % len(waiting)).answer.cancel()
                case "bounce":
                    if (head := turns.pop()) is not None:
                        turns.put_back(head)
                case "pop":
                    served = turns.pop()
                    assert (served is None) is (not waiting)
                    if served is not None:
                        own = [w for w in waiting if w.ask.tenant == served.ask.tenant]
                        oldest = min(w.ask.origin_timestamp_ms for w in own)
                        assert served.ask.origin_timestamp_ms == oldest
                        waiting.remove(served)
                case _:
                    pass
        assert set(turns) == set(waiting)
        assert sorted(map(id, _drain(turns))) == sorted(map(id, waiting))
    finally:
        loop.close()


async def test_lanes_then_retries_then_turns() -> None:
    """An interactive retry goes first, then fresh interactive work, then bulk in the same order."""
    loop = asyncio.get_running_loop()
    queues = WaiterQueues(_weigh)
    wanted = [
        _waiter(loop, 9, lane=Lane.INTERACTIVE, is_retry=True),
        _waiter(loop, 1, lane=Lane.INTERACTIVE),
        _waiter(loop, 8, is_retry=True),
        _waiter(loop, 0),
    ]
    for waiter in reversed(wanted):
        queues.push(waiter)

    assert queues.head() is wanted[0]
    assert [queues.pop() for _ in wanted] == wanted
