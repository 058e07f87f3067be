"""When fresh events are taken, and how an outage ends although nothing was in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict
from sluicegate.limiter.api import Ask, Cost, Lane, Permit, Signal, SignalKind
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.processing.reading import Delivered
from streams.runtime.allowance import Allowance
from streams.runtime.assignment import Assignment, Committed
from streams.runtime.consumer import Fetched
from streams.runtime.intake import Intake, IntakeRules
from tests.unit.processing_world import World

PARTITIONS = 3
IN_PLACE_MAX_S = 5.0


@dataclass
class Stand:
    """An intake over a real dispatcher, whose items work until they are told to finish."""

    views: list[FakeLimiter] = field(default_factory=lambda: [FakeLimiter()])
    now_s: float = 100.0
    operator_pauses: bool = False

    def __post_init__(self) -> None:
        self.world = World()
        self.crashes: list[BaseException] = []
        self.working: dict[int, asyncio.Event] = {}
        self.dispatcher: KeyedDispatcher[Delivered] = KeyedDispatcher(
            self._work,
            max_running=8,
            max_admitted=80,
            max_admitted_bytes=1_000_000,
            serial=False,
            on_crash=self.crashes.append,
        )
        self.intake = Intake(
            rules=IntakeRules(
                stream=self.world.stream,
                due_topic=self.world.topics.due,
                in_place_max_s=IN_PLACE_MAX_S,
                publish_timeout_s=1.0,
                views=self.views,
            ),
            reader=self.world.reader,
            dispatcher=self.dispatcher,
            metrics=self.world.metrics,
            on_fatal=self.crashes.append,
            is_paused=lambda: self.operator_pauses,
            now_s=lambda: self.now_s,
        )
        tps = [TP(topic, number) for topic in self.topics for number in range(PARTITIONS)]
        self.assignment = Assignment.restore(1, {tp: Committed(offset=0, metadata="") for tp in tps})
        self._offsets = iter(range(1_000))

    @property
    def topics(self) -> tuple[str, str]:
        """Return the input and `due`."""
        return self.world.topics.input, self.world.topics.due

    @property
    def is_paused(self) -> bool:
        """What the metric says."""
        labels = {"stream": self.world.stream}
        return self.world.metrics.registry.get_sample_value("sluicegate_intake_paused", labels) == 1.0

    async def _work(self, item: Item[Delivered], slot: Slot[Delivered]) -> Verdict:
        finished = self.working[item.offset] = asyncio.Event()
        await finished.wait()
        del self.working[item.offset]
        return Verdict.ACK

    def fresh(self) -> int:
        """Return how many records one fetch may take from the input, as the consumer works it out."""
        return self._may_take(self.topics[0])

    def due(self) -> int:
        """Return how many from `due`."""
        return self._may_take(self.topics[1])

    def _may_take(self, topic: str) -> int:
        of_partition = {
            TP(topic, number): room
            for number in range(PARTITIONS)
            if (room := self.intake.room(topic, number)) > 0
        }
        allowance = Allowance(of_partition=of_partition, of_topic={topic: self.intake.room_of(topic)})
        return sum(_shares(allowance))

    async def take(self, topic: str | None = None) -> int:
        """Take one record as an agent does; return its offset once it is at work."""
        tp = TP(topic or self.topics[0], 0)
        offset = next(self._offsets)
        value = orjson.dumps({"conversation_id": "c", "turn": 0, "speaker": "customer", "text": ""})
        record = ConsumerRecord(
            *(tp.topic, tp.partition, offset, 1000, 0),
            *(b"c", value, None, 1, len(value), ()),
        )
        self.assignment.trackers[tp].delivered(offset)
        self.intake.take(Fetched(tp=tp, record=record, assignment=self.assignment))
        await asyncio.sleep(0)
        assert offset in self.working
        return offset

    async def finish(self, offset: int) -> None:
        """Let an item at work end."""
        self.working[offset].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _shares(allowance: Allowance) -> Iterator[int]:
    """Take as the consumer's thread does, partition after partition, as long as anything may be taken."""
    while allowance := allowance.open():
        tp = next(iter(allowance.of_partition))
        count = allowance.share(tp, [other for other in allowance.of_partition if other != tp])
        allowance.took(tp, count)
        yield count


async def probing(view: FakeLimiter) -> Permit:
    """Ask as an event at work does."""
    permit = await view.acquire(Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=0))
    assert isinstance(permit, Permit)
    view.settle(permit, None)
    return permit


