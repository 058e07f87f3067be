"""Metrics: labels stay within their sets, and what is held, late or away shows as it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from faust.types import TP

from consumers.relay.held_partition import HeldPartition, Room, Window
from consumers.relay.letter_ages import LetterAges
from consumers.relay.observing import Observer
from consumers.relay.plan import Mended, Move, Tier, hold
from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict
from sluicegate.delivery.done_map import Refusal
from sluicegate.delivery.due_queue import DueEntry
from sluicegate.delivery.offsets import OffsetTracker
from sluicegate.kafka.admin import Partition
from sluicegate.limiter.sight import CIRCUIT_REASONS
from sluicegate.llm.outcomes import Halted, Outcome, Reason, Rejected, Throttled
from sluicegate.records import Record
from sluicegate.settings import load_settings
from sluicegate.telemetry.labels import CIRCUIT, OTHER, REPAIR, Bound, refused_map
from sluicegate.telemetry.metrics import Availability, Metrics
from streams.runtime.assignment import Assignment
from streams.runtime.liveness import Vitals
from streams.runtime.observing import WorkerObserver
from tests.unit.processing_world import World, answer

NOW_MS = 1_700_000_000_000
TIER = Tier(
    stream="support-chat",
    number=2,
    topic="retry.2",
    least_ms=0,
    most_ms=3_600_000,
    due_topic="due",
    dlq_topic="dlq",
    siblings=("retry.1", "retry.2"),
    bounds_s=(5.0, 3600.0),
    horizon_s=86_400.0,
    retention_s=2_592_000,
)
PLACE = Partition(topic="retry.2", number=0)
ROOM = Room(is_full=False, sure_bytes=1000)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one series' value."""
    return metrics.registry.get_sample_value(f"sluicegate_{name}", labels)


async def test_whatever_happens_to_events_every_label_is_of_its_set() -> None:
    """Answers, refusals, rejections, bad records and bugs: no series that its label does not foresee."""
    left: list[Outcome] = [
        answer(),
        Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0),
        Rejected(reason=Reason.CONTENT_REFUSED, http_status=400),
        Halted(reason=Reason.MONEY, http_status=429),
    ]
    world = World(script=lambda request: left.pop(0) if left else answer())
    for turn in range(3):
        await world.deliver(world.chat(turn=turn, key=None))
    await world.deliver(world.record(b"no json"))
    await world.deliver(world.record(None, topic=world.topics.due))
    world.advance(70)
    await world.deliver(world.due_record(world.parked[0]))

    known = {family.name.removesuffix("_total"): family for family in world.metrics.families}
    seen = 0
    for metric in world.metrics.registry.collect():
        for label in known[metric.name].labels if metric.name in known else ():
            values = {sample.labels[label.name] for sample in metric.samples}
            assert OTHER not in values
            assert label.configured or values <= label.values, (metric.name, values)
            seen += len(values)
    assert seen > 20


def test_a_value_that_no_set_foresees_is_counted_as_other() -> None:
    """A reason of a newer version, or one that a handler made up, is one more series and no more."""
    metrics = Metrics()
    for number in range(100):
        metrics.dead_letters.labels(stream="support-chat", reason=f"my card is {number}").inc()
        metrics.dead_letters.labels("support-chat", f"positional {number}").inc()

    assert value(metrics, "dead_letters_total", stream="support-chat", reason=OTHER) == 200
    (family,) = metrics.dead_letters.collect()
    assert {sample.labels["reason"] for sample in family.samples} == {OTHER}


def test_the_sets_are_those_of_the_code_that_counts() -> None:
    """What relay and limiter count by words of their own is in the labels' sets."""
    assert {mended.value for mended in Mended} <= REPAIR.values
    assert {refused_map(refusal).value for refusal in Refusal} <= REPAIR.values
    assert set(CIRCUIT_REASONS.values()) == CIRCUIT.values


def test_the_first_dead_letter_is_a_growth() -> None:
    """A series that begins at 1 shows no increase, and its alert would sleep through the first."""
    metrics = Metrics()
    metrics.expect_stream("support-chat")
    assert value(metrics, "dead_letters_total", stream="support-chat", reason="wrong-schema") == 0
    assert value(metrics, "events_ended_total", stream="support-chat", kind="result") == 0


def test_redis_is_away_since_the_first_answer_that_did_not_come() -> None:
    """The age counts from the first failure, not from the last, and ends with an answer."""
    metrics, now_s = Metrics(), [100.0]
    redis = Availability(metrics.redis_up, metrics.redis_away_seconds, now_s=lambda: now_s[0])
    assert value(metrics, "redis_away_seconds") == 0
    redis.went_away()
    now_s[0] = 160
    redis.went_away()
    assert (value(metrics, "redis_up"), value(metrics, "redis_away_seconds")) == (0, 60)
    redis.answered()
    assert (value(metrics, "redis_up"), value(metrics, "redis_away_seconds")) == (1, 0)
    assert redis.is_up


