"""What a replay means, and what it does with an event, against brute force and against Take."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.replay.candidates import (
    AlreadySent,
    LeftOut,
    Send,
    Unfit,
    decide,
    outgoing,
)
from consumers.replay.filters import Facts, Filters, Matcher, attempts_range, moment_ms
from sluicegate.records import Headers, Origin, Record
from sluicegate.retry.headers import ReplaySource, parse_retry_headers
from sluicegate.state.api import Copy, End, EndKind, Phase, Run, Stale, Standing
from sluicegate.state.fake_state import FakeState
from tests.contract.state_stands import counted_ids
from tests.unit.replay_letters import (
    DUE,
    HOUR_MS,
    INPUT,
    NOW_MS,
    OWN_ID,
    candidate,
    candidates,
    facts,
    filters,
    letter,
)

# --- filters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW_MS - 90_000),
        ("2h", NOW_MS - 2 * HOUR_MS),
        ("3d", NOW_MS - 72 * HOUR_MS),
        ("2027-01-15T08:00", NOW_MS),
        ("2027-01-15T08:00:00Z", NOW_MS),
        ("2027-01-15T09:00:00+01:00", NOW_MS),
    ],
)
def test_a_moment_is_a_span_ago_or_an_iso_time(text: str, expected: int) -> None:
    """UTC where no zone is named."""
    assert moment_ms(text, NOW_MS) == expected


@pytest.mark.parametrize("text", ["yesterday", "2 h", "-2h", "2w", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    """Nothing is guessed: a wrong time would send the wrong events."""
    with pytest.raises(ValueError, match="must be a time"):
        moment_ms(text, NOW_MS)


@pytest.mark.parametrize(
    ("text", "expected"), [(None, (0, None)), ("3", (3, 3)), ("3+", (3, None)), ("2-5", (2, 5))]
)
def test_a_range_of_attempts(text: str | None, expected: tuple[int, int | None]) -> None:
    """Exactly, at least, or between two numbers."""
    assert attempts_range(text) == expected


@pytest.mark.parametrize("text", ["", "three", "5-2", "-3", "3++"])
def test_what_is_no_range_is_refused(text: str) -> None:
    """A typing error is a wrong use, not all events."""
    with pytest.raises(ValueError, match="must"):
        attempts_range(text)


@given(facts=facts, own=filters)
def test_an_event_is_meant_when_no_filter_speaks_against_it(facts: Facts, own: Filters) -> None:
    """All filters together; within one, any of its values."""
    hours = {None: None, "1h": 1, "2h": 2, "3h": 3}
    since, until = hours[own.since], hours[own.until]
    attempts = {None: range(99), "3": range(3, 4), "2+": range(2, 99), "1-4": range(1, 5)}
    against = [
        since is not None and facts.at_ms < NOW_MS - since * HOUR_MS,
        until is not None and facts.at_ms >= NOW_MS - until * HOUR_MS,
        bool(own.reasons) and not set(own.reasons) & set(facts.reasons),
        bool(own.statuses) and facts.http_status not in own.statuses,
        bool(own.keys) and facts.key not in own.keys,
        bool(own.tenants) and facts.tenant not in own.tenants,
        facts.attempt not in attempts[own.attempts],
    ]
    assert Matcher.at(own, NOW_MS).matches(facts) is not any(against)


# --- candidates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (replace(letter(1), headers=(("dlq-reason", b"bad-headers"),)), LeftOut.NO_ORIGIN),
        (letter(1, origin=Origin(topic="elsewhere", partition=0, offset=1)), LeftOut.FOREIGN_ORIGIN),
        (letter(1, origin=Origin(topic=INPUT, partition=4, offset=1)), LeftOut.FOREIGN_ORIGIN),
        (letter(1, extra=(("dlq-original-bytes", b"9000000"),)), LeftOut.CUT_SHORT),
        (replace(letter(1), value=None), LeftOut.NO_VALUE),
        (replace(letter(1, reason="tombstone"), value=b""), LeftOut.NO_VALUE),
        (letter(1, replay_count=3), LeftOut.TOO_OFTEN),
    ],
)
def test_what_cannot_be_sent_back_says_why(record: Record, why: LeftOut) -> None:
    """By a closed set of reasons, which the plan lists."""
    found = candidates().read(record, NOW_MS)
    assert isinstance(found, Unfit)
    assert found.why is why


@pytest.mark.parametrize("poison", [b"\xff\xfe", b"{", b'{"conversation_id": 5}'])
def test_raw_poison_with_an_origin_is_sent_back(poison: bytes) -> None:
    """After a release that reads it, a replay answers it: its bytes go back as they are."""
    record = replace(letter(6, reason="not-json"), value=poison)
    found = candidate(record)
    assert (found.ref.origin, found.ref.key) == (Origin(topic=INPUT, partition=2, offset=6), "c-6")
    sent = outgoing(
        record, found, Copy(id="1-x"), replay_id="r", source=ReplaySource.DLQ, due_topic=DUE, now_ms=NOW_MS
    )
    assert (sent.value, sent.partition, sent.topic) == (poison, 2, DUE)


def test_a_copy_carries_what_the_event_came_with_and_nothing_of_its_death() -> None:
    """An own cause stays; the one that the dead letter added, the event itself, goes."""
    added: Headers = (("trace", b"t"), ("dlq-where", b"text"), ("ce_causationid", f"{INPUT}/1/5".encode()))
    own: Headers = (("ce_causationid", b"another"),)
    for extra, causes in ((added, set()), (own, {b"another"})):
        record = letter(5, extra=extra)
        sent = outgoing(
            record,
            candidate(record),
            Copy(id="1-x"),
            replay_id="r",
            source=ReplaySource.DLQ,
            due_topic=DUE,
            now_ms=NOW_MS,
        )
        names = [name for name, _ in sent.headers]
        assert not [name for name in names if name.startswith("dlq-")]
        assert {held for name, held in sent.headers if name == "ce_causationid"} == causes


def test_an_event_that_came_back_from_the_dlq_once_stays_out_of_order() -> None:
    """Parked again and sent ahead it still has no followers to wait for it."""
    record = letter(1, copy=Copy(id="3-x"), replay_source=ReplaySource.DLQ)
    read = candidate(record, ReplaySource.RETRY)
    for before, expected in ((ReplaySource.DLQ, ReplaySource.DLQ), (None, ReplaySource.RETRY)):
        sent = outgoing(
            record,
            replace(read, retry=replace(read.retry, replay_source=before)),
            Copy(id="4-y"),
            replay_id="r",
            source=ReplaySource.RETRY,
            due_topic=DUE,
            now_ms=NOW_MS,
        )
        retry = parse_retry_headers(sent.headers, now_ms=NOW_MS, horizon_s=604_800)
        assert retry is not None
        assert retry.replay_source is expected


# --- decisions ------------------------------------------------------------------------------------------


def standing(**changes: Any) -> Standing:
    """Return how an event stands that died as the input record."""
    told = Standing(
        live="input", gen="g", phase=Phase.DONE, kind=EndKind.DEAD_LETTER, is_cancelled=False, due_at_ms=None
    )
    return replace(told, **changes)


OPEN = {"phase": Phase.OPEN, "kind": None}
SENT_BEFORE = decide(candidate(letter(1)), None, OWN_ID, ReplaySource.DLQ)
assert isinstance(SENT_BEFORE, Send)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, Send),
        (standing(), Send),
        (standing(live=None), Send),
        (standing(live="4-zombie"), Send),
        (standing(is_cancelled=True), Send),
        (standing(kind=EndKind.RESULT), LeftOut.ANSWERED),
        (standing(kind=EndKind.RECORDED), LeftOut.ANSWERED),
        (standing(phase=Phase.CLAIMED), LeftOut.ENDING),
        (standing(live="1-other", **OPEN), LeftOut.UNDER_WAY),
        (standing(live="input", **OPEN), Send),  # Redis lost the end that Kafka has
        (standing(live="input", is_cancelled=True, **OPEN), LeftOut.CANCELLED),
        (standing(live=SENT_BEFORE.copy.id), AlreadySent),
        (standing(live=SENT_BEFORE.copy.id, **OPEN), AlreadySent),
    ],
)
def test_a_dead_letter_is_sent_unless_its_event_lives_or_was_answered(
    found: Standing | None, expected: type | LeftOut
) -> None:
    """And what it replaces is the copy that counts."""
    decision = decide(candidate(letter(1)), found, OWN_ID, ReplaySource.DLQ)
    if isinstance(expected, LeftOut):
        assert decision is expected
        return
    assert isinstance(decision, expected)
    if isinstance(decision, Send):
        assert decision.copy.replaces == (found.live if found is not None and found.live else "input")


def test_a_dead_letter_of_a_later_copy_than_redis_remembers_is_sent() -> None:
    """Redis came back without its last second: the copy that counts there was acked, and nobody comes."""
    died = candidate(letter(1, copy=Copy(id="2-b")))
    found = standing(live="1-a", **OPEN)
    decision = decide(died, found, OWN_ID, ReplaySource.DLQ)
    assert isinstance(decision, Send)
    assert (decision.copy.replaces, decision.copy.hop) == ("1-a", 3)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, Send),
        (standing(live="2-b", **OPEN), Send),
        (standing(live="1-a", **OPEN), Send),  # its switch has not come yet
        (standing(live=None, **OPEN), Send),
        (standing(live="3-c", **OPEN), LeftOut.SUPERSEDED),
        (standing(live="2-b", is_cancelled=True, **OPEN), LeftOut.CANCELLED),
        (standing(live="2-b", phase=Phase.CLAIMED), LeftOut.ENDING),
        (standing(live="2-b"), LeftOut.DEAD),
        (standing(live="2-b", kind=EndKind.RESULT), LeftOut.ANSWERED),
    ],
)
def test_a_parked_event_is_sent_when_its_record_counts(
    found: Standing | None, expected: type | LeftOut
) -> None:
    """A tier keeps what was released and parked again: of one event only the copy that counts goes."""
    record = letter(1, copy=Copy(id="2-b", replaces="1-a"))
    decision = decide(candidate(record, ReplaySource.RETRY), found, OWN_ID, ReplaySource.RETRY)
    assert decision is expected if isinstance(expected, LeftOut) else isinstance(decision, expected)


@given(
    past=st.lists(
        st.sampled_from(["take", "park", "die", "answer", "record", "claim", "flush", "replay", "restart"]),
        max_size=8,
    ),
    data=st.data(),
)
def test_what_is_planned_runs_and_what_is_answered_does_not(past: list[str], data: st.DataObject) -> None:
    """Whatever happened to an event that died, Take agrees with the plan."""
    asyncio.run(_check_against_take(past, data))


async def _check_against_take(past: list[str], data: st.DataObject) -> None:
    state = FakeState(lambda: NOW_MS, counted_ids())
    ref = candidate(letter(1)).ref
    copy, died = Copy(), Copy()
    kinds = {"die": EndKind.DEAD_LETTER, "answer": EndKind.RESULT, "record": EndKind.RECORDED}
    for number, what in enumerate([*past, "die"]):
        if what == "flush":
            state.flush()
            continue
        if what == "restart":
            state.run_id += "+"
            continue
        if what == "replay":
            copy = Copy(id=f"{copy.hop + 1}-other{number}", replaces=copy.id, is_replay=True)
        verdict = (await state.take(replace(ref, ordered=False), copy)).verdict
        if not isinstance(verdict, Run):
            continue
        if what == "park":
            new = Copy(id=f"{copy.hop + 1}-p{number}", replaces=copy.id)
            await state.park(ref, copy, new, verdict.gen, NOW_MS)
            copy = new
        elif what == "claim":
            await state.claim(ref, verdict.gen, End(kind=EndKind.DEAD_LETTER))
        elif what in kinds:
            end = End(kind=kinds[what])
            await state.claim(ref, verdict.gen, end)
            await state.finish(ref, verdict.gen, end)
            died = copy if what == "die" else died
    (found,) = await state.standings([ref])
    own = candidate(letter(1, copy=died))
    decision = decide(own, found, OWN_ID, ReplaySource.DLQ)
    if isinstance(decision, Send):
        taken = await state.take(replace(ref, ordered=False), decision.copy)
        assert not isinstance(taken.verdict, Stale), (past, found, decision)
    elif decision is LeftOut.ANSWERED:
        sent = replace(Copy(id="9-late", is_replay=True), replaces=found.live if found is not None else None)
        assert isinstance((await state.take(ref, sent)).verdict, Stale)
