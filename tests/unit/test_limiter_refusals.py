"""What refusals and overloads do to all processes: blocks, a lower rate, a slow start, fewer at once."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest

from sluicegate.limiter.api import Cost, Dimension, Lane
from sluicegate.limiter.booking import Batch, CircuitReason, News, Quota, Request, SignalCode, Verdict
from tests.unit.limiter_crowd import Crowd
from tests.unit.limiter_process import SECOND_US, Call, Outcome

_QUOTA = Quota(requests_per_minute=1_200)


def _hungry(quota: Quota = _QUOTA, *, processes: int = 4, width: int = 10**9) -> Crowd:
    crowd = Crowd(quota, processes=processes, width=width)
    for process in crowd.processes:
        process.hungry[Lane.INTERACTIVE] = Cost
    return crowd


def _refused(crowd: Crowd, *, ago_us: int = 0, retry_after_s: float = 0) -> News:
    """Return the news of a call that began so long ago and was refused."""
    return News(
        code=SignalCode.RATE_LIMITED,
        started_us=crowd.now_us - ago_us,
        retry_after_us=round(retry_after_s * SECOND_US),
    )


def _rate_per_s(crowd: Crowd, from_us: int, seconds: float) -> float:
    return sum(from_us <= call.start_us < from_us + seconds * SECOND_US for call in crowd.calls) / seconds


# --- blocks -----------------------------------------------------------------------------------------


def test_a_refusal_blocks_every_process_for_as_long_as_the_provider_asked() -> None:
    """One process is told to wait 7 seconds: of each other one the next call may go, as it sleeps already."""
    crowd = _hungry()
    crowd.run(5)
    crowd.provider = lambda call: Outcome(code=SignalCode.RATE_LIMITED, retry_after_us=7 * SECOND_US)
    refused = len(crowd.calls)
    crowd.run(0.05)
    crowd.provider = lambda call: Outcome()
    crowd.run(10)
    told_us = crowd.calls[refused].start_us + 200_000
    asleep = [call for call in crowd.calls if told_us < call.start_us < told_us + 7 * SECOND_US]
    assert len(asleep) == len({call.process for call in asleep}) <= 3
    later = [call for call in crowd.calls if call.start_us >= told_us + 7 * SECOND_US]
    assert later[0].start_us - (told_us + 7 * SECOND_US) <= 100_000
    assert {call.process for call in later} == {0, 1, 2, 3}


def test_a_later_and_shorter_block_ends_nothing() -> None:
    """A provider that says 30 seconds and then 1 is waited for 30; one that says nothing, for a second."""
    crowd = Crowd(_QUOTA)
    reply = crowd.tell(_refused(crowd))
    assert reply.blocked_until_us - crowd.now_us == SECOND_US
    reply = crowd.tell(_refused(crowd, retry_after_s=30))
    until_us = crowd.now_us + 30 * SECOND_US
    crowd.run(1)
    assert reply.blocked_until_us == until_us
    assert crowd.tell(_refused(crowd, retry_after_s=1)).blocked_until_us == until_us


def test_a_start_that_was_booked_behind_a_block_is_kept_by_nobody() -> None:
    """A booking confirmed during a block is booked anew at its end, and names the block as the cause."""
    crowd = Crowd(_QUOTA)
    crowd.tell(_refused(crowd, retry_after_s=10), index=1)
    answer = crowd.send(0, Batch(requests=(Request(cost=Cost()),))).answers[0]
    assert (answer.verdict, answer.dimension) == (Verdict.BOOKED, Dimension.BLOCKED)
    assert answer.wait_us == 10 * SECOND_US


# --- the rate ---------------------------------------------------------------------------------------


def test_refusals_of_calls_in_flight_together_lower_the_rate_once() -> None:
    """Ten calls on the wire at once, all refused one after the other by four processes: one cut, not ten."""
    crowd = _hungry()
    crowd.run(2)
    first = crowd.tell(_refused(crowd))
    for i in range(9):
        crowd.run(0.01)
        assert crowd.tell(_refused(crowd, ago_us=(i + 1) * 10_000), index=i % 4).safe == first.safe < 1
    crowd.run(2)
    assert crowd.tell(_refused(crowd)).safe < first.safe


def test_a_refusal_of_a_call_that_began_within_the_block_lowers_the_rate_no_more() -> None:
    """Fifteen processes had booked and could not know: one cut in all. A call of after it is another."""
    crowd = _hungry(processes=16)
    crowd.run(5)
    first = crowd.tell(_refused(crowd, retry_after_s=10))
    for i in range(1, 16):
        crowd.run(0.05)
        assert crowd.tell(_refused(crowd, retry_after_s=10), index=i).safe == first.safe < 1
    until_us = crowd.state.blocked_until_us
    assert crowd.state.cut_until_us == until_us == crowd.now_us + 10 * SECOND_US
    crowd.run((until_us - crowd.now_us) / SECOND_US)
    assert crowd.tell(_refused(crowd)).safe < 0.95 * first.safe


def test_a_refusal_that_comes_late_does_not_hide_the_calls_that_knew_of_its_burst() -> None:
    """Of a call that began after the block it lowers the rate, though an older one's refusal came between."""
    crowd = _hungry()
    crowd.run(5)
    first = crowd.tell(_refused(crowd))
    crowd.run(1.5)
    assert crowd.tell(_refused(crowd, ago_us=2 * SECOND_US), index=1).safe == first.safe
    assert crowd.tell(_refused(crowd, ago_us=200_000), index=2).safe < first.safe


