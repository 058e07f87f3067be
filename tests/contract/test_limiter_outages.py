"""Redis goes away in every way that it knows, under two processes that never stop asking.

What is promised each time: nothing is granted that was not booked before, no window ever holds more than
the limit allows, calls go again soon, and an operator is told once what is the matter.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import pytest
from structlog.testing import capture_logs

from sluicegate.local.redis_server import RedisServer
from sluicegate.state.connecting import connect
from tests.contract.limiter_crew import PROCESSES, REQUESTS, SCOPES, TOKENS, USED_TOKENS, Crew, most_beyond
from tests.contract.limiter_faults import (
    BUSY,
    EMPTY,
    FAILOVER,
    FAILOVER_AT_ONCE,
    GUARD_S,
    HUNG,
    OLDER_DATA,
    OUT_OF_MEMORY,
    PASSWORD,
    READ_ONLY,
    REFUSED,
    SLOW,
    TOO_SLOW,
    WRONG_PASSWORD,
    Fault,
    Passage,
    pass_through,
)
from tests.contract.limiter_scope import open_scope
from tests.fixtures.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

_LIMITERS = PROCESSES * len(SCOPES)
_TIMEOUT_S = 0.25
# A booking is confirmed before its call if that is more than a second after it was made.
_LONGEST_USE_S = 1.0
# A process books ahead what the quota starts in one round trip, and no round trip is longer than the
# timeout.
_MOST_BOOKED = _LIMITERS * math.ceil(_TIMEOUT_S * REQUESTS.per_s + 1)
_GOING_AGAIN_S = 2.0
# One call that the machine woke late may come close to its successor.
_SLACK_CALLS = 1
_LONGEST_STALL_S = 0.2
# What a machine that stood still explains by itself says nothing of a limiter: it is tried again.
_ATTEMPTS = 3
# A server that is up may be seen by a process before it is by the test that started it.
_SEEN_EARLIER_S = 0.2


def _assert_never_over(passage: Passage) -> None:
    for starts in passage.crew.starts.values():
        assert most_beyond(starts, REQUESTS) <= _SLACK_CALLS
        assert most_beyond(starts, TOKENS, each=USED_TOKENS) <= _SLACK_CALLS * USED_TOKENS


def _is_the_machines(passage: Passage) -> bool:
    """Whether the machine stood still, or woke calls so late that those alone come too close."""
    late_s = passage.crew.most_late_s
    beyond = max(most_beyond(starts, REQUESTS) for starts in passage.crew.starts.values())
    return late_s >= _LONGEST_STALL_S or _SLACK_CALLS < beyond <= _SLACK_CALLS + REQUESTS.per_s * late_s


def _assert_going_again(passage: Passage, *, guard_s: float) -> None:
    pauses_s = passage.pauses_s()
    assert min(pauses_s) >= guard_s - _SEEN_EARLIER_S
    assert max(pauses_s) <= guard_s + _GOING_AGAIN_S


async def _passed(fault: Fault) -> tuple[Passage, list[Any]]:
    """Go through a fault, again if the machine stood still; return the passage and what was logged."""
    for attempt in itertools.count(1):
        with capture_logs() as logs:
            passage = await pass_through(fault)
        if attempt == _ATTEMPTS or not _is_the_machines(passage):
            return passage, list(logs)
    raise AssertionError("count() never ends")


async def _lose_redis(fault: Fault, error: str, caplog: pytest.LogCaptureFixture) -> None:
    """Go through a fault, and assert all that is promised; `error` is what each limiter must name."""
    passage, logs = await _passed(fault)

    _assert_never_over(passage)
    assert len(passage.between(passage.away_at, passage.back_at)) <= _MOST_BOOKED
    assert passage.between(passage.away_at + _LONGEST_USE_S, passage.back_at) == []
    _assert_going_again(passage, guard_s=GUARD_S if fault.is_other_run else 0.0)
    assert passage.crew.most_late_s < _LONGEST_STALL_S

    assert (passage.was_up, passage.was_up_while_away) == ([1] * PROCESSES, [0] * PROCESSES)
    told = [entry["error"] for entry in logs if entry["log_level"] == "warning"]
    named = [text for text in told if f"({error})" in text]
    assert len(named) == _LIMITERS
    # That connections were cut may be noticed, and told, before the reason for it.
    assert all("(ConnectionError)" in text for text in told if text not in named)
    assert len(told) <= 2 * _LIMITERS
    assert PASSWORD not in f"{logs} {caplog.text}"


async def test_a_refused_connection_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """A killed server that comes back with all its data."""
    await _lose_redis(REFUSED, "ConnectionError", caplog)


async def test_a_hung_redis_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """It takes connections and commands, and answers none until later."""
    await _lose_redis(HUNG, "TimeoutError", caplog)


async def test_a_redis_slower_than_the_timeout_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """It does all it is asked, and each answer comes too late."""
    await _lose_redis(TOO_SLOW, "TimeoutError", caplog)


async def test_a_read_only_redis_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """It was made a replica of a server that is not there."""
    await _lose_redis(READ_ONLY, "ReadOnlyError", caplog)


async def test_a_redis_without_memory_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """It refuses writes and evicts nothing."""
    await _lose_redis(OUT_OF_MEMORY, "OutOfMemoryError", caplog)


async def test_a_redis_busy_with_a_script_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody's endless script runs until it is killed."""
    await _lose_redis(BUSY, "ResponseError BUSY", caplog)