def test_what_is_left_of_a_partition_is_what_is_unfinished_or_unread() -> None:
    """Neither what a former owner finished nor what is done here counts as lag."""
    tracker = OffsetTracker()
    assert tracker.remaining(7) == 7
    tracker.restore(3, "")
    assert tracker.remaining(10) == 7
    for offset in (3, 4, 5):
        tracker.delivered(offset)
    tracker.done(4)
    assert (tracker.remaining(10), tracker.span) == (6, 3)
    commit = tracker.snapshot()
    assert commit is not None
    assert tracker.metadata_bytes == len(commit.metadata) > 0
    follower = OffsetTracker()
    follower.restore(commit.offset, commit.metadata)
    assert follower.remaining(10) == 6


def held_partition(*, stored_ms: int, due_ms: int, offsets: int) -> HeldPartition:
    """Return a partition with records of that age and due time in memory."""
    partition = HeldPartition(place=PLACE, tier=TIER, window=Window(max_records=4))
    partition.tracker.restore(0, "")
    headers = (
        ("retry-origin-topic", b"support-chat"),
        ("retry-origin-partition", b"0"),
        ("retry-origin-offset", b"7"),
        ("retry-copy", b"1-a"),
        ("retry-due-at-ms", b"%d" % due_ms),
    )
    for offset in range(offsets):
        record = Record(
            topic="retry.2",
            partition=0,
            offset=offset,
            timestamp_ms=stored_ms + offset,
            key=None,
            value=b"",
            headers=headers,
        )
        held = hold(record, TIER, partitions=None, now_ms=NOW_MS)
        partition.tracker.delivered(offset)
        entry = DueEntry(due_ms=held.wake_at_ms, partition=PLACE, offset=offset, size_bytes=1, payload=held)
        partition.entered(entry, stored_ms)
    return partition


def test_the_relay_shows_what_is_parked_how_old_and_how_overdue() -> None:
    """Alerts go by age: of the oldest record for its retention, of the longest due for its promise."""
    metrics = Metrics()
    observer = Observer([TIER], metrics)
    tier = {"stream": "support-chat", "tier": "2"}
    partition = held_partition(stored_ms=NOW_MS - 600_000, due_ms=NOW_MS - 90_000, offsets=2)

    observer.look([partition], ROOM, {PLACE: 12}, NOW_MS)

    assert value(metrics, "relay_parked", **tier) == 12
    assert value(metrics, "relay_waiting", **tier) == 2
    assert value(metrics, "relay_oldest_parked_seconds", **tier) == 600
    assert value(metrics, "relay_overdue_seconds", **tier) == 90
    assert value(metrics, "relay_window_fill_ratio", **tier) == 0.5
    assert value(metrics, "relay_watermark_lag_records", **tier) == 2
    assert value(metrics, "relay_retention_seconds", **tier) == 2_592_000

    observer.look([], ROOM, {PLACE: 12}, NOW_MS)
    assert value(metrics, "relay_oldest_parked_seconds", **tier) == 0


def test_the_relay_shows_how_old_the_oldest_dead_letters_are() -> None:
    """The oldest of a stream's partitions counts, each stream by itself; when all are gone it is 0 again."""
    metrics = Metrics()
    ages = LetterAges(load_settings(None, {"SLUICEGATE_TOPICS__DLQ_RETENTION_S": "3600"}), metrics)
    chat, documents = ages.topics

    ages.show(
        {
            Partition(topic=chat, number=0): NOW_MS - 60_000,
            Partition(topic=chat, number=3): NOW_MS - 90_000,
            Partition(topic=documents, number=1): NOW_MS + 5_000,
        },
        NOW_MS,
    )

    assert value(metrics, "relay_oldest_dead_letter_seconds", stream="support-chat") == 90
    assert value(metrics, "relay_oldest_dead_letter_seconds", stream="documents") == 0
    assert value(metrics, "relay_dlq_retention_seconds", stream="documents") == 3600

    ages.show({}, NOW_MS)
    assert value(metrics, "relay_oldest_dead_letter_seconds", stream="support-chat") == 0


