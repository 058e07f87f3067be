"""The Lua script does what the reference says, on a real Redis."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluicegate.limiter.api import Cost, Lane
from sluicegate.limiter.booking import (
    Batch,
    BookingRef,
    CircuitReason,
    GiveBack,
    News,
    Observation,
    ProcessReport,
    Quota,
    Request,
    Settlement,
    SignalCode,
)
from sluicegate.limiter.link import BookingLink
from sluicegate.limiter.reading import read_stored
from sluicegate.limiter.reference import book
from sluicegate.limiter.stored import FAILING_EVENTS, HOURS, DayState, ScopeState, Stored, Ticket
from sluicegate.limiter.wire import process_hash
from sluicegate.state.connecting import connect
from tests.contract.limiter_scope import redis_now_us, redis_run_id, store

_T = TypeVar("_T")
_SECOND_US = 1_000_000
_HOUR_US = 3_600 * _SECOND_US
_ME = "agreeing"  # whose batches no other test has sent: the script remembers the last one

_costs = st.builds(
    Cost,
    requests=st.integers(0, 3),
    tokens=st.integers(0, 5_000),
    input_tokens=st.integers(0, 3_000),
    output_tokens=st.integers(0, 500),
    micro_dollars=st.integers(0, 2_000),
)
_extras = st.builds(
    Cost,
    requests=st.integers(0, 1),
    tokens=st.integers(-4_000, 4_000),
    input_tokens=st.integers(-2_000, 2_000),
    output_tokens=st.integers(-500, 500),
    micro_dollars=st.integers(-1_000, 1_000),
)
_quotas = st.builds(
    Quota,
    requests_per_minute=st.sampled_from([None, 2, 7, 60, 3000.5]),
    tokens_per_minute=st.sampled_from([None, 1_000, 4_001, 250_000]),
    input_tokens_per_minute=st.sampled_from([None, None, 2_500]),
    output_tokens_per_minute=st.sampled_from([None, None, 450, 10_000]),
    requests_per_day=st.sampled_from([None, None, 20, 1_000]),
    tokens_per_day=st.sampled_from([None, None, 30_000]),
    dollars_per_day=st.sampled_from([None, None, 0.01]),
    concurrency=st.sampled_from([None, None, 1, 3]),
    burst_s=st.sampled_from([0.0, 0.05, 1.0, 60.0]),
    bulk_share=st.sampled_from([0.0, 0.1, 0.5]),
    strict_window_s=st.sampled_from([0.0, 0.0, 60.0]),
)
# Generation 1 is that of the stored state; 0 and 2 are foreign.
_generations = st.sampled_from([0, 1, 1, 1, 2])
_shifts = st.integers(-3 * _SECOND_US, 70 * _SECOND_US)


def _bookings(now_us: int) -> st.SearchStrategy[BookingRef]:
    return st.builds(
        BookingRef,
        generation=_generations,
        number=st.integers(0, 6),
        stretch=st.sampled_from([1.0, 1.25, 2.0]),
        start_us=st.sampled_from([now_us - _SECOND_US, now_us - 2 * _HOUR_US, now_us - 30 * _HOUR_US]),
    )


def _batches(now_us: int) -> st.SearchStrategy[Batch]:
    bookings = _bookings(now_us)
    moments = st.sampled_from([now_us - 3_600 * _SECOND_US, now_us - 2 * _SECOND_US, now_us + _SECOND_US])
    news = st.builds(
        News,
        code=st.sampled_from(SignalCode),
        started_us=moments,
        retry_after_us=st.sampled_from([0, 300_001, 20 * _SECOND_US]),
        reason=st.sampled_from([CircuitReason.MONEY, CircuitReason.CREDENTIALS]),
        event=st.integers(0, 7),
        is_probe=st.booleans(),
    )
    observations = st.builds(
        Observation,
        dimension=st.integers(0, 3),
        extra_us=st.sampled_from([0, 40_000, 900_000, 5 * _SECOND_US]),
        raised_before_us=st.sampled_from([0, 100_000]),
        limit=st.sampled_from([0.0, 0.0, 7.0, 800.0, 250_000.0]),
    )
    reports = st.builds(ProcessReport, in_flight=st.integers(0, 30))
    return st.builds(
        Batch,
        give_backs=st.lists(st.builds(GiveBack, booking=bookings, cost=_costs), max_size=2).map(tuple),
        settlements=st.lists(
            st.builds(
                Settlement,
                booking=bookings,
                extra=_extras,
                is_released=st.booleans(),
                is_alive=st.booleans(),
                duration_us=st.sampled_from([0, 150_000, 7_000_003]),
            ),
            max_size=2,
        ).map(tuple),
        news=st.one_of(st.just(()), st.lists(news, max_size=3).map(tuple)),
        observations=st.one_of(st.just(()), st.lists(observations, max_size=2).map(tuple)),
        renewals=st.lists(bookings, max_size=2).map(tuple),
        requests=st.lists(
            st.builds(Request, cost=_costs, lane=st.sampled_from(Lane), booking=bookings), max_size=4
        ).map(tuple),
        report=st.one_of(st.none(), reports),
        block_us=st.sampled_from([0, 0, 0, 1, 3 * _SECOND_US]),
        horizon_us=st.sampled_from([0, 2 * _SECOND_US, 60 * _SECOND_US]),
        lead_us=st.sampled_from([0, 700, 100_000]),
        largest=st.sampled_from([(0.0, 0.0, 0.0, 0.0), (1.0, 900.0, 500.0, 200.0)]),
        held=st.tuples(st.integers(0, 3), st.integers(0, 2)),
        is_hungry=st.booleans(),
        wants_probe=st.booleans(),
        keeps_probe=st.booleans(),
    )


@st.composite
def _stored(draw: st.DrawFn, now_us: int, run_id: str) -> Stored:
    if draw(st.integers(0, 5)) == 0:
        return Stored()
    around = st.sampled_from([0, now_us - _SECOND_US, now_us + 2 * _SECOND_US])
    four = st.tuples(_shifts, _shifts, _shifts, _shifts)
    # Half of the states have nothing in the way, so that what comes after a block or a circuit is seen too.
    is_calm = draw(st.booleans())
    circuit = 0 if is_calm else draw(st.sampled_from([0, 0, 1, 2]))
    hour = now_us // _HOUR_US + draw(st.sampled_from([-40, -3, 0, 1]))
    used = st.lists(st.integers(0, 40).map(float), min_size=HOURS, max_size=HOURS).map(tuple)
    a, b, c, d = (min(shift_us, 0) if is_calm else shift_us for shift_us in draw(four))
    return Stored(
        scope=ScopeState(
            run_id=run_id if is_calm else draw(st.sampled_from([run_id, run_id, run_id, "0" * 40])),
            generation=1,
            newest=draw(st.sampled_from([0, 1, 2, 5, 900])),
            last_now_us=now_us
            + draw(
                st.sampled_from([-_SECOND_US, 0, *([] if is_calm else [5 * _SECOND_US, 25 * _SECOND_US])])
            ),
            blocked_until_us=now_us
            + draw(st.sampled_from([-_SECOND_US, -_SECOND_US, *([] if is_calm else [20 * _SECOND_US])])),
            cut_until_us=draw(
                st.sampled_from([0, now_us - 4 * _SECOND_US, now_us - _SECOND_US, now_us + 2 * _SECOND_US])
            ),
            cut_newest=draw(st.integers(0, 3)),
            burst_at_us=draw(st.sampled_from([0, now_us - 3 * _SECOND_US])),
            safe=draw(st.sampled_from([1.0, 1.0, 0.81, 0.5])),
            safe_at_us=now_us - draw(st.sampled_from([0, 25 * _SECOND_US])),
            ramp_from_us=now_us + draw(st.sampled_from([-4 * _SECOND_US, 20 * _SECOND_US])),
            ramp_us=draw(st.sampled_from([0, 10 * _SECOND_US])),
            ramp_code=draw(st.sampled_from([0, 1, 1, 2, 3])),
            ceiling=draw(st.sampled_from([0.0, 0.0, 1.0, 2.4])),
            ceiling_top=draw(st.sampled_from([1.2, 5.0])),
            ceiling_at_us=now_us - draw(st.sampled_from([0, 700 * _SECOND_US])),
            call_us=draw(st.sampled_from([0.0, 333_333.5])),
            interactive_at_us=draw(around),
            hungry_until_us=draw(around),
            bulk_until_us=draw(around),
            failures=draw(st.sampled_from([0, 3, 19, 25])),
            failing_since_us=now_us - draw(st.sampled_from([_SECOND_US, 6 * _SECOND_US])),
            failing_events=draw(st.sampled_from([(0,) * FAILING_EVENTS, (1, 2, 3, 4, 0), (1, 2, 3, 4, 5)])),
            circuit=circuit,
            circuit_since_us=now_us - 3 * _SECOND_US if circuit else 0,
            probe_at_us=draw(around) if circuit else 0,
            probe_until_us=draw(around) if circuit else 0,
            probe_delay_us=draw(st.sampled_from([5, 40])) * _SECOND_US if circuit else 0,
            probe_holder=draw(st.sampled_from([0, process_hash(_ME), 7])) if circuit else 0,
            probe_number=draw(st.integers(0, 3)) if circuit else 0,
            tats_us=(now_us + a, now_us + b, now_us + c, now_us + d),
            shares_us=(draw(around), draw(around), draw(around), draw(around)),
            learnt=(draw(st.sampled_from([0.0, 0.0, 50.0])), draw(st.sampled_from([0.0, 900.0])), 0.0, 0.0),
            raised_us=(0, 200_000, 0, 0),
            usual=(1.0, draw(st.sampled_from([0.0, 2_500.5])), 0.0, 20.0),
        ),
        leases={f"other:1:{n}": now_us + draw(_shifts) for n in range(draw(st.integers(0, 3)))},
        tickets=draw(
            st.dictionaries(
                st.sampled_from([f"{queue}:{name}" for queue in (0, 1, 2) for name in (_ME, "a", "b", "c")]),
                st.builds(
                    Ticket,
                    taken_us=st.sampled_from([now_us - 2 * _SECOND_US, now_us - 950_000, now_us - 300_000]),
                    held=st.integers(0, 3),
                    until_us=st.sampled_from([now_us - 1, now_us + 10 * _SECOND_US]),
                ),
            )
        ),
        days=DayState(hour=hour, used=(draw(used), draw(used), draw(used))) if draw(st.booleans()) else None,
    )


def test_lua_and_reference_agree(redis_url: str) -> None:
    """Any batches on any state give the same replies and leave the same state as the reference."""
    runner = asyncio.Runner()
    client = connect(redis_url, max_connections=4, timeout_s=2.0)

    def run(work: Callable[[], Awaitable[_T]]) -> _T:
        async def call() -> _T:
            return await work()

        return runner.run(call())

    run_id = run(lambda: redis_run_id(client))
    sequences = itertools.count(1)

    @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), quota=_quotas)
    def agree(data: st.DataObject, quota: Quota) -> None:
        now_us = run(lambda: redis_now_us(client))
        stored = data.draw(_stored(now_us, run_id))
        batches = data.draw(st.lists(_batches(now_us), min_size=1, max_size=4))

        async def compare() -> None:
            nonlocal stored
            await store(client, "main", stored)
            link = BookingLink(client, scope="main", quota=quota, process_id=_ME, timeout_s=2.0)
            for batch in batches:
                reply = await link.send(batch, next(sequences))
                stored, expected = book(
                    stored,
                    batch,
                    quota,
                    clock_us=reply.now_us,
                    run_id=run_id,
                    me=_ME,
                    me_hash=process_hash(_ME),
                )
                assert reply == expected
                found = await read_stored(client, "main")
                assert _compared(found, reply.now_us) == _compared(stored, reply.now_us)
                stored = replace(stored, scope=found.scope)

        run(compare)

    try:
        agree()
    finally:
        run(client.aclose)
        runner.close()


def _compared(stored: Stored, now_us: int) -> Stored:
    """A batch that changes nothing writes nothing, and leases that ended may still be kept."""
    assert stored.scope is not None
    return replace(
        stored,
        scope=replace(stored.scope, last_now_us=0, checked_at_us=0),
        leases={call: end for call, end in stored.leases.items() if end > now_us},
        tickets={name: each for name, each in stored.tickets.items() if each.until_us > now_us},
    )
