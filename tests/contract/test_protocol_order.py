"""The whole protocol under chance: G1 (nothing lost, one end) and G4 (in order per key) rest on this."""

from __future__ import annotations

import pytest
import redis.asyncio

from sluicegate.state.fake_state import FakeState
from sluicegate.state.keeping import Keeping
from tests.contract.broken_states import (
    CancelsWhatIsClaimed,
    ClaimsWithoutContent,
    ComparesWithWhatWasSeen,
    CountsAClaimAsAnEnd,
    ForgetsTheFlag,
    HealsNoGate,
    IgnoresGen,
    KeepsGenWhenReopening,
    KnowsNoLostSwitch,
    ParksOnWhatWasSetBack,
    ReopensAgain,
    ReopensWhatIsAnswered,
    SwitchesUnconditionally,
)
from tests.contract.protocol_world import Conduct, Faults, search
from tests.contract.state_stands import FakeStand, RedisStand

ONE_REPLAY = Faults(events=1, takeovers=1, relay_crashes=0, lost_answers=0, replays=1)
ONE_FLUSH = Faults(events=1, takeovers=1, relay_crashes=0, lost_answers=0, flushes=1)
ONE_SET_BACK = Faults(events=1, takeovers=1, relay_crashes=0, lost_answers=0, set_backs=1)
A_LINE_SET_BACK = Faults(events=2, takeovers=1, relay_crashes=0, lost_answers=0, set_backs=1)
ONE_CANCEL = Faults(events=1, takeovers=1, relay_crashes=0, lost_answers=0, cancels=1)
AGAINST_THE_FAKE = [
    pytest.param(Faults(), 1000, id="two-events"),
    pytest.param(Faults(events=3, takeovers=1), 700, id="three-events"),
    pytest.param(Faults(events=1, takeovers=3, lost_answers=2), 1000, id="many-takeovers"),
    pytest.param(Faults(flushes=1), 700, id="two-events-and-a-flush"),
    pytest.param(ONE_FLUSH, 1500, id="one-event-and-a-flush"),
    pytest.param(Faults(large=1, takeovers=3), 1000, id="a-result-too-large"),
    pytest.param(Faults(takeovers=1, replays=1), 700, id="two-events-and-a-replay"),
    pytest.param(Faults(events=1, takeovers=2, replays=2), 400, id="one-event-and-two-replays"),
    pytest.param(Faults(flushes=1, takeovers=1, replays=1), 700, id="a-flush-and-a-replay"),
    pytest.param(Faults(set_backs=1), 700, id="two-events-set-back"),
    pytest.param(Faults(events=1, refusals=3, set_backs=2), 700, id="one-event-set-back-twice"),
    pytest.param(Faults(set_backs=1, flushes=1, replays=1), 500, id="a-set-back-a-flush-and-a-replay"),
    pytest.param(Faults(cancels=1), 700, id="two-events-and-a-cancel"),
    pytest.param(Faults(events=3, takeovers=1, cancels=2), 500, id="three-events-and-two-cancels"),
    pytest.param(Faults(takeovers=1, cancels=2, replays=1), 700, id="cancels-and-a-replay"),
    pytest.param(
        Faults(takeovers=1, cancels=1, replays=1, set_backs=1), 500, id="all-that-an-operator-fears"
    ),
]
AGAINST_REDIS = [
    pytest.param(Faults(), 60, id="two-events"),
    pytest.param(Faults(events=3, takeovers=1), 40, id="three-events"),
    pytest.param(Faults(flushes=1), 40, id="a-flush"),
    pytest.param(Faults(large=1), 40, id="a-result-too-large"),
    pytest.param(Faults(replays=1), 60, id="a-replay"),
    pytest.param(Faults(refusals=3, set_backs=1), 30, id="a-set-back"),
    pytest.param(Faults(cancels=2, replays=1), 30, id="cancels-and-a-replay"),
]


@pytest.mark.parametrize(("faults", "runs"), AGAINST_THE_FAKE)
async def test_nothing_is_lost_ended_twice_out_of_order_or_stuck(faults: Faults, runs: int) -> None:
    """Any interleaving of crash, takeover, zombie, park, release, relay crash and lost answer heals.

    A replay of a dead letter gives it one more end, and never touches what was answered. What was cancelled
    never runs. After a flush of Redis, or when it is set back, still nothing is lost or stuck, an event has
    at most one more end, and no gate stays open.
    """
    violation = await search(FakeStand(Keeping()), seed=1, runs=runs, faults=faults)
    assert violation is None, violation


@pytest.mark.parametrize(("faults", "runs"), AGAINST_REDIS)
async def test_the_real_scripts_hold_the_same_promises(
    redis_client: redis.asyncio.Redis, faults: Faults, runs: int
) -> None:
    """What was searched on the fake is true of the Lua scripts on a real server."""
    # Real time has to pass before a gate is healed.
    stand = RedisStand(redis_client, Keeping(heal_after_ms=30))
    violation = await search(stand, seed=2, runs=runs, faults=faults)
    assert violation is None, violation


