"""Durable steps and histories: G5 (paid once) rests on these, on the fake and on the real scripts."""

from __future__ import annotations

import pytest
import redis.asyncio

from sluicegate.state.api import (
    AlreadyEnded,
    Busy,
    Copy,
    End,
    EndKind,
    EndVerdict,
    EventRef,
    HistoryEntry,
    Lease,
    Leased,
    Memo,
    Run,
)
from sluicegate.state.keeping import Keeping
from tests.contract.state_stands import FakeStand, RedisStand, Stand, event

KEEPING = Keeping(lease_ms=60, history_entries=4, history_bytes=400)
DAY_MS = 86_400_000


@pytest.fixture(params=["fake", "redis"])
def stand(request: pytest.FixtureRequest) -> Stand:
    """Return a state under test with short leases and a small history."""
    if request.param == "fake":
        return FakeStand(KEEPING)
    client: redis.asyncio.Redis = request.getfixturevalue("redis_client")
    return RedisStand(client, KEEPING)


def lease(owner: str, step: str = "reply", ref: EventRef | None = None) -> Lease:
    """Return one attempt's lease of a step."""
    return Lease(ref=ref or event(5), step=step, owner=owner)


def line(text: str, speaker: str = "customer") -> HistoryEntry:
    """Return a line of a conversation."""
    return HistoryEntry(speaker=speaker, text=text)


async def end(stand: Stand, ref: EventRef, kind: EndKind, *lines: HistoryEntry) -> None:
    """Let an event end, with what it leaves in the history."""
    verdict = (await stand.state.take(ref, Copy())).verdict
    assert isinstance(verdict, Run)
    content = End(kind=kind, history=lines)
    assert await stand.state.finish(ref, verdict.gen, content) is EndVerdict.DONE


async def test_a_completed_step_is_not_run_again(stand: Stand) -> None:
    """The next attempt, by whomever, gets the stored answer."""
    assert await stand.state.begin(lease("a"), "h1") == Leased()
    await stand.state.complete(lease("a"), "h1", b"\x00answer")
    assert await stand.state.begin(lease("b"), "h1") == Memo(answer=b"\x00answer")


async def test_a_step_in_flight_is_waited_for(stand: Stand) -> None:
    """A second taker learns how long the first one's lease lasts; other steps are free."""
    await stand.state.begin(lease("a"), "h1")
    busy = await stand.state.begin(lease("b"), "h1")
    assert isinstance(busy, Busy)
    assert 0 < busy.wait_ms <= 60
    assert await stand.state.begin(lease("b", "other"), "h1") == Leased()


async def test_asking_again_after_a_lost_answer_keeps_the_lease(stand: Stand) -> None:
    """An attempt is never busy with itself."""
    await stand.state.begin(lease("a"), "h1")
    assert await stand.state.begin(lease("a"), "h1") == Leased()


async def test_a_lapsed_lease_goes_to_the_next_taker(stand: Stand) -> None:
    """A dead worker holds a step up for its lease alone."""
    await stand.state.begin(lease("a"), "h1")
    await stand.pass_time(70)
    assert await stand.state.begin(lease("b"), "h1") == Leased()


async def test_a_renewed_lease_does_not_lapse(stand: Stand) -> None:
    """A long call keeps its step; renewing touches nobody else's lease."""
    await stand.state.begin(lease("a"), "h1")
    await stand.state.begin(lease("c", "other"), "h1")
    await stand.pass_time(40)
    asked = [lease("a"), lease("b"), lease("b", "other"), lease("b", "absent")]
    assert await stand.state.renew(asked) == (True, False, False, False)
    await stand.pass_time(40)
    assert isinstance(await stand.state.begin(lease("b"), "h1"), Busy)
    assert await stand.state.begin(lease("b", "other"), "h1") == Leased()
    assert await stand.state.begin(lease("d", "absent"), "h1") == Leased()


async def test_renewing_nothing_is_fine(stand: Stand) -> None:
    """An idle process has no leases."""
    assert await stand.state.renew([]) == ()


async def test_a_released_step_is_free_at_once(stand: Stand) -> None:
    """A cancelled attempt keeps nobody waiting; it cannot release what another took."""
    await stand.state.begin(lease("a"), "h1")
    await stand.state.release(lease("b"))
    assert isinstance(await stand.state.begin(lease("b"), "h1"), Busy)
    await stand.state.release(lease("a"))
    assert await stand.state.begin(lease("b"), "h1") == Leased()


async def test_the_first_answer_stays_even_from_a_lapsed_lease(stand: Stand) -> None:
    """A slow call that was given up was paid for all the same."""
    await stand.state.begin(lease("a"), "h1")
    await stand.pass_time(70)
    await stand.state.begin(lease("b"), "h1")
    await stand.state.complete(lease("a"), "h1", b"first")
    await stand.state.complete(lease("b"), "h1", b"second")
    assert await stand.state.begin(lease("c"), "h1") == Memo(answer=b"first")


async def test_an_answer_to_another_request_is_dropped_and_told(stand: Stand) -> None:
    """A changed prompt must not be answered with the old one's memo."""
    await stand.state.begin(lease("a"), "h1")
    await stand.state.complete(lease("a"), "h1", b"old")
    assert await stand.state.begin(lease("b"), "h2") == Leased(mismatch=True)
    await stand.state.complete(lease("b"), "h2", b"new")
    assert await stand.state.begin(lease("c"), "h2") == Memo(answer=b"new")


