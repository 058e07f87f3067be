"""Copies and ends: every promise of design section 7, on the fake and on the real scripts."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
import redis.asyncio

from sluicegate.state.api import (
    Behind,
    Cancelled,
    Cancelling,
    CancelVerdict,
    Claimed,
    Copy,
    End,
    EndKind,
    EndVerdict,
    EventRef,
    Finish,
    Lease,
    Memo,
    ParkVerdict,
    Phase,
    Run,
    Stale,
    Standing,
)
from sluicegate.state.keeping import Keeping
from tests.contract.state_stands import FakeStand, RedisStand, Stand, event

INPUT = Copy()
FIRST = Copy(id="1-a", replaces="input")
SECOND = Copy(id="2-b", replaces="1-a")
REPLAYED = Copy(id="1-r", replaces="input", is_replay=True)
RESULT = End(kind=EndKind.RESULT, value=b"\x00{}\xff", headers=(("ce_id", b"r-1"), ("empty", b"")))
DEAD = End(kind=EndKind.DEAD_LETTER, headers=(("reason", b"too-large"),))
HOUR_MS = 3_600_000


@pytest.fixture(params=["fake", "redis"])
def stand(request: pytest.FixtureRequest) -> Stand:
    """Return a state under test with the default keeping times."""
    if request.param == "fake":
        return FakeStand(Keeping())
    client: redis.asyncio.Redis = request.getfixturevalue("redis_client")
    return RedisStand(client, Keeping())


async def run_gen(stand: Stand, ref: EventRef, copy: Copy = INPUT) -> str:
    """Take a record that is expected to run and return the row's gen."""
    verdict = (await stand.state.take(ref, copy)).verdict
    assert isinstance(verdict, Run), verdict
    return verdict.gen


def row_gen(gen: str) -> str:
    """Return what the row itself holds of a verdict's gen, which also names the server."""
    return gen.partition("@")[0]


async def park(stand: Stand, ref: EventRef, new: Copy, gen: str, due_in_ms: int = HOUR_MS) -> int:
    """Park as a worker does and return the due time."""
    due_at_ms = await stand.now_ms() + due_in_ms
    await stand.state.intend_park(ref, due_at_ms)
    old = Copy(id=new.replaces or "input")
    assert await stand.state.park(ref, old, new, gen, due_at_ms) is ParkVerdict.SWITCHED
    return due_at_ms


async def end(stand: Stand, ref: EventRef, gen: str, content: End = RESULT) -> None:
    """Claim and finish as a worker does."""
    assert await stand.state.claim(ref, gen, content) == Claimed(end=content)
    assert await stand.state.finish(ref, gen, content) is EndVerdict.DONE


async def test_a_fresh_record_runs_and_keeps_its_gen_when_delivered_again(stand: Stand) -> None:
    """Redelivery of what was never ended runs again, as the same row."""
    first = await run_gen(stand, event(5))
    assert await run_gen(stand, event(5)) == first
    assert await run_gen(stand, event(6)) != first


async def test_an_input_record_that_was_never_parked_opens_no_gate(stand: Stand) -> None:
    """Order among fresh records is the lane's business: the gate stays empty."""
    await run_gen(stand, event(5))
    assert await stand.open_origins(event(5)) == ()
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Run)


async def test_a_parked_event_counts_by_its_new_copy_alone(stand: Stand) -> None:
    """After the switch the old record is stale and the new one runs with the same gen."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen)
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()
    assert await run_gen(stand, event(5), FIRST) == gen


async def test_a_copy_released_before_its_switch_is_adopted(stand: Stand) -> None:
    """A crash between the confirmation and the switch leaves a copy that replaces the live one."""
    gen = await run_gen(stand, event(5))
    assert await run_gen(stand, event(5), FIRST) == gen
    assert await stand.open_origins(event(5)) == (5,)
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()


async def test_a_copy_that_replaces_another_than_the_live_one_is_stale(stand: Stand) -> None:
    """Two parks of one record made two copies: the one that lost is acked."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen)
    taken = await stand.state.take(event(5), Copy(id="1-other", replaces="input"))
    assert taken.verdict == Stale()
    assert not taken.switch_was_lost


