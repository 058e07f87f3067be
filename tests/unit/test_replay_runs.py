"""Plans of whole DLQs against brute force, and runs through kills at any point."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.replay.audit import Ended, History, Started, audit_record, read_audit
from consumers.replay.candidates import (
    Candidate,
    LeftOut,
    Send,
)
from consumers.replay.filters import Filters, Matcher
from consumers.replay.plan import SENT, Command, Plan, Planner, Snapshot, replay_id
from consumers.replay.sending import Progress, Sender, SendPorts
from sluicegate.errors import PublishError, RecordTooLargeError
from sluicegate.kafka.admin import Bounds, Partition
from sluicegate.records import Origin, OutgoingRecord, Record
from sluicegate.retry.headers import ReplaySource, parse_retry_headers
from sluicegate.state.api import Copy, End, EndKind, EventRef, Run, Standing
from sluicegate.state.fake_state import FakeState
from tests.contract.state_stands import counted_ids
from tests.unit.replay_letters import (
    DLQ,
    DUE,
    HOUR_MS,
    INPUT,
    NOW_MS,
    OWN_ID,
    candidate,
    candidates,
    filters,
    letter,
)

# --- plans ----------------------------------------------------------------------------------------------

PLACES = tuple(Partition(topic=DLQ, number=number) for number in range(3))


@dataclass(kw_only=True)
class Letters:
    """A DLQ as it may be: events that died once or more often, told twice here and there."""

    records: list[Record]
    commanded: Command

    @property
    def bounds(self) -> Mapping[Partition, Bounds]:
        """Return what each partition holds."""
        return {place: Bounds(low=0, high=len(self.of(place))) for place in PLACES}

    def of(self, place: Partition) -> list[Record]:
        """Return a partition's records in their order."""
        return [record for record in self.records if record.partition == place.number]


@st.composite
def dlqs(draw: st.DrawFn) -> Letters:
    """Draw a DLQ, and a command that may mean a part of it."""
    next_offset = Counter[int]()
    records: list[Record] = []
    for event, hop in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=14)):
        partition = draw(st.integers(0, 2))
        at_ms = NOW_MS - draw(st.integers(0, 3)) * HOUR_MS
        records.append(
            letter(
                event,
                place=(partition, next_offset[partition]),
                at_ms=at_ms,
                reason=draw(st.sampled_from(["attempts-exhausted", "handler-error"])),
                copy=Copy(id=f"{hop}-c" if hop else "input"),
                due_at_ms=at_ms,
            )
        )
        next_offset[partition] += 1
    own = Filters(
        since=draw(st.none() | st.just("2h")),
        reasons=draw(st.sampled_from([(), ("handler-error",)])),
        limit=draw(st.none() | st.integers(1, 4)),
    )
    return Letters(records=records, commanded=Command(source=ReplaySource.DLQ, stream=INPUT, filters=own))


def planned(
    letters: Letters,
    state: FakeState,
    *,
    handled: Mapping[Partition, int] | None = None,
    done: Counter[str] | None = None,
    snapshot: Snapshot | None = None,
) -> Plan:
    """Plan as the command does."""
    matcher = Matcher.at(letters.commanded.filters, NOW_MS)
    fixed = snapshot or Snapshot(at_ms=NOW_MS, bounds=letters.bounds, since_ms=matcher.since_ms)
    planner = Planner(letters.commanded, fixed, OWN_ID, handled=handled or {}, done_before=done or Counter())
    asked = planner.note(candidates().read(record, NOW_MS) for record in letters.records)
    planner.judge(asked, asyncio.run(state.standings([each.ref for each in asked])))
    return planner.plan()


@given(letters=dlqs())
def test_a_plan_sends_the_last_dead_letter_of_each_event_that_is_meant(letters: Letters) -> None:
    """An older one never speaks for an event whose last one is not meant; the oldest go first."""
    plan = planned(letters, FakeState(lambda: NOW_MS, counted_ids()))

    last: dict[Origin, Candidate] = {}
    for record in letters.records:
        found = candidate(record)
        known = last.get(found.ref.origin, found)
        last[found.ref.origin] = max(known, found, key=lambda each: each.rank)
    matcher = Matcher.at(letters.commanded.filters, NOW_MS)
    meant = sorted((each.at_ms, each.place) for each in last.values() if matcher.matches(each.facts))
    limit = letters.commanded.filters.limit
    expected = [place for _, place in meant][:limit]
    chosen = {place for place, entry in plan.entries.items() if isinstance(entry.decision, Send)}
    assert chosen == set(expected)
    assert plan.beyond_limit == len(meant) - len(expected)


