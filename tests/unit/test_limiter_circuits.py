"""A scope that cannot work is probed by one call at a time, of one process, until one succeeds."""

from __future__ import annotations

import pytest

from sluicegate.limiter.api import Cost, Dimension, Lane
from sluicegate.limiter.booking import Batch, CircuitReason, News, Quota, Request, SignalCode, Verdict
from tests.unit.limiter_crowd import Crowd
from tests.unit.limiter_process import SECOND_US, Call, Outcome

_QUOTA = Quota(requests_per_minute=1_200)


def _hungry(processes: int = 4) -> Crowd:
    crowd = Crowd(_QUOTA, processes=processes)
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = Cost
    crowd.run(5)
    return crowd


def _news(crowd: Crowd, code: SignalCode, *, event: int = 0, ago_us: int = 0) -> News:
    reason = CircuitReason.MONEY if code is SignalCode.HALTED else CircuitReason.CLOSED
    return News(code=code, started_us=crowd.now_us - ago_us, event=event, reason=reason)


def _down(call: Call) -> Outcome:
    return Outcome(code=SignalCode.DOWN, event=1 + call.booking.number)


def _halted(call: Call) -> Outcome:
    return Outcome(code=SignalCode.HALTED, reason=CircuitReason.CREDENTIALS)


def _opened(crowd: Crowd) -> int:
    """Open the circuit of a crowd and let what was on the wire come back; return when it opened."""
    crowd.provider = _halted
    crowd.run(1)
    assert crowd.state.circuit == CircuitReason.CREDENTIALS
    return crowd.state.circuit_since_us


# --- opening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [CircuitReason.MONEY, CircuitReason.CREDENTIALS, CircuitReason.NOT_FOUND])
def test_one_call_without_money_or_credentials_stops_all(reason: CircuitReason) -> None:
    """No further call of any process starts but those that slept already, and all know why."""
    crowd = _hungry()
    crowd.provider = _halted
    news = News(code=SignalCode.HALTED, started_us=crowd.now_us, reason=reason)
    circuit = crowd.tell(news, index=2).circuit
    assert circuit is not None
    assert (circuit.reason, circuit.since_us) == (reason, crowd.now_us)
    calls = len(crowd.calls)
    crowd.run(4.9)
    assert len(crowd.calls) - calls <= 4
    assert all(process.reply is not None and process.reply.circuit is not None for process in crowd.processes)


def _fail(crowd: Crowd, *, calls: int = 20, events: int = 5, seconds: float = 5, between: int = 0) -> bool:
    """Let calls of two processes fail, evenly over that time; return whether the circuit is open then."""
    circuit = None
    for i in range(calls):
        if between and i == calls // 2:
            crowd.tell(_news(crowd, SignalCode(between)))
        circuit = crowd.tell(_news(crowd, SignalCode.DOWN, event=1 + i % events), index=i % 2).circuit
        crowd.run(seconds / (calls - 1) if i < calls - 1 else 0)
    return circuit is not None


def test_twenty_failures_of_five_events_in_five_seconds_are_an_outage() -> None:
    """The twentieth opens the circuit, and not before."""
    crowd = Crowd(_QUOTA)
    assert not _fail(crowd, calls=19, seconds=10)
    assert crowd.tell(_news(crowd, SignalCode.DOWN, event=1)).circuit is not None
    assert crowd.state.circuit == CircuitReason.OUTAGE


def test_failures_that_are_few_or_of_few_events_or_short_are_no_outage() -> None:
    """Nineteen calls, or four events however often, or four seconds and more calls: the scope stays open."""
    assert _fail(Crowd(_QUOTA))
    assert not _fail(Crowd(_QUOTA), calls=19)
    assert not _fail(Crowd(_QUOTA), events=4, calls=100, seconds=60)
    assert not _fail(Crowd(_QUOTA), calls=100, seconds=4.9)


@pytest.mark.parametrize("code", [SignalCode.ALIVE, SignalCode.RATE_LIMITED, SignalCode.OVERLOADED])
def test_one_answer_among_failures_shows_that_the_provider_is_there(code: SignalCode) -> None:
    """A success, a 429 or an overload between them starts the count, the events and the time anew."""
    crowd = Crowd(_QUOTA)
    assert not _fail(crowd, calls=38, seconds=20, between=code)
    assert crowd.state.failures == 19
    crowd.tell(_news(crowd, code))
    assert crowd.state.failures == 0
    assert not _fail(Crowd(_QUOTA), calls=100, events=4, seconds=60, between=code)