async def test_repeating_a_park_whose_answer_was_lost_still_switches(stand: Stand) -> None:
    """The switch may be repeated: `live` is already the new copy."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await park(stand, event(5), FIRST, gen)
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.SWITCHED


async def test_a_zombie_cannot_switch_an_event_that_moved_on(stand: Stand) -> None:
    """A park from a copy that no longer counts is refused and leaves the live one alone."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await park(stand, event(5), FIRST, gen)
    late = Copy(id="1-late", replaces="input")
    assert await stand.state.park(event(5), INPUT, late, gen, due_at_ms) is ParkVerdict.REFUSED
    assert isinstance((await stand.state.take(event(5), FIRST)).verdict, Run)


async def test_a_park_without_a_row_or_with_another_gen_takes_the_record_again(stand: Stand) -> None:
    """After a flush nobody switches a row that is not the one that was taken."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await stand.now_ms() + 1000
    await stand.flush()
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.TAKE_AGAIN
    await stand.state.intend_park(event(5), due_at_ms)
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.TAKE_AGAIN
    assert await run_gen(stand, event(5)) != gen
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.TAKE_AGAIN


async def test_a_follower_learns_its_nearest_predecessor_and_when_it_is_due(stand: Stand) -> None:
    """Behind names the highest lower open origin with the due time of its live copy."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)))
    verdict = (await stand.state.take(event(6), INPUT)).verdict
    assert isinstance(verdict, Behind)
    due_at_ms = await park(stand, event(6), FIRST, verdict.gen, 2 * HOUR_MS)
    assert (await stand.state.take(event(7), INPUT)).verdict == Behind(
        gen=ANY, predecessor_offset=6, predecessor_due_at_ms=due_at_ms
    )


@pytest.mark.parametrize(
    "other", [event(4), event(9, partition=1), event(9, key="c-2"), event(9, ordered=False)]
)
async def test_only_later_ordered_events_of_key_and_partition_stand_behind(
    stand: Stand, other: EventRef
) -> None:
    """Earlier offsets, other partitions, other keys and unordered streams run."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)))
    assert isinstance((await stand.state.take(other, INPUT)).verdict, Run)


async def test_an_unordered_event_opens_no_gate(stand: Stand) -> None:
    """Streams that do not ask for order pay for none."""
    ref = event(5, ordered=False)
    await park(stand, ref, FIRST, await run_gen(stand, ref))
    await run_gen(stand, ref, FIRST)
    assert await stand.open_origins(ref) == ()


async def test_an_ended_event_is_stale_and_lets_its_followers_go(stand: Stand) -> None:
    """Done closes the origin and silences every record of the event."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen)
    await run_gen(stand, event(5), FIRST)
    await end(stand, event(5), gen)
    assert (await stand.state.take(event(5), FIRST)).verdict == Stale()
    assert (await stand.state.take(event(5), SECOND)).verdict == Stale()
    assert await stand.open_origins(event(5)) == ()
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Run)


async def test_a_claimed_end_is_published_by_whoever_takes_the_record_next(stand: Stand) -> None:
    """A crash after the claim loses nothing: the stored end comes back byte for byte."""
    gen = await run_gen(stand, event(5))
    await stand.state.claim(event(5), gen, RESULT)
    assert (await stand.state.take(event(5), INPUT)).verdict == Finish(gen=gen, end=RESULT)


async def test_the_first_claim_wins_and_the_second_gets_its_content(stand: Stand) -> None:
    """Two runs of one event publish one end."""
    gen = await run_gen(stand, event(5))
    assert await stand.state.claim(event(5), gen, DEAD) == Claimed(end=DEAD)
    assert await stand.state.claim(event(5), gen, RESULT) == Claimed(end=DEAD)


async def test_a_claim_that_cannot_be_published_gives_way_once(stand: Stand) -> None:
    """A result that its topic refused is replaced by the dead letter, and that one by nothing more."""
    gen = await run_gen(stand, event(5))
    await stand.state.claim(event(5), gen, RESULT)
    other = End(kind=EndKind.DEAD_LETTER, value=b"another run's")

    claimed = await stand.state.claim(event(5), gen, DEAD, replaces=EndKind.RESULT)

    assert claimed == Claimed(end=DEAD)
    assert (await stand.state.take(event(5), INPUT)).verdict == Finish(gen=gen, end=DEAD)
    again = await stand.state.claim(event(5), gen, other, replaces=EndKind.RESULT)
    assert again == Claimed(end=DEAD)


