"""The checker finds each broken promise in a history that contains just it, and nothing in a good one."""

from __future__ import annotations

import ast
import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.chaos.checker import judge, waiting
from tests.chaos.commits import finished
from tests.chaos.history import Call, Disruption, Exit, Harm, History, Limit, Place, Record, Sample, Stream
from tests.chaos.verdict import Promise

CHAT = Stream(
    name="chat",
    input="chat",
    due="g.chat.due",
    tiers=("g.chat.retry.1", "g.chat.retry.2"),
    results="chat.results",
    dlq="g.chat.dlq",
    group="g.chat",
    is_ordered=True,
)


def record(
    topic: str, offset: int, at_s: float, value: object, headers: Mapping[str, object] | None = None
) -> Record:
    """Return a record of partition 0 with the key `k`."""
    return Record(
        place=Place(topic=topic, partition=0, offset=offset),
        at_s=at_s,
        key=b"k",
        value=None if value is None else orjson.dumps(value),
        headers=tuple((name, str(text).encode()) for name, text in (headers or {}).items()),
    )


def message(turn: int, at_s: float, speaker: str = "customer") -> Record:
    """Return an event whose offset is its turn."""
    return record(CHAT.input, turn, at_s, {"conversation_id": "k", "turn": turn, "speaker": speaker})


def of(turn: int, **headers: object) -> dict[str, object]:
    """Return the headers that name an event, and others."""
    origin = {"topic": CHAT.input, "partition": 0, "offset": turn}
    own = {f"retry-origin-{part}": value for part, value in origin.items()}
    return {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}


def result(offset: int, turn: int, at_s: float, id: str | None = None) -> Record:
    """Return a result of a turn."""
    return record(
        CHAT.results,
        offset,
        at_s,
        {"conversation_id": "k", "turn": turn},
        {**of(turn), "ce_id": id or f"r-{turn}"},
    )


def letter(offset: int, turn: int, at_s: float, given: Record) -> Record:
    """Return a dead letter of an event, whole."""
    headers = tuple((name, str(text).encode()) for name, text in of(turn, dlq_reason="x").items())
    place = Place(topic=CHAT.dlq, partition=0, offset=offset)
    return Record(place=place, at_s=at_s, key=b"k", value=given.value, headers=(*given.headers, *headers))


def commit(at_s: float, offset: int, metadata: str = "", topic: str = CHAT.input) -> Sample:
    """Return what was seen of a commit."""
    group = "g.relay" if topic in CHAT.tiers else CHAT.group
    return Sample(at_s=at_s, group=group, topic=topic, partition=0, offset=offset, metadata=metadata)


def done_map(base: int, *offsets: int) -> str:
    """Return a commit's metadata, by the documented layout."""
    bitmap = bytes([sum(1 << (offset - base) for offset in offsets)])
    check = zlib.crc32(bitmap, zlib.crc32(str(base).encode())).to_bytes(4, "big")
    packed = zlib.compressobj(wbits=-15)
    return f"d1:{base}:{base64.b85encode(check + packed.compress(bitmap) + packed.flush()).decode()}"


def paid(step: str, received_at_s: float, completed_at_s: float | None = None, **more: str | None) -> Call:
    """Return a call that was answered 100 ms later unless said otherwise."""
    ended_s = received_at_s + 0.1 if completed_at_s is None else completed_at_s
    return Call(received_at_s=received_at_s, completed_at_s=ended_s, status=200, step=step, **more)