def test_an_outage_stops_a_crowd_within_seconds() -> None:
    """Four processes at 20 calls a second see everything fail: after 5 seconds only probes go."""
    crowd = _hungry()
    crowd.provider = _down
    from_us = crowd.now_us
    crowd.run(60)
    since_us = crowd.state.circuit_since_us
    assert 5 * SECOND_US <= since_us - from_us <= 6 * SECOND_US
    later = [call for call in crowd.calls if call.start_us > since_us]
    assert sum(not call.is_probe for call in later) <= 4


# --- probing ----------------------------------------------------------------------------------------


def test_one_probe_at_a_time_and_a_failed_one_doubles_the_wait() -> None:
    """Over four processes probes go 5, 10, 20, 40, 60, 60 seconds after one another's failure, one by one."""
    crowd = _hungry()
    since_us = _opened(crowd)
    crowd.run(400)
    probes = [call.start_us for call in crowd.calls if call.is_probe]
    ended_us = [since_us, *(start_us + 200_000 for start_us in probes)]
    waits_s = [(start - end) / 1e6 for start, end in zip(probes, ended_us[:-1], strict=True)]
    expected_s = [5, 10, 20, 40, 60, 60, 60, 60, 60]
    assert waits_s[: len(expected_s)] == pytest.approx(expected_s[: len(waits_s)], abs=0.3)
    assert len(waits_s) >= 8
    after = [call for call in crowd.calls if call.start_us > since_us + SECOND_US]
    assert all(call.is_probe for call in after)


def test_while_a_probe_is_on_the_wire_nobody_else_probes() -> None:
    """A probe of 30 seconds stays the only call: its process renews the right, all others wait."""
    crowd = _hungry()
    _opened(crowd)
    crowd.provider = lambda call: Outcome(latency_us=30 * SECOND_US)
    calls = len(crowd.calls)
    crowd.run(34)
    assert [call.is_probe for call in crowd.calls[calls:]] == [True]


def test_a_probe_that_crashed_is_followed_by_another_five_seconds_later() -> None:
    """The right to probe ends with its process: another one probes when its 5 seconds are over."""
    crowd = _hungry()
    _opened(crowd)
    crowd.provider = lambda call: Outcome(latency_us=300 * SECOND_US)
    calls = len(crowd.calls)
    while len(crowd.calls) == calls:
        crowd.run(0.01)
    first = crowd.calls[-1]
    crowd.processes[first.process].crash()
    crowd.provider = lambda call: Outcome()
    crowd.run(4.9)
    assert len(crowd.calls) == calls + 1
    crowd.run(1.1)
    second = crowd.calls[calls + 1]
    assert (second.is_probe, second.process != first.process) == (True, True)
    assert second.start_us - first.start_us == pytest.approx(5 * SECOND_US, abs=SECOND_US)


def test_a_process_where_nobody_waits_is_offered_the_right_and_keeps_it() -> None:
    """Of two that apply one has the right; its next call is the probe, and the other's calls wait."""
    crowd = Crowd(_QUOTA)
    crowd.tell(_news(crowd, SignalCode.HALTED))
    apply = Batch(wants_probe=True, keeps_probe=True)
    assert not crowd.send(0, apply).has_probe
    crowd.run(5)
    assert crowd.send(0, apply).has_probe
    for _ in range(8):
        crowd.run(1)
        assert (crowd.send(1, apply).has_probe, crowd.send(0, apply).has_probe) == (False, True)
    ask = Batch(requests=(Request(cost=Cost()),), keeps_probe=True)
    waiting = crowd.send(1, ask).answers[0]
    assert (waiting.verdict, waiting.dimension) == (Verdict.RETRY, Dimension.CIRCUIT)
    assert 4 * SECOND_US < waiting.wait_us <= 5 * SECOND_US
    reply = crowd.send(0, ask)
    assert (reply.answers[0].verdict, reply.answers[0].dimension) == (Verdict.BOOKED, Dimension.CIRCUIT)
    assert not reply.has_probe
    assert crowd.send(0, ask).answers[0].verdict is Verdict.RETRY