async def test_a_replacement_neither_revives_a_done_event_nor_touches_another_row(stand: Stand) -> None:
    """Done stays done, and a row made after a flush is not the one whose claim was refused."""
    gen = await run_gen(stand, event(5))
    await end(stand, event(5), gen)
    done = await stand.state.claim(event(5), gen, DEAD, replaces=EndKind.RESULT)
    assert done is EndVerdict.ALREADY_DONE
    await stand.flush()
    await run_gen(stand, event(5))
    other = await stand.state.claim(event(5), gen, DEAD, replaces=EndKind.RESULT)
    assert other is EndVerdict.TAKE_AGAIN


async def test_the_kind_that_was_published_is_the_kind_that_is_kept(stand: Stand) -> None:
    """A dead letter published for a claimed result is remembered as long as dead letters are."""
    gen = await run_gen(stand, event(5))
    await stand.state.claim(event(5), gen, RESULT)
    assert await stand.state.finish(event(5), gen, DEAD) is EndVerdict.DONE
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(30 * 24 * HOUR_MS, abs=5000)


async def _dead_predecessor(stand: Stand, ref: EventRef) -> int | None:
    verdict = (await stand.state.take(ref, INPUT)).verdict
    assert isinstance(verdict, Run)
    return verdict.dead_predecessor


async def test_followers_of_a_dead_letter_hear_of_it_until_one_has_a_result(stand: Stand) -> None:
    """A recorded follower tells nobody, so the next one hears of it too; a result ends it."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    assert await _dead_predecessor(stand, event(6)) == 5
    recorded = End(kind=EndKind.RECORDED)
    await end(stand, event(6), await run_gen(stand, event(6)), recorded)
    assert await _dead_predecessor(stand, event(7)) == 5
    await end(stand, event(7), await run_gen(stand, event(7)))
    assert await _dead_predecessor(stand, event(8)) is None


async def test_a_dead_letter_is_told_to_later_ordered_events_of_its_key_and_partition_alone(
    stand: Stand,
) -> None:
    """Nobody else was to follow it; an unordered dead letter had no followers."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    assert await _dead_predecessor(stand, event(4)) is None
    assert await _dead_predecessor(stand, event(6, partition=1)) is None
    assert await _dead_predecessor(stand, event(6, key="c-2")) is None
    assert await _dead_predecessor(stand, event(6, ordered=False)) is None
    loose = event(9, key="c-3", ordered=False)
    await end(stand, loose, await run_gen(stand, loose), DEAD)
    assert await _dead_predecessor(stand, event(10, key="c-3")) is None


async def test_after_done_a_zombie_publishes_nothing(stand: Stand) -> None:
    """A claim or finish after done answers so; a park is refused."""
    gen = await run_gen(stand, event(5))
    await end(stand, event(5), gen)
    due_at_ms = await stand.now_ms()
    assert await stand.state.claim(event(5), gen, DEAD) is EndVerdict.ALREADY_DONE
    assert await stand.state.finish(event(5), gen, RESULT) is EndVerdict.ALREADY_DONE
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.REFUSED


async def test_an_end_may_come_from_a_copy_that_no_longer_counts(stand: Stand) -> None:
    """`live` need not be mine: an answer that was paid for is worth publishing."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen)
    await end(stand, event(5), gen)
    assert (await stand.state.take(event(5), FIRST)).verdict == Stale()


async def test_claim_and_finish_make_a_row_that_a_flush_took(stand: Stand) -> None:
    """Without a row the end still counts, and any copy may finish it."""
    gen = await run_gen(stand, event(5))
    await stand.flush()
    assert await stand.state.claim(event(5), gen, RESULT) == Claimed(end=RESULT)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(8 * 24 * HOUR_MS, abs=5000)
    assert (await stand.state.take(event(5), FIRST)).verdict == Finish(gen=gen, end=RESULT)
    await stand.flush()
    assert await stand.state.finish(event(5), gen, RESULT) is EndVerdict.DONE
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()


async def test_claim_and_finish_of_another_row_take_the_record_again(stand: Stand) -> None:
    """A run from before the flush does not decide the end of the row made after it."""
    gen = await run_gen(stand, event(5))
    await stand.flush()
    await run_gen(stand, event(5))
    assert await stand.state.claim(event(5), gen, RESULT) is EndVerdict.TAKE_AGAIN
    assert await stand.state.finish(event(5), gen, RESULT) is EndVerdict.TAKE_AGAIN


async def test_after_a_flush_a_copy_makes_the_row_anew_and_opens_the_gate(stand: Stand) -> None:
    """Whatever copy comes first counts; its followers stand behind it again."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)))
    await stand.flush()
    await run_gen(stand, event(5), FIRST)
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Behind)