def history(*records: Record, **more: Any) -> History:
    """Return a history of one stream in which five events end well, the third by way of a tier and due.

    Records given replace those at their places or are added.
    """
    all_records = [message(turn, 100.0 + turn, "agent" if turn == 4 else "customer") for turn in range(5)]
    all_records += [
        result(0, 0, 101.0),
        result(1, 1, 102.0),
        record(CHAT.tiers[0], 0, 103.0, {"turn": 2}, of(2, retry_copy="1-a", retry_due_at_ms=105_000)),
        record(CHAT.due, 0, 105.0, {"turn": 2}, of(2, retry_copy="1-a", retry_due_at_ms=105_000)),
        result(2, 2, 106.0),
        result(3, 3, 107.0),
    ]
    by_place = {each.place: each for each in (*all_records, *records)}
    topics: dict[str, tuple[Record, ...]] = dict.fromkeys(CHAT.topics, ())
    for each in by_place.values():
        topics[each.place.topic] += (each,)
    good = History(
        streams=(CHAT,),
        relay_group="g.relay",
        records=topics,
        committed=(commit(110, 5), commit(110, 1, topic=CHAT.due), commit(110, 1, topic=CHAT.tiers[0])),
        samples=(
            commit(101.5, 1),
            commit(104.0, 3),
            commit(104.0, 0, topic=CHAT.due),
            commit(105.0, 1, topic=CHAT.tiers[0]),
            commit(106.5, 1, topic=CHAT.due),
            commit(107.0, 3, done_map(3, 4)),
        ),
        calls=tuple(paid(f"e{turn}/reply", 100.5 + turn) for turn in range(4)),
        limit=Limit(per_s=2, burst=1),
    )
    return replace(good, **more)


def broken(given: History) -> dict[Promise, int]:
    """Return the promises that a history breaks."""
    return dict(judge(given).broken)


def harm(kind: Harm, start_s: float, end_s: float | None = None) -> tuple[Disruption, ...]:
    """Return one disruption."""
    return (Disruption(harm=kind, start_s=start_s, end_s=start_s if end_s is None else end_s),)


def without(given: History, topic: str, *offsets: int) -> History:
    """Return the history as if these records had never been."""
    kept = tuple(each for each in given.records[topic] if each.place.offset not in offsets)
    return replace(given, records={**given.records, topic: kept})


def test_a_good_history_breaks_nothing() -> None:
    """What the mutants below change is right before they change it."""
    verdict = judge(history())
    assert (verdict.findings, verdict.parked) == ((), 1)
    assert verdict.fates == {"result": 4, "recorded": 1}
    assert waiting(history()) == 0


def without_keys(*conversations: str) -> History:
    """Return two events without a key, the later of which is answered first."""
    events = [
        replace(record(CHAT.input, 5 + turn, 108.0, {"conversation_id": name, "turn": 5 + turn}), key=None)
        for turn, name in enumerate(conversations)
    ]
    answers = [
        replace(
            record(CHAT.results, 4 + place, 109.0, orjson.loads(events[turn].value or b""), of(5 + turn)),
            key=conversations[turn].encode(),
        )
        for place, turn in enumerate((1, 0))
    ]
    return history(*events, *answers)


def test_events_without_a_key_are_in_order_by_the_conversation_that_they_name() -> None:
    """Two conversations' events of one partition may overtake each other though neither has a key."""
    assert broken(without_keys("a", "b")) == {}
    assert broken(without_keys("a", "a")) == {Promise.OUT_OF_ORDER: 1}