async def must_fail(
    kind: type[FakeState] = FakeState, *, faults: Faults | None = None, conduct: Conduct | None = None
) -> str:
    """Search with one rule broken and return what was found."""
    stand = FakeStand(Keeping(), kind)
    violation = await search(stand, seed=1, runs=60_000, faults=faults or Faults(), conduct=conduct)
    assert violation is not None, "the search is too weak to see what this rule is for"
    return str(violation)


async def test_switching_before_the_copy_is_confirmed_loses_events() -> None:
    """Negative control: `live` must not name a copy that may never exist."""
    found = await must_fail(faults=Faults(events=1), conduct=Conduct(switches_before_publishing=True))
    assert "lost" in found


async def test_switching_unconditionally_breaks_the_protocol() -> None:
    """Negative control: a zombie must not bring back a copy that was acked long ago."""
    await must_fail(SwitchesUnconditionally)


async def test_comparing_with_what_was_seen_breaks_the_protocol() -> None:
    """Negative control: a copy released before its switch must be adopted, not called stale."""
    await must_fail(ComparesWithWhatWasSeen)


async def test_a_claim_without_content_gives_an_event_two_ends() -> None:
    """Negative control: who finishes another's claim must publish that very end."""
    assert "ended twice" in await must_fail(ClaimsWithoutContent)


async def test_a_refused_claim_that_is_not_replaced_gives_an_event_two_ends() -> None:
    """Negative control: whoever meets the refusal next would publish another dead letter, or the result."""
    conduct = Conduct(replaces_refused_claims=False)
    assert "ended twice" in await must_fail(faults=Faults(events=1, large=1), conduct=conduct)


async def test_a_claim_counted_as_an_end_loses_events() -> None:
    """Negative control: ended means done, or a crash before the publish loses the event."""
    await must_fail(CountsAClaimAsAnEnd)


@pytest.mark.slow
async def test_without_gen_a_flush_breaks_the_protocol() -> None:
    """Negative control: a zombie from before the flush must not write on the row made after it."""
    await must_fail(IgnoresGen, faults=ONE_FLUSH)


async def test_a_lane_in_which_lower_origins_wait_their_turn_gets_stuck() -> None:
    """Negative control: a follower must not keep its predecessor's copy waiting behind itself."""
    assert "stuck" in await must_fail(conduct=Conduct(lower_origins_overtake=False))


async def test_reopening_what_is_answered_ends_an_event_twice() -> None:
    """Negative control: a parked event may be answered while its replay is on the way."""
    assert "answered" in await must_fail(ReopensWhatIsAnswered, faults=ONE_REPLAY)


async def test_reopening_whatever_counts_ends_an_event_twice() -> None:
    """Negative control: a replay's copy that is delivered again must not give its event another life."""
    assert "more lives" in await must_fail(ReopensAgain, faults=ONE_REPLAY)


async def test_reopening_under_the_same_gen_swallows_the_replay() -> None:
    """Negative control: a zombie that marks the last life's end must not end the next one with it."""
    assert "no end of its own" in await must_fail(KeepsGenWhenReopening, faults=ONE_REPLAY)


async def test_a_copy_made_from_a_replays_copy_must_not_reopen() -> None:
    """Negative control: a zombie's copy whose switch never came would give a dead event another life."""
    conduct = Conduct(only_the_replays_copy_reopens=False)
    assert "more lives" in await must_fail(faults=ONE_REPLAY, conduct=conduct)


async def test_without_the_lost_switch_rule_a_redis_that_is_set_back_loses_events() -> None:
    """Negative control: two switches may be gone, and the copy in Kafka then replaces one nobody knows."""
    faults = Faults(events=1, refusals=3, takeovers=0, relay_crashes=0, lost_answers=0, set_backs=1)
    assert "lost" in await must_fail(KnowsNoLostSwitch, faults=faults)


async def test_without_healing_a_redis_that_is_set_back_holds_followers_up_for_good() -> None:
    """Negative control: what ended since stands open in the gate, and no record of it is left."""
    found = await must_fail(HealsNoGate, faults=A_LINE_SET_BACK)
    assert "stuck" in found or "not healed" in found


async def test_parking_what_an_earlier_server_gave_breaks_the_protocol() -> None:
    """Negative control: the copy may have come and gone since, and the switch waits for it."""
    found = await must_fail(ParksOnWhatWasSetBack, faults=ONE_SET_BACK)
    assert "lost" in found or "not healed" in found


async def test_a_flag_that_is_lost_with_the_next_copy_lets_a_cancelled_event_run() -> None:
    """Negative control: a worker that was at work on the event may park it once more."""
    assert "although it was cancelled" in await must_fail(ForgetsTheFlag, faults=ONE_CANCEL)


async def test_cancelling_what_is_claimed_ends_an_event_twice() -> None:
    """Negative control: too late is too late, the other end may be in Kafka already."""
    assert "ended twice" in await must_fail(CancelsWhatIsClaimed, faults=ONE_CANCEL)