async def test_a_cancelled_event_is_dead_lettered_instead_of_run(stand: Stand) -> None:
    """The flag is heeded before the gate, and forgotten with the end."""
    gen = await run_gen(stand, event(5))
    await stand.flag_cancelled(event(5))
    assert (await stand.state.take(event(5), INPUT)).verdict == Cancelled(gen=gen)
    await stand.state.claim(event(5), gen, DEAD)
    assert (await stand.state.take(event(5), INPUT)).verdict == Finish(gen=gen, end=DEAD)


async def test_a_switch_that_redis_lost_is_made_up_for(stand: Stand) -> None:
    """A later copy of a row of an earlier server run counts, and that is reported."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen)
    third = Copy(id="3-c", replaces="2-b")
    assert (await stand.state.take(event(5), third)).verdict == Stale()
    await stand.restart()
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()
    taken = await stand.state.take(event(5), third)
    assert taken.verdict == Run(gen=ANY)
    assert taken.switch_was_lost
    assert (await stand.state.take(event(5), SECOND)).verdict == Stale()


async def test_what_was_taken_from_an_earlier_server_is_taken_again_before_it_is_parked(stand: Stand) -> None:
    """This server may have lost that the event ended since: a switch would open a gate that nobody closes."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await stand.now_ms() + HOUR_MS
    await stand.restart()
    assert await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms) is ParkVerdict.TAKE_AGAIN
    assert await stand.open_origins(event(5)) == ()
    again = await run_gen(stand, event(5))
    assert await stand.state.park(event(5), INPUT, FIRST, again, due_at_ms) is ParkVerdict.SWITCHED


async def test_an_end_reached_under_an_earlier_server_counts(stand: Stand) -> None:
    """What is answered is answered: a restart between Take and the end costs no second call."""
    gen = await run_gen(stand, event(5))
    await stand.restart()
    await end(stand, event(5), gen)
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()


async def test_a_gate_left_open_by_an_earlier_server_heals_a_minute_after_its_due_time(
    stand: Stand,
) -> None:
    """Redis lost the closing: nobody will ever come, so the followers go on, counted."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)), -61_000)
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Behind)
    await stand.restart()
    taken = await stand.state.take(event(6), INPUT)
    assert isinstance(taken.verdict, Run)
    assert taken.gates_healed == 1
    assert await stand.open_origins(event(5)) == ()


async def test_a_gate_of_an_earlier_server_stays_until_its_due_time_is_well_over(stand: Stand) -> None:
    """A restart alone breaks no order: the parked predecessor still waits in its tier."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)), -50_000)
    await stand.restart()
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Behind)


async def test_a_predecessor_delivered_after_the_restart_is_not_healed_away(stand: Stand) -> None:
    """A copy that was taken under this server run is alive however late it is."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)), -90_000)
    await stand.restart()
    await run_gen(stand, event(5), FIRST)
    assert isinstance((await stand.state.take(event(6), INPUT)).verdict, Behind)


async def test_an_open_event_is_remembered_for_its_deadline_and_a_week(stand: Stand) -> None:
    """Open state outlives everything that may still happen to the event."""
    await run_gen(stand, event(5))
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(8 * 24 * HOUR_MS, abs=5000)


async def test_a_results_mark_stays_six_hours(stand: Stand) -> None:
    """An event that was never parked is forgotten soon after its result."""
    await end(stand, event(5), await run_gen(stand, event(5)))
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(6 * HOUR_MS, abs=5000)


async def test_the_mark_of_an_event_that_meant_to_park_outlives_the_copy(stand: Stand) -> None:
    """An intent is enough: the copy may exist although the switch never came."""
    gen = await run_gen(stand, event(5))
    await stand.state.intend_park(event(5), await stand.now_ms() + 30 * HOUR_MS)
    await stand.state.intend_park(event(5), await stand.now_ms() + HOUR_MS)
    await end(stand, event(5), gen)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((30 + 7 * 24) * HOUR_MS, abs=5000)


async def test_a_zombies_intent_after_the_end_prolongs_the_mark(stand: Stand) -> None:
    """The copy that a zombie is about to publish must find the mark."""
    await end(stand, event(5), await run_gen(stand, event(5)))
    await stand.state.intend_park(event(5), await stand.now_ms() + HOUR_MS)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((1 + 7 * 24) * HOUR_MS, abs=5000)


async def test_a_dead_letters_mark_stays_as_long_as_the_dlq(stand: Stand) -> None:
    """A replay may come as long as the dead letter lies there."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(30 * 24 * HOUR_MS, abs=5000)