def test_the_cut_is_larger_the_fewer_calls_went_since_the_last_one() -> None:
    """1.8 calls' worth of those since the last cut, a tenth at most: after 20 calls 9 %, after 600 0.3 %."""
    cuts = []
    for seconds in (0.2, 1, 5, 30):
        crowd = _hungry(processes=1)
        crowd.run(10)
        crowd.tell(_refused(crowd))
        crowd.run(1 + seconds)
        before, calls = crowd.state.safe, crowd.state.newest - crowd.state.cut_newest
        crowd.tell(_refused(crowd))
        after = crowd.state.safe
        regrown = min(1.0, before + 0.01 * (int(1 + seconds) // 10))
        cuts.append(1 - after / regrown)
        assert cuts[-1] == pytest.approx(min(0.1, 1.8 / calls))
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] == pytest.approx(0.1)
    assert cuts[-1] < 0.005


def test_the_rate_falls_to_half_at_the_least() -> None:
    """However often it is refused, the rate is lowered to half of the limit and no further."""
    crowd = Crowd(_QUOTA)
    for _ in range(10):
        crowd.run(1)  # when the block of the one before is over
        crowd.tell(_refused(crowd))
    assert crowd.state.safe == 0.5
    assert crowd.tell().safe == 0.5


def test_a_ramp_error_halves_the_rate() -> None:
    """A provider that says 'slow down' gets half the calls, however many went well before."""
    crowd = _hungry()
    crowd.run(30)
    crowd.tell(News(code=SignalCode.RAMP_LIMITED, started_us=crowd.now_us, retry_after_us=1))
    from_us = crowd.now_us + SECOND_US
    crowd.run(9)
    assert crowd.state.safe == 0.5
    assert _rate_per_s(crowd, from_us, 8) == pytest.approx(10, rel=0.03)


def test_the_rate_regrows_by_a_hundredth_each_ten_seconds() -> None:
    """From a half to the whole in 500 seconds, in steps that each reply tells."""
    crowd = Crowd(_QUOTA)
    crowd.tell(News(code=SignalCode.RAMP_LIMITED, started_us=crowd.now_us))
    for steps, after_s in ((0, 9.9), (1, 0.2), (2, 10), (49, 470), (50, 10), (50, 100)):
        crowd.run(after_s)
        assert crowd.tell().safe == pytest.approx(0.5 + 0.01 * steps)


def test_after_an_overloads_block_the_rate_climbs_from_half() -> None:
    """10 seconds' climb after a block of 20, whatever is answered: half, three quarters, all of it."""
    crowd = _hungry()
    crowd.run(20)
    crowd.send(
        0, Batch(news=(News(code=SignalCode.OVERLOADED, started_us=0, retry_after_us=20 * SECOND_US),))
    )
    from_us = crowd.now_us + 20 * SECOND_US
    crowd.run(40)
    assert _rate_per_s(crowd, from_us, 1) == pytest.approx(20 * 0.525, rel=0.12)
    assert _rate_per_s(crowd, from_us + 4_500_000, 1) == pytest.approx(20 * 0.75, rel=0.12)
    assert _rate_per_s(crowd, from_us + 11 * SECOND_US, 5) == pytest.approx(20, rel=0.02)
    assert crowd.state.safe == 1


def test_after_a_429_the_first_answer_ends_the_climb() -> None:
    """Half the rate until a call that began after the block is answered, then all of it at once."""
    crowd = _hungry(processes=1)
    crowd.run(60)
    crowd.provider = lambda call: Outcome(latency_us=2 * SECOND_US)
    crowd.tell(_refused(crowd, retry_after_s=20))
    from_us = crowd.now_us + 20 * SECOND_US
    crowd.run(40)
    assert crowd.state.ramp_us == 0
    assert _rate_per_s(crowd, from_us, 2) == pytest.approx(20 * 0.55, rel=0.05)
    assert _rate_per_s(crowd, from_us + 2_200_000, 5) == pytest.approx(20, rel=0.03)


def test_an_answer_to_a_call_of_before_the_block_does_not_end_the_climb() -> None:
    """It left before the quota was used up; nor does any answer after a ramp limit or an outage."""
    crowd = _hungry()
    crowd.run(5)
    crowd.tell(_refused(crowd, retry_after_s=10))
    crowd.run(10.1)
    assert crowd.state.ramp_us == 5 * SECOND_US
    for code in (SignalCode.RAMP_LIMITED, SignalCode.HALTED):
        other = Crowd(_QUOTA)
        news = News(code=code, started_us=other.now_us, retry_after_us=10 * SECOND_US)
        other.tell(replace(news, reason=CircuitReason.MONEY))
        for _ in range(2):  # the first closes the circuit
            other.run(10.1)
            other.tell(News(code=SignalCode.ALIVE, started_us=other.now_us))
        assert other.state.circuit == 0
        assert other.state.ramp_us > 0


# --- an outage of the quota --------------------------------------------------------------------------


@pytest.mark.parametrize(("per_s", "processes", "least"), [(7, 4, 0.95), (50, 16, 0.98)])
def test_what_a_quota_gives_after_an_outage_is_used(per_s: int, processes: int, least: float) -> None:
    """All is refused for 10 s: one call a process at most, and the next 30 s are used, climb included."""
    crowd = _hungry(Quota(requests_per_minute=60 * per_s), processes=processes)
    crowd.run(15)
    end_us = crowd.now_us + 10 * SECOND_US
    crowd.provider = lambda call: (
        Outcome(code=SignalCode.RATE_LIMITED, latency_us=20_000, retry_after_us=end_us - call.start_us)
        if call.start_us < end_us
        else Outcome(latency_us=400_000)
    )
    crowd.run(10)
    refused = sum(end_us - 10 * SECOND_US <= call.start_us < end_us for call in crowd.calls)
    crowd.run(30)
    assert 1 <= refused <= processes
    assert _rate_per_s(crowd, end_us, 30) >= least * per_s


# --- overload ---------------------------------------------------------------------------------------


class _Server:
    """Answers so many calls at once, each after half a second; any other is overloaded at once."""

    def __init__(self, crowd: Crowd, capacity: int) -> None:
        self.capacity, self.refused_us = capacity, list[int]()
        self._crowd, self._ends_us = crowd, list[int]()

    def __call__(self, call: Call) -> Outcome:
        while self._ends_us and self._ends_us[0] <= call.start_us:
            heapq.heappop(self._ends_us)
        if len(self._ends_us) >= self.capacity:
            self.refused_us.append(call.start_us)
            return Outcome(latency_us=20_000, code=SignalCode.OVERLOADED)
        latency_us = self._crowd.random.randrange(400_000, 600_000)
        heapq.heappush(self._ends_us, call.start_us + latency_us)
        return Outcome(latency_us=latency_us)


def _answered_per_s(crowd: Crowd, server: _Server, from_us: int) -> float:
    calls = sum(call.start_us >= from_us for call in crowd.calls)
    return (
        (calls - sum(at_us >= from_us for at_us in server.refused_us)) * SECOND_US / (crowd.now_us - from_us)
    )


def test_calls_at_once_follow_what_the_provider_can_bear() -> None:
    """Near 20 at once with few refusals, and near 40 within a minute after the provider has doubled."""
    crowd = _hungry(Quota(), width=40)
    crowd.provider = server = _Server(crowd, 20)
    for capacity in (20, 40):
        server.capacity = capacity
        crowd.run(60)
        from_us, refused = crowd.now_us, len(server.refused_us)
        crowd.run(60)
        calls = sum(call.start_us >= from_us for call in crowd.calls)
        assert 0.8 <= _answered_per_s(crowd, server, from_us) * 0.5 / capacity <= 1
        assert (len(server.refused_us) - refused) / calls <= 0.02


def test_overloads_of_calls_in_flight_together_lower_the_ceiling_once() -> None:
    """Thirty calls on the wire, ten refused: seven tenths of the thirty may go on, not a few."""
    crowd = _hungry(Quota(concurrency=30), processes=3, width=30)
    crowd.provider = lambda call: Outcome(latency_us=30 * SECOND_US)
    crowd.run(1)
    began_us = crowd.now_us - SECOND_US
    for i in range(10):
        crowd.run(0.01)
        crowd.tell(News(code=SignalCode.OVERLOADED, started_us=began_us), index=i % 3)
    assert crowd.state.ceiling == 21
    crowd.run(1)
    crowd.tell(News(code=SignalCode.OVERLOADED, started_us=crowd.now_us))
    assert crowd.state.ceiling == 14


def test_an_overload_is_forgotten_after_ten_minutes() -> None:
    """Ten minutes after the last overload nothing bounds the calls at once any more."""
    crowd = Crowd(Quota())
    crowd.send(0, Batch(news=(News(code=SignalCode.OVERLOADED, started_us=crowd.now_us),)))
    crowd.run(599)
    assert crowd.tell().is_leasing
    crowd.run(2)
    assert not crowd.tell().is_leasing


def test_a_refusal_where_no_rate_is_known_bounds_the_calls_at_once() -> None:
    """Without a limit to lower, a 429 lets fewer calls be on the wire; beside one it does not."""
    for quota, is_bounded in ((Quota(), True), (_QUOTA, False)):
        crowd = Crowd(quota)
        assert crowd.tell(_refused(crowd)).is_leasing is is_bounded
