"""A replay on both brokers: what it sends, what it keeps in Kafka, and how it goes on after a crash."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from consumers.replay.audit import Ended, Started, read_audit
from consumers.replay.candidates import CandidateReader, LeftOut
from consumers.replay.filters import Filters
from consumers.replay.places import ReplayReader
from consumers.replay.plan import SENT, Command
from consumers.replay.replay import Planned, Replay, ReplayPorts
from sluicegate.errors import ConfigurationError
from sluicegate.events.models import SupportChat
from sluicegate.kafka.admin import KafkaAdmin, Partition
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.processing.decoding import EventDecoder
from sluicegate.records import Headers, Origin, OutgoingRecord, Record
from sluicegate.retry.headers import (
    ReplaySource,
    RetryHeaders,
    parse_retry_headers,
    with_retry_headers,
)
from sluicegate.settings import Settings, load_settings
from sluicegate.state.api import Copy, End, EndKind, EventRef, Run, Stale, Standing
from sluicegate.state.fake_state import FakeState
from sluicegate.topics import audit_topic, relay_group, stream_topics
from tests.contract.state_stands import counted_ids
from tests.fixtures.kafka import MakeTopics

NOW_MS = 1_800_000_000_000
STREAM = "support-chat"
DEAD = End(kind=EndKind.DEAD_LETTER)
RESULT = End(kind=EndKind.RESULT)
FAST = 10_000.0
SECRET = "a secret"


class KilledError(Exception):
    """The command died here."""


class ReplayStand:
    """One stream's topics on a broker, a state in memory, and commands that look at both."""

    def __init__(self, kafka: str, prefix: str, make_topics: MakeTopics) -> None:
        environ = {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka,
            "SLUICEGATE_KAFKA__GROUP": f"g-{prefix}",
            "SLUICEGATE_STREAMS__SUPPORT_CHAT__TOPIC": f"chats-{prefix}",
            "SLUICEGATE_REPLAY__MAX_REPLAYS": "2",
        }
        self.settings: Settings = load_settings(None, environ)
        self.topics = stream_topics(self.settings, STREAM)
        names = (self.topics.input, self.topics.due, self.topics.dlq, *self.topics.tiers)
        make_topics(dict.fromkeys(names, 2) | {audit_topic(self.settings): 1})
        self.kafka, self.prefix = kafka, prefix
        # How often the state answers until the command is killed; None: for ever.
        self.dies_after: int | None = None
        self.state = FakeState(lambda: NOW_MS, counted_ids())
        self.decoder = EventDecoder(stream=STREAM, model=SupportChat, ordered=True, max_event_bytes=900_000)

    # --- what happened before -------------------------------------------------------------------------

    def value(self, offset: int) -> bytes:
        """Return an event's value."""
        told = {
            "conversation_id": f"c-{offset}",
            "turn": 0,
            "speaker": "customer",
            "text": f"secret {offset}",
        }
        return json.dumps(told).encode()

    def retry(self, offset: int, **changes: Any) -> RetryHeaders:
        """Return an event's headers; it died as the input record."""
        origin = Origin(topic=self.topics.input, partition=offset % 2, offset=offset)
        told = RetryHeaders(
            origin=origin,
            origin_timestamp_ms=1,
            copy=Copy(),
            due_at_ms=NOW_MS - 1000,
            attempt=8,
            http_status=500,
        )
        return replace(told, **changes)

    def letter(self, offset: int, *, reason: str = "attempts-exhausted", **changes: Any) -> OutgoingRecord:
        """Return a dead letter as a worker writes it."""
        headers: Headers = (("trace", b"t"), ("dlq-reason", reason.encode()))
        return OutgoingRecord(
            topic=self.topics.dlq,
            key=f"c-{offset}".encode(),
            value=self.value(offset),
            headers=with_retry_headers(headers, self.retry(offset, **changes)),
            partition=offset % 2,
        )

    def store(self, *records: OutgoingRecord) -> None:
        """Put records into their topics."""
        with ConfluentPublisher(self.kafka, client_id="test") as publisher:
            assert publisher.publish_all(records) == (None,) * len(records)

    def ref(self, offset: int) -> EventRef:
        """Name an event."""
        record = Record(
            topic="any",
            partition=0,
            offset=0,
            timestamp_ms=0,
            key=f"c-{offset}".encode(),
            value=self.value(offset),
        )
        return self.decoder.decode(record, self.retry(offset).origin).ref

    def end(self, offset: int, end: End, copy: Copy | None = None) -> None:
        """Let a worker take an event and end it."""

        async def work() -> None:
            verdict = (await self.state.take(self.ref(offset), copy or Copy())).verdict
            assert isinstance(verdict, Run), verdict
            await self.state.claim(self.ref(offset), verdict.gen, end)
            await self.state.finish(self.ref(offset), verdict.gen, end)

        asyncio.run(work())

    def die(self, *offsets: int, **changes: Any) -> None:
        """Let events die as dead letters."""
        for offset in offsets:
            self.end(offset, DEAD)
        self.store(*(self.letter(offset, **changes) for offset in offsets))

    # --- commands -------------------------------------------------------------------------------------

    def replay(
        self,
        *,
        source: ReplaySource = ReplaySource.DLQ,
        **filters: Any,
    ) -> Replay:
        """Return what one command line makes."""

        def ask(refs: Sequence[EventRef]) -> Sequence[Standing | None]:
            if self.dies_after == 0:
                raise KilledError
            self.dies_after = None if self.dies_after is None else self.dies_after - 1
            return asyncio.run(self.state.standings(refs))

        command = Command(source=source, stream=STREAM, filters=Filters(**filters))
        candidates = CandidateReader(
            source=source,
            decoder=self.decoder,
            input_topic=self.topics.input,
            partitions=2,
            horizon_s=604_800,
            max_replays=self.settings.replay.max_replays,
        )
        ports = ReplayPorts(admin=KafkaAdmin(self.kafka), ask=ask, who="someone@here", now_ms=lambda: NOW_MS)
        return Replay(self.settings, command, candidates, ports)

    def run(self, **filters: Any) -> tuple[Planned, Counter[str]]:
        """Plan and run at once."""
        replay = self.replay(**filters)
        planned = replay.plan()
        return planned, replay.run(planned, rate_per_s=FAST, progress=lambda sent: None)

    # --- what came of it ------------------------------------------------------------------------------

    def records(self, topic: str) -> list[Record]:
        """Return what a topic holds, each partition in its order."""
        admin = KafkaAdmin(self.kafka)
        places = [Partition(topic=topic, number=number) for number in range(admin.partition_counts()[topic])]
        with ReplayReader(self.settings.kafka, group=f"{self.prefix}-test") as reader:
            return sorted(reader.read(admin.bounds(places)), key=lambda record: record.place)

    def sent(self) -> list[tuple[Record, RetryHeaders]]:
        """Return what lies in `due`, with its headers."""
        found = []
        for record in self.records(self.topics.due):
            retry = parse_retry_headers(record.headers, now_ms=NOW_MS, horizon_s=604_800)
            assert retry is not None
            found.append((record, retry))
        return found

    def audit(self) -> list[Started | Ended | None]:
        """Return what the audit holds."""
        return [read_audit(record) for record in self.records(audit_topic(self.settings))]

    def work(self) -> Counter[int]:
        """Let a worker take everything in `due` and answer what runs; return the answers by offset."""
        answers: Counter[int] = Counter()
        for _, retry in self.sent():
            ref = self.ref(retry.origin.offset)
            verdict = asyncio.run(self.state.take(ref, retry.copy)).verdict
            if isinstance(verdict, Run):
                asyncio.run(self.state.claim(ref, verdict.gen, RESULT))
                asyncio.run(self.state.finish(ref, verdict.gen, RESULT))
                answers[retry.origin.offset] += 1
        return answers