async def test_a_row_parked_far_ahead_is_there_when_its_copy_comes(stand: Stand) -> None:
    """The switch alone keeps the row until the copy's due time and the horizon."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await stand.now_ms() + 48 * HOUR_MS
    await stand.state.park(event(5), INPUT, FIRST, gen, due_at_ms)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((48 + 7 * 24) * HOUR_MS, abs=5000)
    await end(stand, event(5), gen)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((48 + 7 * 24) * HOUR_MS, abs=5000)


async def test_a_shorter_second_park_does_not_shorten_the_mark(stand: Stand) -> None:
    """A zombie's copy with a later due time may still turn up."""
    gen = await run_gen(stand, event(5))
    await park(stand, event(5), FIRST, gen, 48 * HOUR_MS)
    await park(stand, event(5), SECOND, gen, HOUR_MS)
    await end(stand, event(5), gen)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((48 + 7 * 24) * HOUR_MS, abs=5000)


async def test_the_end_of_an_event_known_by_its_copy_alone_is_marked_for_the_horizon(stand: Stand) -> None:
    """After a flush nobody knows what other copies exist: the mark waits for them."""
    gen = await run_gen(stand, event(5), FIRST)
    await end(stand, event(5), gen)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(7 * 24 * HOUR_MS, abs=5000)


async def test_many_standings_come_in_the_order_asked(stand: Stand) -> None:
    """Running, parked, claimed, ended, cancelled and unknown events, read together and not changed."""
    ran = await run_gen(stand, event(1))
    parked = await run_gen(stand, event(2, key="c-2"))
    due_at_ms = await park(stand, event(2, key="c-2"), FIRST, parked)
    claimed = await run_gen(stand, event(3, key="c-3"))
    await stand.state.claim(event(3, key="c-3"), claimed, RESULT)
    ended = await run_gen(stand, event(4, key="c-4"))
    await end(stand, event(4, key="c-4"), ended, DEAD)
    await stand.flag_cancelled(event(1))
    asked = [
        event(4, key="c-4"),
        event(9),
        event(1),
        event(2, key="c-2"),
        event(3, key="c-3"),
        event(3, partition=1, key="c-3"),
    ]

    found = await stand.state.standings(asked)

    def standing(
        live: str, gen: str, phase: Phase, kind: EndKind | None = None, due_at_ms: int | None = None
    ) -> Standing:
        is_cancelled = gen == ran
        return Standing(
            live=live,
            gen=row_gen(gen),
            phase=phase,
            kind=kind,
            is_cancelled=is_cancelled,
            due_at_ms=due_at_ms,
        )

    assert found == (
        standing("input", ended, Phase.DONE, EndKind.DEAD_LETTER),
        None,
        standing("input", ran, Phase.OPEN),
        standing("1-a", parked, Phase.OPEN, due_at_ms=due_at_ms),
        standing("input", claimed, Phase.CLAIMED, EndKind.RESULT),
        None,
    )
    assert await stand.state.standings(asked) == found


async def test_an_intent_alone_is_a_row_of_which_nothing_counts(stand: Stand) -> None:
    """After a flush a worker's intent may make the row: no copy counts yet."""
    due_at_ms = await stand.now_ms() + HOUR_MS
    await stand.state.intend_park(event(5), due_at_ms)
    assert await stand.state.standings([event(5)]) == (
        Standing(live=None, gen=None, phase=Phase.OPEN, kind=None, is_cancelled=False, due_at_ms=due_at_ms),
    )