def test_a_right_that_is_not_kept_goes_to_another_after_five_seconds() -> None:
    """A process that stopped asking holds nobody up, and a probe that was not made is another's at once."""
    crowd = Crowd(_QUOTA)
    crowd.tell(_news(crowd, SignalCode.HALTED))
    apply = Batch(wants_probe=True, keeps_probe=True)
    crowd.run(5)
    assert crowd.send(0, apply).has_probe
    crowd.run(4.9)
    assert not crowd.send(1, apply).has_probe
    crowd.run(0.2)
    assert crowd.send(1, apply).has_probe
    assert not crowd.send(0, apply).has_probe
    crowd.send(0, Batch(news=(_news(crowd, SignalCode.PROBE_UNUSED),)))
    assert not crowd.send(0, apply).has_probe
    crowd.send(1, Batch(news=(_news(crowd, SignalCode.PROBE_UNUSED),)))
    assert crowd.send(0, apply).has_probe


# --- closing ----------------------------------------------------------------------------------------


def test_results_of_calls_from_before_the_opening_close_nothing() -> None:
    """They tell of another time: neither a success closes the circuit nor a failure puts the probe off."""
    crowd = Crowd(_QUOTA)
    crowd.tell(_news(crowd, SignalCode.HALTED))
    opened = crowd.state
    crowd.run(1)
    for code in (SignalCode.ALIVE, SignalCode.RATE_LIMITED, SignalCode.DOWN, SignalCode.HALTED):
        reply = crowd.tell(_news(crowd, code, ago_us=2 * SECOND_US, event=7))
        assert reply.circuit is not None
        assert reply.circuit.probe_at_us == opened.probe_at_us
    assert crowd.tell(_news(crowd, SignalCode.ALIVE)).circuit is None


def test_a_refused_probe_ends_an_outage_but_tells_nothing_of_money() -> None:
    """A 429 comes from a provider that is there; whether the money is back it does not say."""
    outage = Crowd(_QUOTA)
    assert _fail(outage)
    outage.run(1)
    assert outage.tell(_news(outage, SignalCode.RATE_LIMITED)).circuit is None
    money = Crowd(_QUOTA)
    money.tell(_news(money, SignalCode.HALTED))
    money.run(6)
    probe = News(code=SignalCode.RATE_LIMITED, started_us=money.now_us, is_probe=True)
    circuit = money.tell(probe).circuit
    assert circuit is not None
    assert circuit.probe_at_us == money.now_us + 10 * SECOND_US


def test_after_a_circuit_closes_the_rate_climbs_from_half() -> None:
    """Everybody has waited: in the first moment a call is charged twice its cost, ten seconds later once."""
    crowd = Crowd(Quota(requests_per_minute=600))
    crowd.tell(News(code=SignalCode.HALTED, started_us=crowd.now_us, reason=CircuitReason.MONEY))
    crowd.tell(News(code=SignalCode.ALIVE, started_us=crowd.now_us))
    asked = Batch(requests=(Request(cost=Cost()),))
    assert crowd.send(0, asked).answers[0].stretch == 2
    crowd.run(5)
    assert crowd.send(0, asked).answers[0].stretch == pytest.approx(4 / 3)
    crowd.run(5)
    assert crowd.send(0, asked).answers[0].stretch == 1


def test_a_probe_that_succeeds_lets_all_go_on_and_the_next_outage_starts_afresh() -> None:
    """All processes resume within 1.5 s, at half the rate first; the next circuit's probe waits 5 s again."""
    crowd = _hungry()
    _opened(crowd)
    crowd.run(20)
    crowd.provider = lambda call: Outcome()
    crowd.run(30)
    probe = [call for call in crowd.calls if call.is_probe][-1]
    closed_us = probe.start_us + 200_000
    later = [call for call in crowd.calls if call.start_us >= closed_us]
    for process in crowd.processes:
        assert any(c.process == process.index and c.start_us < closed_us + 1_500_000 for c in later)
    early = [call for call in later if closed_us + SECOND_US <= call.start_us < closed_us + 3 * SECOND_US]
    assert len(early) == pytest.approx(2 * 20 * 0.6, abs=3)
    assert crowd.state.circuit == 0
    circuit = crowd.tell(_news(crowd, SignalCode.HALTED)).circuit
    assert circuit is not None
    assert circuit.probe_at_us == crowd.now_us + 5 * SECOND_US