def test_the_relay_shows_by_which_bound_a_partition_is_held_back() -> None:
    """A paused partition whose next record may be due counts under its bound alone."""
    metrics = Metrics()
    observer = Observer([TIER], metrics)
    tier = {"stream": "support-chat", "tier": "2"}
    partition = held_partition(stored_ms=NOW_MS - 1000, due_ms=NOW_MS, offsets=4)
    partition.paused = True

    observer.look([partition], ROOM, {}, NOW_MS)
    shown = {bound: value(metrics, "relay_held_back_partitions", **tier, bound=bound) for bound in Bound}
    assert shown == {Bound.WINDOW: 1, Bound.MEMORY: 0, Bound.DONE_MAP: 0}
    assert value(metrics, "relay_waiting_bytes", **tier) == 4

    partition.paused = False
    observer.look([partition], ROOM, {}, NOW_MS)
    assert value(metrics, "relay_held_back_partitions", **tier, bound="window") == 0


@pytest.mark.parametrize(("early_ms", "expected"), [(-5, 0), (0, 0), (1, 1)])
def test_an_early_release_is_counted_and_a_late_one_is_not(early_ms: int, expected: int) -> None:
    """The counter that must stay 0 counts a millisecond."""
    metrics = Metrics()
    partition = held_partition(stored_ms=NOW_MS - 1000, due_ms=NOW_MS + early_ms, offsets=1)

    Observer([TIER], metrics).moved(partition.held[0], Move.RELEASED, NOW_MS)

    tier = {"stream": "support-chat", "tier": "2"}
    assert value(metrics, "relay_early_releases_total", **tier) == expected
    assert value(metrics, "relay_released_total", **tier) == 1


class Owning:
    """Stands in for the consumer: what the observer reads of it."""

    def __init__(self, assignment: Assignment) -> None:
        self.current_assignment = assignment
        self.missed: Counter[str] = Counter()

    async def ends(self) -> dict[TP, int]:
        """Return where the partitions end."""
        return dict.fromkeys(self.current_assignment.trackers, 10)


async def test_a_worker_shows_its_lag_and_its_oldest_event_by_topic() -> None:
    """Input and due apart: a retry that waits must not hide behind a fresh backlog."""
    world = World()

    async def work(item: Item[Any], slot: Slot[Any]) -> Verdict:
        raise AssertionError("nothing is started")

    dispatcher: KeyedDispatcher[Any] = KeyedDispatcher(
        work, max_running=1, max_admitted=9, max_admitted_bytes=10_000, serial=True, on_crash=print
    )
    dispatcher.hold(True)
    dispatcher.submit(world.item(world.chat()))
    trackers = {TP(world.topics.input, 3): OffsetTracker(), TP(world.topics.due, 3): OffsetTracker()}
    for tracker in trackers.values():
        tracker.restore(0, "")
    trackers[TP(world.topics.input, 3)].delivered(0)
    refused = {TP(world.topics.due, 3): Refusal.GARBAGE}
    consumer: Any = Owning(Assignment(generation=1, trackers=trackers, refused_maps=refused))
    now_s = [100.0]
    vitals = Vitals(now_s=lambda: now_s[0])
    observer = WorkerObserver(
        stream="support-chat",
        due_topic=world.topics.due,
        metrics=world.metrics,
        dispatcher=dispatcher,
        consumer=lambda: consumer,
        vitals=vitals,
        wall_s=lambda: world.clock.ms / 1000 + 45,
    )

    await observer._ask(consumer)
    observer.look()
    consumer.missed[world.topics.due] += 7
    observer.look()
    observer.look()

    fresh = {"stream": "support-chat", "source": "input"}
    again = {"stream": "support-chat", "source": "due"}
    assert value(world.metrics, "lag_records", **fresh) == 10
    assert value(world.metrics, "lag_records", **again) == 10
    assert value(world.metrics, "events_oldest_seconds", **fresh) == 45
    assert value(world.metrics, "events_oldest_seconds", **again) == 0
    assert value(world.metrics, "assigned_partitions", **fresh) == 1
    assert value(world.metrics, "records_missed_total", **again) == 7
    assert value(world.metrics, "heartbeat_age_seconds") == 0
    vitals.answered.beat()
    now_s[0] += 7
    assert value(world.metrics, "heartbeat_age_seconds") == 7
    assert value(world.metrics, "fetch_age_seconds") == 0
    assert world.count("repairs", stream="support-chat", kind="done-map-garbage") == 1


async def test_the_wait_from_due_to_begun_is_measured_by_the_worker() -> None:
    """Release in time is half of the promise: the event must also find a worker."""
    world = World(script=lambda request: answer())
    refused: Outcome = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)
    world.caller.script = lambda request: refused
    await world.deliver(world.chat())
    world.caller.script = lambda request: answer()
    world.advance(600)

    await world.deliver(world.due_record(world.parked[0]))

    assert value(world.metrics, "due_wait_seconds_count", stream="support-chat") == 1
    total = value(world.metrics, "due_wait_seconds_sum", stream="support-chat")
    assert total is not None
    assert 500 < total < 600