async def test_a_replays_copy_reopens_a_dead_letter_with_another_gen(stand: Stand) -> None:
    """It counts from then on, the cancel flag is gone, and whoever worked on the last life takes it again."""
    gen = await run_gen(stand, event(5))
    await end(stand, event(5), gen, DEAD)
    await stand.flag_cancelled(event(5))
    again = await run_gen(stand, event(5), REPLAYED)
    assert again != gen
    assert await stand.state.standings([event(5)]) == (
        Standing(
            live="1-r",
            gen=row_gen(again),
            phase=Phase.OPEN,
            kind=None,
            is_cancelled=False,
            due_at_ms=ANY,
        ),
    )
    assert await stand.state.claim(event(5), gen, RESULT) is EndVerdict.TAKE_AGAIN
    assert await stand.state.finish(event(5), gen, DEAD) is EndVerdict.TAKE_AGAIN
    assert (await stand.state.take(event(5), INPUT)).verdict == Stale()
    await end(stand, event(5), again)


@pytest.mark.parametrize("content", [RESULT, End(kind=EndKind.RECORDED)])
async def test_an_event_that_is_answered_is_never_reopened(stand: Stand, content: End) -> None:
    """Whatever a replay sends: one result an event."""
    await end(stand, event(5), await run_gen(stand, event(5)), content)
    assert (await stand.state.take(event(5), REPLAYED)).verdict == Stale()


async def test_a_replays_copy_reopens_once(stand: Stand) -> None:
    """Delivered again after the event died again it is stale, and so is one that was planned before."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    await end(stand, event(5), await run_gen(stand, event(5), REPLAYED), DEAD)
    assert (await stand.state.take(event(5), REPLAYED)).verdict == Stale()
    other = Copy(id="1-other", replaces="input", is_replay=True)
    assert (await stand.state.take(event(5), other)).verdict == Stale()
    following = Copy(id="2-s", replaces="1-r", is_replay=True)
    await run_gen(stand, event(5), following)


async def test_only_a_replays_copy_reopens(stand: Stand) -> None:
    """A copy whose switch never came finds the event dead, and stays stale."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    assert (await stand.state.take(event(5), FIRST)).verdict == Stale()


async def test_a_claimed_dead_letter_is_finished_and_not_reopened(stand: Stand) -> None:
    """It may not have been published yet: that comes first."""
    gen = await run_gen(stand, event(5))
    await stand.state.claim(event(5), gen, DEAD)
    assert (await stand.state.take(event(5), REPLAYED)).verdict == Finish(gen=gen, end=DEAD)


async def test_a_replays_copy_reopens_a_dead_letter_of_which_no_copy_counts(stand: Stand) -> None:
    """After a flush an end may have made the row: then there is nothing to be replaced."""
    gen = await run_gen(stand, event(5))
    await stand.flush()
    await end(stand, event(5), gen, DEAD)
    assert await run_gen(stand, event(5), REPLAYED) != gen


async def test_a_dead_letters_steps_are_there_for_its_replay(stand: Stand) -> None:
    """What was paid before it died is not paid again."""
    gen = await run_gen(stand, event(5))
    lease = Lease(ref=event(5), step="chunk-1", owner="a")
    await stand.state.begin(lease, "h")
    await stand.state.complete(lease, "h", b"answer")
    await end(stand, event(5), gen, DEAD)
    await run_gen(stand, event(5), REPLAYED)
    assert await stand.state.begin(lease, "h") == Memo(answer=b"answer")


async def test_an_event_replayed_from_the_dlq_neither_waits_nor_is_waited_for(stand: Stand) -> None:
    """Its followers went on without it; an earlier one that is parked does not hold it up."""
    await park(stand, event(4), FIRST, await run_gen(stand, event(4)))
    await end(stand, event(5, ordered=False), await run_gen(stand, event(5, ordered=False)), DEAD)
    loose = event(5, ordered=False)
    gen = await run_gen(stand, loose, REPLAYED)
    await park(stand, loose, Copy(id="2-t", replaces="1-r"), gen)
    assert await stand.open_origins(event(5)) == (4,)