@pytest.fixture
def stand(kafka: str, prefix: str, make_topics: MakeTopics) -> ReplayStand:
    """Return a stand on the broker under test."""
    return ReplayStand(kafka, prefix, make_topics)


def test_a_run_sends_each_dead_letter_to_its_origins_partition_of_due_and_tells_the_audit(
    stand: ReplayStand,
) -> None:
    """Original bytes and headers, counted anew; what died stays where it is."""
    stand.die(0, 1, 2, replay_count=1)
    stand.end(3, RESULT)
    stand.store(stand.letter(3))

    planned, tally = stand.run()

    assert tally == {SENT: 3, LeftOut.ANSWERED: 1}
    sent = stand.sent()
    assert [(record.partition, record.value, record.key) for record, _ in sent] == [
        (0, stand.value(0), b"c-0"),
        (0, stand.value(2), b"c-2"),
        (1, stand.value(1), b"c-1"),
    ]
    record, retry = sent[0]
    assert dict(record.headers)["trace"] == b"t"
    assert "dlq-reason" not in dict(record.headers)
    assert (retry.attempt, retry.counted_failures, retry.http_status) == (1, 0, None)
    assert (retry.replay_id, retry.replay_count, retry.replay_source) == (
        planned.plan.replay_id,
        2,
        ReplaySource.DLQ,
    )
    assert (retry.copy.replaces, retry.copy.is_replay) == ("input", True)
    assert len(stand.records(stand.topics.dlq)) == 4
    started, ended = stand.audit()
    assert isinstance(started, Started)
    assert isinstance(ended, Ended)
    assert (started.who, started.is_resumed, started.by_reason) == (
        "someone@here",
        False,
        {"attempts-exhausted": 3},
    )
    assert ended.tally == tally
    assert stand.work() == {0: 1, 1: 1, 2: 1}
    again, _ = stand.run()
    # Nothing has died since, so it goes by the same name, and knows what that one sent.
    assert (again.resumes, again.plan.sends, again.plan.already_sent) == (None, (), 3)
    assert again.plan.left_out == {LeftOut.ANSWERED: 1}