def test_a_later_death_beyond_the_snapshot_silences_the_older_one() -> None:
    """An interrupted replay must not give an event that died again a second go."""
    first = letter(1, place=(0, 0))
    again = letter(1, place=(0, 1), copy=Copy(id="5-x"))
    command = Command(source=ReplaySource.DLQ, stream=INPUT, filters=Filters())
    snapshot = Snapshot(at_ms=NOW_MS, bounds={PLACES[0]: Bounds(low=0, high=1)})
    letters = Letters(records=[first, again], commanded=command)
    plan = planned(letters, FakeState(lambda: NOW_MS, counted_ids()), snapshot=snapshot)
    assert plan.sends == ()
    assert plan.left_out == {LeftOut.SUPERSEDED: 1}


def test_a_replay_is_named_by_what_was_asked_and_where_the_topics_end() -> None:
    """The same words over the same records are the same replay, whenever they are said."""
    bounds = {PLACES[0]: Bounds(low=0, high=5), PLACES[1]: Bounds(low=0, high=7)}
    command = Command(source=ReplaySource.DLQ, stream=INPUT, filters=Filters(since="2h"))
    name = replay_id(command, bounds)
    assert name == replay_id(command, dict(reversed(bounds.items())))
    assert name == replay_id(command, {**bounds, PLACES[0]: Bounds(low=3, high=5)})
    others = [
        replay_id(replace(command, filters=Filters(since="3h")), bounds),
        replay_id(replace(command, stream="documents"), bounds),
        replay_id(replace(command, source=ReplaySource.RETRY), bounds),
        replay_id(command, {**bounds, PLACES[0]: Bounds(low=0, high=6)}),
    ]
    assert len({name, *others}) == 5


# --- sending --------------------------------------------------------------------------------------------


class KilledError(Exception):
    """The process died here."""


@dataclass(kw_only=True)
class Kafka:
    """What outlives a process: records in `due` and committed places. It may kill at any call."""

    kills: list[int]
    calls: int = 0
    due: list[OutgoingRecord] = field(default_factory=list)
    committed: dict[Partition, tuple[int, Counter[str]]] = field(default_factory=dict)
    refuses: frozenset[bytes] = frozenset()

    def _die_now_and_then(self) -> None:
        self.calls += 1
        if self.calls in self.kills:
            raise KilledError

    def publish_all(self, records: Sequence[OutgoingRecord]) -> Sequence[PublishError | None]:
        """Store the records; a kill comes before, between or after them."""
        outcomes: list[PublishError | None] = []
        self._die_now_and_then()
        for record in records:
            is_refused = record.key in self.refuses
            outcomes.append(RecordTooLargeError("too large") if is_refused else None)
            if not is_refused:
                self.due.append(record)
            self._die_now_and_then()
        return outcomes

    def commit(self, offsets: Mapping[Partition, tuple[int, Counter[str]]]) -> None:
        """Keep the places; a kill comes before or after. Kafka's client refuses to commit nothing."""
        assert offsets
        self._die_now_and_then()
        self.committed |= {place: (offset, Counter(tally)) for place, (offset, tally) in offsets.items()}
        self._die_now_and_then()