async def test_the_result_of_a_replayed_dead_letter_ends_its_mourning(stand: Stand) -> None:
    """Followers no longer hear of a dead letter that has been answered since; of another they still do."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    loose = event(5, ordered=False)
    await end(stand, loose, await run_gen(stand, loose, REPLAYED))
    assert await _dead_predecessor(stand, event(6)) is None
    await end(stand, event(7), await run_gen(stand, event(7)), DEAD)
    later = event(9, ordered=False)
    await end(stand, later, await run_gen(stand, later))
    assert await _dead_predecessor(stand, event(8)) == 7


async def test_the_result_of_a_replayed_dead_letter_is_remembered_as_long_as_the_letter(stand: Stand) -> None:
    """The letter stays in the DLQ: whoever replays it weeks later must see that it was answered."""
    await end(stand, event(5), await run_gen(stand, event(5)), DEAD)
    await end(stand, event(5), await run_gen(stand, event(5), REPLAYED))
    assert await stand.remembers_for_ms(event(5)) == pytest.approx(30 * 24 * HOUR_MS, abs=5000)


def flagged(live: str | None) -> Cancelling:
    """Return the answer to a wish that is granted."""
    return Cancelling(verdict=CancelVerdict.FLAGGED, live=live)


async def cancel(stand: Stand, ref: EventRef, due_at_ms: int) -> Cancelling:
    """Cancel one event."""
    (answer,) = await stand.state.cancel([(ref, due_at_ms)])
    return answer


async def test_a_parked_event_is_cancelled_by_whoever_takes_its_copy(stand: Stand) -> None:
    """The answer names the copy that counts; asking again changes nothing."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await park(stand, event(5), FIRST, gen)
    assert await cancel(stand, event(5), due_at_ms) == flagged("1-a")
    assert await cancel(stand, event(5), due_at_ms) == flagged("1-a")
    assert (await stand.state.take(event(5), FIRST)).verdict == Cancelled(gen=gen)


async def test_a_copy_handed_on_by_the_canceller_is_adopted_and_ends_the_event(stand: Stand) -> None:
    """It replaces the live one, so nobody waits for the due time; the parked one is stale afterwards."""
    gen = await run_gen(stand, event(5))
    due_at_ms = await park(stand, event(5), FIRST, gen)
    await cancel(stand, event(5), due_at_ms)
    assert (await stand.state.take(event(5), SECOND)).verdict == Cancelled(gen=gen)
    await end(stand, event(5), gen, DEAD)
    assert (await stand.state.take(event(5), FIRST)).verdict == Stale()
    assert await stand.open_origins(event(5)) == ()


async def test_a_cancelled_follower_does_not_wait_for_its_predecessor(stand: Stand) -> None:
    """It is not answered, so there is no order to keep."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)))
    verdict = (await stand.state.take(event(6), INPUT)).verdict
    assert isinstance(verdict, Behind)
    due_at_ms = await park(stand, event(6), FIRST, verdict.gen)
    await cancel(stand, event(6), due_at_ms)
    assert (await stand.state.take(event(6), FIRST)).verdict == Cancelled(gen=verdict.gen)


async def test_an_event_with_an_end_is_not_cancelled(stand: Stand) -> None:
    """A claimed end is published, a done one stays; neither gets a flag that a replay would find."""
    gen = await run_gen(stand, event(5))
    await stand.state.claim(event(5), gen, DEAD)
    late = await cancel(stand, event(5), await stand.now_ms())
    assert late == Cancelling(verdict=CancelVerdict.TOO_LATE, live="input")
    assert (await stand.state.take(event(5), INPUT)).verdict == Finish(gen=gen, end=DEAD)
    await stand.state.finish(event(5), gen, DEAD)
    over = await cancel(stand, event(5), await stand.now_ms())
    assert over == Cancelling(verdict=CancelVerdict.ENDED, live="input")
    (standing,) = await stand.state.standings([event(5)])
    assert standing is not None
    assert not standing.is_cancelled


async def test_after_a_flush_a_parked_event_can_still_be_cancelled(stand: Stand) -> None:
    """Its copy waits in its tier, and the flag waits for it as long as it may."""
    await park(stand, event(5), FIRST, await run_gen(stand, event(5)), 30 * HOUR_MS)
    await stand.flush()
    due_at_ms = await stand.now_ms() + 30 * HOUR_MS
    assert await cancel(stand, event(5), due_at_ms) == flagged(None)
    assert await stand.remembers_for_ms(event(5)) == pytest.approx((30 + 7 * 24) * HOUR_MS, abs=5000)
    assert isinstance((await stand.state.take(event(5), FIRST)).verdict, Cancelled)