def test_a_killed_run_is_gone_on_with_and_nothing_is_left_out_or_answered_twice(
    stand: ReplayStand,
) -> None:
    """The same command takes the same snapshot up; what died meanwhile waits for the next replay."""
    stand.die(*range(40), reason="server-error")
    killed = stand.replay(reasons=("server-error",))
    first = killed.plan()
    stand.dies_after = 3
    with pytest.raises(KilledError):
        killed.run(first, rate_per_s=20, progress=lambda sent: None)
    stand.dies_after = None
    before = len(stand.sent())
    assert 0 < before < 40
    stand.work()
    stand.die(40, 41, reason="server-error")

    resumed, tally = stand.run(reasons=("server-error",))

    assert resumed.resumes is not None
    assert resumed.plan.replay_id == first.plan.replay_id
    assert sum(tally.values()) == 40
    stand.work()
    standings = asyncio.run(stand.state.standings([stand.ref(offset) for offset in range(42)]))
    kinds = [None if each is None else each.kind for each in standings]
    assert kinds == [EndKind.RESULT] * 40 + [EndKind.DEAD_LETTER] * 2
    assert Counter(retry.origin.offset for _, retry in stand.sent()).keys() == set(range(40))
    following, tally = stand.run(reasons=("server-error",))
    assert following.resumes is None
    assert following.plan.replay_id != first.plan.replay_id
    assert tally == {SENT: 2, LeftOut.ANSWERED: 40}


def test_a_plan_changes_nothing_and_lists_what_cannot_be_sent(stand: ReplayStand) -> None:
    """Every left out record has its reason; poison goes back by the origin that its headers name."""
    stand.die(0)
    poison = replace(stand.letter(1, reason="not-json"), value=b"\xff{")
    raw = OutgoingRecord(
        topic=stand.topics.dlq, key=None, value=b"raw", headers=(("dlq-reason", b"bad-headers"),), partition=0
    )
    stand.store(poison, raw, stand.letter(2, replay_count=2), replace(stand.letter(3), value=None))

    planned = stand.replay().plan()

    assert planned.plan.by_reason == {"attempts-exhausted": 1, "not-json": 1}
    assert planned.plan.left_out == {LeftOut.NO_ORIGIN: 1, LeftOut.TOO_OFTEN: 1, LeftOut.NO_VALUE: 1}
    assert stand.records(stand.topics.due) == []
    assert stand.audit() == []
    assert asyncio.run(stand.state.standings([stand.ref(1)])) == (None,)