def one_run(letters: Letters, kafka: Kafka, state: FakeState, snapshot: Snapshot | None) -> Snapshot:
    """Plan and send as one process does, from what the one before it committed."""
    handled = {place: offset for place, (offset, _) in kafka.committed.items()}
    done: Counter[str] = sum((tally for _, tally in kafka.committed.values()), Counter())
    plan = planned(letters, state, handled=handled, done=done, snapshot=snapshot)
    progress = {
        place: Progress(next_offset=kafka.committed[place][0], tally=Counter(kafka.committed[place][1]))
        if place in kafka.committed
        else Progress(next_offset=0)
        for place in PLACES
    }
    sender = Sender(
        plan,
        candidates=candidates(),
        due_topic=DUE,
        progress=progress,
        rate_per_s=12.0,  # three at a time
        ports=SendPorts(
            publisher=kafka,
            ask=lambda refs: asyncio.run(state.standings(refs)),
            commit=kafka.commit,
            sent=lambda count: None,
            now_ms=lambda: NOW_MS,
            monotonic=lambda: 0.0,
            sleep=lambda seconds: None,
        ),
    )
    try:
        for place in PLACES:
            rest = letters.of(place)[progress[place].next_offset :]
            for start in range(0, len(rest), 5):
                sender.handle(rest[start : start + 5])
    except KilledError:
        # The workers go on: what arrived is taken, and ends or dies again.
        for record in kafka.due:
            asyncio.run(answer(state, record))
        raise
    return plan.snapshot


async def answer(state: FakeState, record: OutgoingRecord) -> bool:
    """Let a worker take a copy and answer it; false when it is stale."""
    retry = parse_retry_headers(record.headers, now_ms=NOW_MS, horizon_s=604_800)
    assert retry is not None
    ref = replace(candidate(letter(retry.origin.offset)).ref, ordered=False)
    verdict = (await state.take(ref, retry.copy)).verdict
    if not isinstance(verdict, Run):
        return False
    end = End(kind=EndKind.RESULT)
    await state.claim(ref, verdict.gen, end)
    await state.finish(ref, verdict.gen, end)
    return True


@given(letters=dlqs(), kills=st.lists(st.integers(1, 25), max_size=4), refused=st.integers(0, 20))
def test_a_replay_killed_anywhere_sends_everything_and_nothing_is_answered_twice(
    letters: Letters, kills: list[int], refused: int
) -> None:
    """Between any two of publish, confirmation and commit; a copy that is sent twice has one name."""
    state = FakeState(lambda: NOW_MS, counted_ids())
    snapshot = planned(letters, state).snapshot
    expected = planned(letters, state)
    kafka = Kafka(kills=kills, refuses=frozenset({f"c-{refused}".encode()}))
    for _ in range(len(kills) + 1):
        try:
            one_run(letters, kafka, state, snapshot)
        except KilledError:
            continue
        break
    names: dict[Origin, set[str]] = {}
    for record in kafka.due:
        retry = parse_retry_headers(record.headers, now_ms=NOW_MS, horizon_s=604_800)
        assert retry is not None
        names.setdefault(retry.origin, set()).add(retry.copy.id)
    wanted = {entry.origin for entry in expected.sends if entry.origin is not None}
    too_large = {origin for origin in wanted if origin.offset == refused}
    assert names.keys() == wanted - too_large
    assert all(len(copies) == 1 for copies in names.values())
    tally: Counter[str] = sum((tally for _, tally in kafka.committed.values()), Counter())
    assert sum(tally.values()) == len(expected.entries)
    assert tally[LeftOut.TOO_LARGE] == len(too_large)
    handled = {place: offset for place, (offset, _) in kafka.committed.items()}
    assert planned(letters, state, handled=handled, snapshot=snapshot).entries == {}
    # Sent but answered before its place was committed, it counts as sent, too.
    assert tally[SENT] == len(wanted - too_large)


def test_an_event_that_was_answered_after_the_plan_is_left_out() -> None:
    """Hours may lie between the plan and a record's turn."""
    state = FakeState(lambda: NOW_MS, counted_ids())
    command = Command(source=ReplaySource.DLQ, stream=INPUT, filters=Filters())
    letters = Letters(records=[letter(1, place=(0, 0))], commanded=command)
    ended: list[EventRef] = []

    async def end_it(ref: EventRef) -> None:
        verdict = (await state.take(ref, Copy())).verdict
        assert isinstance(verdict, Run)
        await state.claim(ref, verdict.gen, End(kind=EndKind.RESULT))
        await state.finish(ref, verdict.gen, End(kind=EndKind.RESULT))

    def ask(refs: Sequence[EventRef]) -> Sequence[Standing | None]:
        if not ended:
            ended.extend(refs)
            asyncio.run(end_it(refs[0]))
        return asyncio.run(state.standings(refs))

    kafka = Kafka(kills=[])
    progress = {place: Progress(next_offset=0) for place in PLACES}
    sender = Sender(
        planned(letters, state),
        candidates=candidates(),
        due_topic=DUE,
        progress=progress,
        rate_per_s=1.0,
        ports=SendPorts(
            publisher=kafka, ask=ask, commit=kafka.commit, sent=lambda count: None, now_ms=lambda: NOW_MS
        ),
    )
    sender.handle(letters.records)
    assert kafka.due == []
    assert progress[PLACES[0]].tally == {LeftOut.ANSWERED: 1}