MUTANTS: dict[str, tuple[Callable[[], History], dict[Promise, int]]] = {
    "a committed event without an end": (
        lambda: replace(without(history(), CHAT.results, 3), samples=()),
        {Promise.LOST: 1},
    ),
    "a copy that its relay committed and never released": (
        lambda: replace(without(without(history(), CHAT.due, 0), CHAT.results, 2), samples=()),
        {Promise.LOST: 1},
    ),
    "an event that is still in the input": (
        lambda: replace(
            without(history(), CHAT.results, 3),
            committed=(commit(110, 3, done_map(3, 4)),),
            samples=(),
        ),
        {Promise.WAITING: 1},
    ),
    "a result and a dead letter": (
        lambda: history(letter(0, 1, 103.0, message(1, 101.0))),
        {Promise.TWO_ENDS: 1},
    ),
    "two results with two ids": (lambda: history(result(4, 1, 103.0, id="other")), {Promise.TWO_ENDS: 1}),
    "an end of an event that nobody published": (
        lambda: history(result(4, 9, 103.0)),
        {Promise.TWO_ENDS: 1},
    ),
    "the same result again for no reason": (lambda: history(result(4, 1, 103.0)), {Promise.REPEATED: 1}),
    "a release one millisecond early": (
        lambda: history(
            record(CHAT.due, 0, 104.999, {"turn": 2}, of(2, retry_copy="1-a", retry_due_at_ms=105_000))
        ),
        {Promise.EARLY: 1},
    ),
    "a result behind one of a later turn": (
        lambda: history(result(0, 1, 101.0), result(1, 0, 102.0), samples=()),
        {Promise.OUT_OF_ORDER: 1},
    ),
    "one call too many in a second": (
        lambda: history(calls=tuple(paid(f"e{n}/reply", 100.0 + n / 10) for n in range(5))),
        {Promise.OVER_LIMIT: 1},
    ),
    "one call too many in ten seconds": (
        lambda: history(calls=tuple(paid(f"e{n}/reply", 100.0 + n * 9.99 / 22) for n in range(23))),
        {Promise.OVER_LIMIT: 1},
    ),
    "one step answered twice": (
        lambda: history(calls=(paid("e1/reply", 100.0), paid("e1/reply", 104.0))),
        {Promise.PAID_TWICE: 1},
    ),
    "a dead letter with other bytes": (
        lambda: history(letter(0, 5, 107.0, message(6, 101.0)), message(5, 101.0), samples=()),
        {Promise.ALTERED: 1},
    ),
    "a dead letter without a header of its event": (
        lambda: history(
            letter(0, 5, 107.0, message(5, 101.0)),
            replace(message(5, 101.0), headers=(("trace", b"\x00"),)),
            samples=(),
        ),
        {Promise.ALTERED: 1},
    ),
    "a result that answers another turn": (
        lambda: history(
            record(
                CHAT.results,
                3,
                107.0,
                {"conversation_id": "k", "turn": 9},
                {**of(3), "ce_id": "r-3"},
            )
        ),
        {Promise.ALTERED: 1},
    ),
    "a prompt in a log": (
        lambda: history(canaries=("zebra",), texts={"worker.log": "said zebra"}),
        {Promise.LEAKED: 1},
    ),
    "a prompt in a header": (
        lambda: history(
            replace(result(3, 3, 107.0), headers=(*result(3, 3, 107.0).headers, ("x", b"zebra"))),
            canaries=("zebra",),
        ),
        {Promise.LEAKED: 1},
    ),
    "a commit above an event without an end": (
        lambda: history(samples=(commit(101.5, 2),)),
        {Promise.COMMITTED_ABOVE: 1},
    ),
    "a done-map that names an event without an end": (
        lambda: history(samples=(commit(101.5, 1, done_map(1, 3)),)),
        {Promise.COMMITTED_ABOVE: 1},
    ),
    "a done-map that cannot be read": (
        lambda: history(samples=(commit(101.5, 1, done_map(2, 3)),)),
        {Promise.COMMITTED_ABOVE: 1},
    ),
    "a tier committed before the release": (
        lambda: history(samples=(commit(104.5, 1, topic=CHAT.tiers[0]),)),
        {Promise.COMMITTED_ABOVE: 1},
    ),
    "a released copy committed before its end": (
        lambda: history(samples=(commit(105.5, 1, topic=CHAT.due),)),
        {Promise.COMMITTED_ABOVE: 1},
    ),
    "a process that ended by itself": (
        lambda: history(exits=(Exit(process="worker", code=1, wanted="none"),)),
        {Promise.EXITED: 1},
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_promise_is_found(name: str) -> None:
    """One thing is wrong, and exactly it is found."""
    make, expected = MUTANTS[name]
    assert broken(make()) == expected


EXCUSED: dict[str, tuple[Callable[[], History], Promise]] = {
    "the same result again after a crash": (
        lambda: history(result(4, 1, 109.0), disruptions=harm(Harm.CRASH, 102.05)),
        Promise.REPEATED,
    ),
    "another kind of end after a flush": (
        lambda: history(letter(0, 1, 103.0, message(1, 101.0)), disruptions=harm(Harm.STATE_LOST, 102.5)),
        Promise.TWO_ENDS,
    ),
    "another order after a flush": (
        lambda: history(
            result(0, 1, 101.0),
            result(1, 0, 102.0),
            samples=(),
            disruptions=harm(Harm.STATE_LOST, 101.0),
        ),
        Promise.OUT_OF_ORDER,
    ),
    "an answer on the wire at a crash": (
        lambda: history(
            calls=(paid("e1/reply", 100.0, 102.0), paid("e1/reply", 108.0)),
            disruptions=harm(Harm.CRASH, 101.0),
        ),
        Promise.PAID_TWICE,
    ),
    "an answer that a crash took before Redis was back to store it": (
        lambda: history(
            calls=(paid("e1/reply", 100.0), paid("e1/reply", 120.0)),
            disruptions=(*harm(Harm.STATE_AWAY, 99.0, 110.0), *harm(Harm.CRASH, 109.0)),
        ),
        Promise.PAID_TWICE,
    ),
    "a remembered answer that Redis lost": (
        lambda: history(
            calls=(paid("e1/reply", 100.0), paid("e1/reply", 120.0)),
            disruptions=harm(Harm.STATE_LOST, 110.0),
        ),
        Promise.PAID_TWICE,
    ),
}


@pytest.mark.parametrize("name", EXCUSED)
def test_what_a_promise_leaves_out_is_counted_and_no_failure(name: str) -> None:
    """A disruption at the right moment turns the finding into a count."""
    make, promise = EXCUSED[name]
    verdict = judge(make())
    assert (dict(verdict.excused), verdict.failures) == ({promise: 1}, ())


NOT_EXCUSED: dict[str, tuple[Callable[[], History], Promise]] = {
    "a crash after the second result": (
        lambda: history(result(4, 1, 103.0), disruptions=harm(Harm.CRASH, 104.0)),
        Promise.REPEATED,
    ),
    "a crash long after the answer was stored": (
        lambda: history(
            calls=(paid("e1/reply", 100.0), paid("e1/reply", 120.0)), disruptions=harm(Harm.CRASH, 110.0)
        ),
        Promise.PAID_TWICE,
    ),
    "a third answer after a crash that took only the first": (
        lambda: history(
            calls=(paid("e1/reply", 100.0), paid("e1/reply", 108.0), paid("e1/reply", 118.0)),
            disruptions=harm(Harm.CRASH, 100.05),
        ),
        Promise.PAID_TWICE,
    ),
    "a crash is no reason for another order": (
        lambda: history(
            result(0, 1, 101.0), result(1, 0, 102.0), samples=(), disruptions=harm(Harm.CRASH, 101.0)
        ),
        Promise.OUT_OF_ORDER,
    ),
    "a flush is no reason for two ids of results": (
        lambda: history(result(4, 1, 103.0, id="other"), disruptions=harm(Harm.STATE_LOST, 102.5)),
        Promise.TWO_ENDS,
    ),
}


@pytest.mark.parametrize("name", NOT_EXCUSED)
def test_a_disruption_at_the_wrong_moment_or_of_the_wrong_kind_excuses_nothing(name: str) -> None:
    """Excuses are as narrow as they are said to be."""
    make, promise = NOT_EXCUSED[name]
    assert broken(make()) == {promise: 1}


@pytest.mark.parametrize("fault", ["malformed", "html", "overload", "truncated", None])
def test_only_a_whole_and_usable_answer_is_paid_for(fault: str | None) -> None:
    """A spoilt answer and its repetition are no payment twice."""
    calls = (paid("e1/reply", 100.0, fault=fault), paid("e1/reply", 104.0))
    assert broken(history(calls=calls)) == ({} if fault else {Promise.PAID_TWICE: 1})


def test_a_copy_that_another_superseded_may_be_committed_without_an_end() -> None:
    """A stale copy is acked: the event lives on in the other."""
    other = record(CHAT.tiers[0], 1, 105.4, {"turn": 2}, of(2, retry_copy="2-b", retry_due_at_ms=106_000))
    given = history(other, samples=(commit(105.5, 1, topic=CHAT.due),))
    assert broken(given) == {}


@pytest.mark.parametrize("module", ["history", "commits", "verdict", "checker", "reading"])
def test_the_judgement_shares_no_code_with_the_product(module: str) -> None:
    """A bug that is in both would be seen by nobody."""
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    packages = {name.split(".")[0] for name in imported}
    assert packages.isdisjoint({"sluicegate", "streams", "consumers"})
    assert {name for name in imported if name.startswith("tests")} <= {
        f"tests.chaos.{own}" for own in ("history", "commits", "verdict")
    }


def test_a_map_says_which_offsets_are_done_above_the_commit() -> None:
    """The documented layout, decoded apart from the product."""
    found = finished(commit(1.0, 7, done_map(7, 9, 11)))
    assert [offset for offset in range(13) if offset in found] == [0, 1, 2, 3, 4, 5, 6, 9, 11]