def test_what_is_parked_is_sent_ahead_of_its_due_time_and_keeps_its_place(stand: ReplayStand) -> None:
    """Only what still waits: neither what the relay released nor what was parked again since."""
    for offset in (0, 2, 4):
        park(stand, offset, Copy(id=f"1-a{offset}", replaces="input"))
    park(stand, 2, Copy(id="2-b2", replaces="1-a2"))
    tier = Partition(topic=stand.topics.tiers[0], number=0)
    with ReplayReader(stand.settings.kafka, group=relay_group(stand.settings)) as relay:
        relay.commit({tier: (1, Counter())})  # the first record of the tier, event 0, was released

    planned, tally = stand.run(source=ReplaySource.RETRY)

    assert planned.plan.left_out == {LeftOut.SUPERSEDED: 1}
    assert tally == {SENT: 2, LeftOut.SUPERSEDED: 1}
    sent = {retry.origin.offset: retry for _, retry in stand.sent()}
    assert {offset: retry.copy.replaces for offset, retry in sent.items()} == {2: "2-b2", 4: "1-a4"}
    assert {retry.replay_source for retry in sent.values()} == {ReplaySource.RETRY}
    assert stand.work() == {2: 1, 4: 1}
    # The relay releases the old records all the same: nobody answers them again.
    released = Copy(id="1-a4", replaces="input")
    assert isinstance(asyncio.run(stand.state.take(stand.ref(4), released)).verdict, Stale)


def test_an_unfinished_replay_is_taken_up_by_its_name_or_left_for_a_new_one(stand: ReplayStand) -> None:
    """`--id` brings its own filters; `--new` starts afresh, and what was sent before is not sent again."""
    stand.die(*range(12))
    killed = stand.replay(reasons=("attempts-exhausted",))
    first = killed.plan()
    stand.dies_after = 2
    with pytest.raises(KilledError):
        killed.run(first, rate_per_s=8, progress=lambda sent: None)
    stand.dies_after = None
    assert stand.work() == Counter({retry.origin.offset: 1 for _, retry in stand.sent()})
    sent = len(stand.sent())

    named = stand.replay().plan(name=first.plan.replay_id)
    assert named.plan.command.filters == Filters(reasons=("attempts-exhausted",))
    assert (len(named.plan.sends), named.plan.already_sent) == (12 - sent, sent)
    assert stand.replay().plan().resumes is None  # other words
    with pytest.raises(ConfigurationError, match="no replay"):
        stand.replay().plan(name="nonsense")

    afresh = stand.replay(reasons=("attempts-exhausted",))
    again = afresh.plan(afresh=True)
    assert (again.resumes, len(again.plan.sends)) == (None, 12 - sent)
    tally = afresh.run(again, rate_per_s=FAST, progress=lambda sent: None)
    assert tally[SENT] == 12
    stand.work()
    assert len(stand.sent()) == 12
    with pytest.raises(ConfigurationError, match="has ended"):
        stand.replay().plan(name=first.plan.replay_id)


def park(stand: ReplayStand, offset: int, copy: Copy) -> None:
    """Let a worker park an event as this copy, in the first tier."""

    async def work() -> None:
        old = Copy(id=copy.replaces or "input")
        verdict = (await stand.state.take(stand.ref(offset), old)).verdict
        assert isinstance(verdict, Run), verdict
        await stand.state.park(stand.ref(offset), old, copy, verdict.gen, NOW_MS + 60_000)

    letter = stand.letter(offset, copy=copy, tier=1, due_at_ms=NOW_MS + 60_000, reason="rate-limited")
    stand.store(replace(letter, topic=stand.topics.tiers[0]))
    asyncio.run(work())