def test_copies_go_at_the_rate_that_was_asked_for() -> None:
    """Time that a slow broker took is not made up for by a burst."""
    now, slept = [0.0], list[float]()
    sent: list[float] = []
    command = Command(source=ReplaySource.DLQ, stream=INPUT, filters=Filters())
    letters = Letters(records=[letter(n, place=(0, n)) for n in range(40)], commanded=command)
    state = FakeState(lambda: NOW_MS, counted_ids())

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def note(count: int) -> None:
        sent.extend([now[0]] * count)
        if len(sent) == 20:
            now[0] += 3  # the broker takes its time

    kafka = Kafka(kills=[])
    sender = Sender(
        planned(letters, state),
        candidates=candidates(),
        due_topic=DUE,
        progress={place: Progress(next_offset=0) for place in PLACES},
        rate_per_s=8.0,
        ports=SendPorts(
            publisher=kafka,
            ask=lambda refs: asyncio.run(state.standings(refs)),
            commit=kafka.commit,
            sent=note,
            now_ms=lambda: NOW_MS,
            monotonic=lambda: now[0],
            sleep=sleep,
        ),
    )
    sender.handle(letters.records)
    assert len(sent) == 40
    in_any_second = max(sum(at <= other < at + 1 for other in sent) for at in sent)
    assert in_any_second <= 8 + 2
    assert now[0] == pytest.approx(38 / 8 + 3 - 0.25, abs=0.3)


# --- the audit ------------------------------------------------------------------------------------------


def stored(entry: OutgoingRecord) -> Record:
    """Return the record as the audit topic gives it back."""
    return Record(
        topic=entry.topic, partition=0, offset=0, timestamp_ms=NOW_MS, key=entry.key, value=entry.value
    )


@given(own=filters, cut=st.none() | st.integers(0, 9))
def test_the_audit_gives_back_the_snapshot_that_a_replay_began_with(own: Filters, cut: int | None) -> None:
    """Kafka alone remembers it: the next command has nothing else."""
    entry = Started(
        replay_id="r",
        command=Command(source=ReplaySource.DLQ, stream=INPUT, filters=own),
        snapshot=Snapshot(
            at_ms=NOW_MS,
            bounds={place: Bounds(low=1, high=9) for place in PLACES},
            since_ms=5,
            cut=None if cut is None else (NOW_MS, Origin(topic=DLQ, partition=1, offset=cut)),
        ),
        who="someone@here",
        at_ms=NOW_MS,
        is_resumed=False,
        rate_per_s=2.5,
        by_reason={"cancelled": 3},
    )
    assert read_audit(stored(audit_record("audit", entry))) == entry
    ended = Ended(replay_id="r", who="x@y", at_ms=1, tally=Counter({SENT: 3}))
    assert read_audit(stored(audit_record("audit", ended))) == ended
    assert History.of([entry]).unfinished(entry.command) == entry
    assert History.of([entry, ended]).unfinished(entry.command) is None
    assert History.of([entry, ended, entry]).unfinished(entry.command) == entry


@pytest.mark.parametrize(
    "told", [b"", b"no json", b"[]", b'{"kind": "cancelled"}', b'{"kind": "replay-started"}', None]
)
def test_what_others_write_into_the_audit_is_passed_over(told: bytes | None) -> None:
    """Cancelling is audited there, too, and another release may write what this one cannot read."""
    record = Record(topic="audit", partition=0, offset=0, timestamp_ms=0, key=None, value=told)
    assert read_audit(record) is None