async def test_a_long_block_pauses_the_input_and_never_due() -> None:
    """Blocked for longer than an in-place retry may wait, nothing fresh is taken; due is."""
    stand = Stand()
    assert stand.fresh() > 1
    assert not stand.is_paused

    stand.views[0].block(IN_PLACE_MAX_S)
    assert stand.fresh() > 1
    stand.views[0].block(IN_PLACE_MAX_S + 1)

    assert stand.fresh() == 0
    assert stand.due() > 1
    assert stand.is_paused


async def test_an_open_circuit_pauses_the_input_and_never_due() -> None:
    """The topic keeps the backlog from the first moment; when it closes intake goes on."""
    stand = Stand()
    stand.views[0].open_circuit()

    assert stand.fresh() == 0
    assert stand.due() > 1
    assert stand.is_paused

    stand.views[0].close_circuit()
    assert stand.fresh() > 1
    assert not stand.is_paused


async def test_a_probe_that_is_due_lets_exactly_one_fresh_record_in() -> None:
    """One from all partitions together, and no second one before the first is finished."""
    stand = Stand()
    stand.views[0].open_circuit()
    stand.views[0].advance(5)
    assert stand.fresh() == 1
    assert stand.is_paused

    offset = await stand.take()
    stand.now_s += 60
    assert stand.fresh() == 0

    await stand.finish(offset)
    assert stand.fresh() == 1


async def test_records_let_in_for_a_probe_are_a_second_apart() -> None:
    """An event that needs no call ends at once: the topic must not run through a circuit that way."""
    stand = Stand()
    stand.views[0].open_circuit()
    stand.views[0].advance(5)
    await stand.finish(await stand.take())
    assert stand.views[0].wants_probe()

    assert stand.fresh() == 0
    stand.now_s += 0.9
    assert stand.fresh() == 0
    stand.now_s += 0.1
    assert stand.fresh() == 1


async def test_a_worker_with_work_in_hand_lets_nothing_in_for_a_probe() -> None:
    """What it has, due or fresh, makes the probe."""
    stand = Stand()
    offset = await stand.take(stand.topics[1])
    stand.views[0].open_circuit()
    stand.views[0].advance(5)
    stand.now_s += 60
    assert stand.fresh() == 0

    await stand.finish(offset)
    assert stand.fresh() == 1


async def test_an_outage_ends_by_itself_although_nothing_was_in_hand() -> None:
    """The one record's probe fails, the next one's succeeds, and intake is open again."""
    stand = Stand()
    (view,) = stand.views
    view.open_circuit(is_outage=True)
    for wait_s, kind in ((5, SignalKind.DOWN), (10, SignalKind.ALIVE)):
        view.advance(wait_s)
        stand.now_s += wait_s
        assert stand.fresh() == 1
        offset = await stand.take()
        await view.report(await probing(view), Signal(kind=kind, reason="", event="e"))
        await stand.finish(offset)

    assert stand.fresh() > 1
    assert not stand.is_paused


async def test_with_several_routes_the_input_pauses_only_when_all_are_closed() -> None:
    """One open route is enough to go on; of closed ones any may let the probe in."""
    stand = Stand(views=[FakeLimiter(scope="main"), FakeLimiter(scope="backup")])
    main, backup = stand.views
    main.open_circuit()
    assert stand.fresh() > 1

    backup.block(60)
    assert stand.fresh() == 0
    assert stand.is_paused

    main.advance(5)
    assert stand.fresh() == 1
    backup.advance(60)
    assert stand.fresh() > 1


async def test_an_operators_pause_stops_the_input_due_and_probes() -> None:
    """An incident wants all calls to stop: nothing is taken from anywhere until it is over."""
    stand = Stand()
    stand.operator_pauses = True
    assert (stand.fresh(), stand.due()) == (0, 0)
    assert stand.is_paused
    stand.views[0].open_circuit()
    stand.views[0].advance(5)
    assert stand.fresh() == 0
    stand.views[0].close_circuit()

    stand.operator_pauses = False

    assert stand.fresh() > 1
    assert stand.due() > 1
    assert not stand.is_paused


async def test_a_draining_worker_takes_nothing() -> None:
    """Neither fresh nor due, probe or not."""
    stand = Stand()
    stand.views[0].open_circuit()
    stand.views[0].advance(5)
    stand.intake.stop()
    assert (stand.fresh(), stand.due()) == (0, 0)