async def test_a_wrong_password_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """The password was changed under the processes, and back."""
    await _lose_redis(WRONG_PASSWORD, "AuthenticationError", caplog)


async def test_a_restart_with_older_data_is_guarded(caplog: pytest.LogCaptureFixture) -> None:
    """The last second's bookings are forgotten, and no call comes on top of theirs."""
    await _lose_redis(OLDER_DATA, "ConnectionError", caplog)


async def test_a_restart_without_data_is_guarded(caplog: pytest.LogCaptureFixture) -> None:
    """An empty Redis is not a full bucket."""
    await _lose_redis(EMPTY, "ConnectionError", caplog)


async def test_a_failover_to_a_replica_that_lags_is_guarded(caplog: pytest.LogCaptureFixture) -> None:
    """The address moves to another server, whose data are a second old."""
    await _lose_redis(FAILOVER, "ConnectionError", caplog)


async def test_a_failover_in_no_time_is_guarded() -> None:
    """In no scope is another server's state trusted because it is fresh, or because another scope asked."""
    passage, _ = await _passed(FAILOVER_AT_ONCE)

    _assert_never_over(passage)
    last_booked_at = passage.back_at + _MOST_BOOKED / len(SCOPES) / REQUESTS.per_s
    assert passage.between(last_booked_at, passage.back_at + GUARD_S - _SEEN_EARLIER_S) == []
    for starts in passage.crew.starts.values():
        assert any(last_booked_at < at < passage.back_at + GUARD_S + _GOING_AGAIN_S for at in starts)


async def test_a_redis_slower_than_usual_is_used() -> None:
    """Within the timeout nothing pauses, and neither its beginning nor its end sends a call too many."""
    passage, logs = await _passed(SLOW)

    assert passage.was_up_while_away == [1] * PROCESSES
    assert len(passage.between(passage.away_at, passage.back_at)) > 30
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []
    _assert_never_over(passage)


async def test_a_process_that_comes_while_redis_is_slow_gets_in() -> None:
    """Opening a connection takes several round trips: they need not fit into one call's timeout."""
    crew = Crew()
    with RedisServer() as server:
        async with (
            TcpProxy(server.port) as proxy,
            connect(server.url, max_connections=1, timeout_s=2.0) as admin,
        ):
            for scope in SCOPES:
                await open_scope(admin, scope)
            proxy.latency_s = 0.1
            async with crew.at_work(f"redis://127.0.0.1:{proxy.port}/0"), asyncio.timeout(3):
                await crew.more(5)