@pytest.mark.parametrize("kind", [EndKind.RESULT, EndKind.RECORDED])
async def test_a_result_takes_the_contents_of_its_steps(stand: Stand, kind: EndKind) -> None:
    """No answer of a model outlives its event, not even a zombie's late one."""
    await stand.state.begin(lease("a"), "h1")
    await stand.state.complete(lease("a"), "h1", b"answer")
    await end(stand, event(5), kind)
    assert await stand.remembers_steps_for_ms(event(5)) is None
    await stand.state.complete(lease("b"), "h1", b"late")
    assert await stand.remembers_steps_for_ms(event(5)) is None


async def test_nobody_pays_for_a_step_of_an_event_that_ended(stand: Stand) -> None:
    """A zombie that waited for a lease is told to stop."""
    await stand.state.begin(lease("a"), "h1")
    await end(stand, event(5), EndKind.RESULT)
    assert await stand.state.begin(lease("b"), "h1") == AlreadyEnded()


async def test_a_dead_letters_steps_stay_as_long_as_the_dlq(stand: Stand) -> None:
    """A replay does not pay again for what was completed, late answers included."""
    await stand.state.begin(lease("a"), "h1")
    await end(stand, event(5), EndKind.DEAD_LETTER)
    await stand.state.complete(lease("a"), "h1", b"late")
    assert await stand.remembers_steps_for_ms(event(5)) == pytest.approx(30 * DAY_MS, abs=5000)


async def test_open_steps_outlive_the_deadline_by_a_week(stand: Stand) -> None:
    """An event parked for long finds its completed steps and its history, whichever came first."""
    await stand.state.begin(lease("a"), "h1")
    await stand.state.complete(lease("a", ref=event(6)), "h1", b"answer")
    await stand.state.earlier(event(7))
    for offset in (5, 6, 7):
        kept_ms = await stand.remembers_steps_for_ms(event(offset))
        assert kept_ms == pytest.approx(8 * DAY_MS, abs=5000)


async def test_the_history_holds_what_earlier_events_left_in_order(stand: Stand) -> None:
    """Both sides of the conversation come back as they were said."""
    said = (line("näh\n1 x 2 ", "agent"), line(""), line("\x00"))
    await end(stand, event(1), EndKind.RECORDED, said[0])
    await end(stand, event(2), EndKind.RESULT, *said[1:])
    assert await stand.state.earlier(event(5)) == said
    assert await stand.state.earlier(event(5, key="c-2")) == ()


async def test_the_history_of_an_event_is_fixed_at_its_first_look(stand: Stand) -> None:
    """A retry sends the same prompt, or its memoised steps would not match."""
    await end(stand, event(1), EndKind.RESULT, line("one"))
    assert await stand.state.earlier(event(5)) == (line("one"),)
    await end(stand, event(2), EndKind.RESULT, line("two"))
    assert await stand.state.earlier(event(5)) == (line("one"),)
    assert await stand.state.earlier(event(6)) == (line("one"), line("two"))


async def test_even_an_empty_history_is_fixed(stand: Stand) -> None:
    """Having been nothing is a fact too."""
    assert await stand.state.earlier(event(5)) == ()
    await end(stand, event(2), EndKind.RESULT, line("two"))
    assert await stand.state.earlier(event(5)) == ()


async def test_later_events_of_the_partition_are_left_out(stand: Stand) -> None:
    """An event that is replayed or overtaken sees no answer from its own future."""
    await end(stand, event(7), EndKind.RESULT, line("later"))
    await end(stand, event(9, partition=1), EndKind.RESULT, line("elsewhere"))
    assert await stand.state.earlier(event(5)) == (line("elsewhere"),)


async def test_a_repeated_finish_appends_once(stand: Stand) -> None:
    """A lost answer or a zombie does not double a line."""
    content = End(kind=EndKind.RESULT, history=(line("once"),))
    verdict = (await stand.state.take(event(1), Copy())).verdict
    assert isinstance(verdict, Run)
    assert await stand.state.finish(event(1), verdict.gen, content) is EndVerdict.DONE
    assert await stand.state.finish(event(1), verdict.gen, content) is EndVerdict.ALREADY_DONE
    assert await stand.state.earlier(event(5)) == (line("once"),)


async def test_a_long_conversation_keeps_its_newest_lines(stand: Stand) -> None:
    """The history is bounded by entries."""
    for offset in range(6):
        await end(stand, event(offset), EndKind.RESULT, line(str(offset)))
    assert await stand.state.earlier(event(9)) == tuple(line(str(offset)) for offset in (2, 3, 4, 5))


async def test_long_lines_push_older_ones_out(stand: Stand) -> None:
    """The history is bounded by bytes, oldest lines first; one line too long leaves nothing."""
    for offset in range(3):
        await end(stand, event(offset), EndKind.RESULT, line(str(offset) * 150))
    assert await stand.state.earlier(event(5)) == (line("1" * 150), line("2" * 150))
    await end(stand, event(6), EndKind.RESULT, line("x" * 500))
    assert await stand.state.earlier(event(9)) == ()
