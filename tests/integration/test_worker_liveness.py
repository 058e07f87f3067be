"""What /livez says of a running worker whose parts get stuck, and of one that merely waits.

The worker runs; only the clock by which it is judged is moved by hand, so that an hour takes no time.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from faust.types import TP

from sluicegate.local.broker import EmbeddedBroker, Request
from streams.runtime.allowance import Allowance
from streams.runtime.app import AppPlan
from streams.runtime.consumer import Fetched, TrackingConsumer
from streams.runtime.consumer_thread import TrackingConsumerThread
from streams.runtime.liveness import Liveness, Vitals
from tests.integration.deployment import Deployment
from tests.integration.test_faust_transport import (
    PARTITIONS,
    START_S,
    OpenGate,
    assigned,
    consumer_of,
    plan_for,
    publish,
    running,
)
from tests.waiting import wait_until, wait_until_sync

HOUR_S = 3600.0
SOON_S = 10.0
UNEXPECTED = 35  # UNSUPPORTED_VERSION: nothing that a heartbeat is ever answered with


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    """Return a broker that these tests may stop."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def plan(broker: EmbeddedBroker, prefix: str) -> AppPlan:
    """Make the two topics of a stream."""
    plan = plan_for(broker.address, prefix)
    broker.create_topics({plan.input_topic: PARTITIONS, plan.due_topic: PARTITIONS})
    return plan


@dataclass
class Watched:
    """A running worker and the clock that it is judged by."""

    consumer: TrackingConsumer
    gate: OpenGate
    vitals: Vitals
    app: Any
    now_s: list[float]
    release: threading.Event = field(default_factory=threading.Event)
    hangs: threading.Event = field(default_factory=threading.Event)

    @property
    def thread(self) -> TrackingConsumerThread:
        """The thread that runs aiokafka."""
        return self.consumer._thread

    @property
    def client(self) -> Any:
        """aiokafka's consumer."""
        return self.thread._ensure_consumer()

    async def hang(self, *_: object, **__: object) -> Any:
        """Take the place of something and be stuck there until the test ends."""
        self.hangs.set()
        await asyncio.to_thread(self.release.wait)

    async def has_hung(self) -> None:
        """Return once it is stuck."""
        await wait_until(self.hangs.is_set, timeout_s=SOON_S, what="something hangs")

    def dead(self) -> list[str]:
        """What /livez names."""
        return Liveness(
            self.vitals, consumer=lambda: self.consumer, redis_is_up=lambda: True, is_draining=lambda: False
        ).dead()

    async def is_alive_after(self, seconds: float) -> None:
        """Let time pass and see that everything is heard of again."""
        self.now_s[0] += seconds
        await wait_until(lambda: self.dead() == [], timeout_s=SOON_S, what="every part turns again")

    async def names_after(self, seconds: float, what: str) -> None:
        """Let time pass and see that this alone stays silent."""
        self.now_s[0] += seconds
        await wait_until(
            lambda: [reason.partition(" stuck")[0] for reason in self.dead()] == [what],
            timeout_s=SOON_S,
            what=f"{what} is named",
        )


@asynccontextmanager
async def watched(plan: AppPlan, gate: OpenGate) -> AsyncIterator[Watched]:
    """Run a worker that has its partitions."""
    now_s = [1000.0]
    vitals = Vitals(now_s=lambda: now_s[0])
    tick = asyncio.create_task(vitals.tick())
    async with running(plan, gate, vitals) as app:
        await wait_until(lambda: len(assigned(app)) == 2 * PARTITIONS, timeout_s=START_S)
        worker = Watched(consumer=consumer_of(app), gate=gate, vitals=vitals, app=app, now_s=now_s)
        try:
            yield worker
        finally:
            worker.release.set()
    tick.cancel()


# --- waiting is not being stuck ------------------------------------------------------------------


async def test_a_worker_that_takes_nothing_for_an_hour_is_alive(
    plan: AppPlan, broker: EmbeddedBroker
) -> None:
    """Paused, throttled, behind an open circuit: the gate has no room then, and nothing is stuck."""
    publish(broker.address, plan.input_topic, 30)
    gate = OpenGate()
    gate.open = False
    async with watched(plan, gate) as worker:
        for _ in range(2):
            await worker.is_alive_after(HOUR_S)
        assert gate.taken == []
        gate.open = True
        await wait_until(lambda: len(gate.taken) == 30, timeout_s=START_S)


async def test_a_worker_without_anything_to_take_is_alive(plan: AppPlan) -> None:
    """An empty topic is asked again and again, and the group answers heartbeats."""
    async with watched(plan, OpenGate()) as worker:
        await worker.is_alive_after(HOUR_S)
        await wait_until(
            lambda: not worker.vitals.answered.is_resting and worker.vitals.answered.silence_s == 0,
            timeout_s=SOON_S,
            what="a heartbeat is answered after that hour",
        )


async def test_a_worker_whose_broker_is_away_is_alive(plan: AppPlan, broker: EmbeddedBroker) -> None:
    """Restarting it would bring no broker back; it goes on asking, and goes on working afterwards."""
    gate = OpenGate()
    async with watched(plan, gate) as worker:
        broker.down()
        try:
            for _ in range(2):
                await worker.is_alive_after(HOUR_S)
        finally:
            broker.up()
        publish(broker.address, plan.input_topic, 6)
        await wait_until(lambda: len(gate.taken) == 6, timeout_s=START_S)


# --- what is stuck is named ----------------------------------------------------------------------


async def test_heartbeats_that_are_not_made_any_more_are_named(plan: AppPlan) -> None:
    """A coordinator that hangs makes a zombie that the group has long forgotten."""
    async with watched(plan, OpenGate()) as worker:
        worker.client._coordinator.ensure_coordinator_known = worker.hang
        await worker.has_hung()
        await worker.names_after(30, "heartbeats")


async def test_a_fetch_that_outlasts_its_own_timeout_is_named(plan: AppPlan) -> None:
    """The loops turn and find nothing: only the request itself shows that nothing will ever come."""
    async with watched(plan, OpenGate()) as worker:
        send = worker.client._client.send

        async def send_but_fetches(node: int, request: Any, **options: Any) -> Any:
            if type(request).__name__.startswith("Fetch"):
                await worker.hang()
            return await send(node, request, **options)

        worker.client._client.send = send_but_fetches
        await worker.has_hung()
        # Connecting and answering have 30 s each: until then it may still be the broker that is silent.
        await worker.is_alive_after(60)
        await worker.names_after(30, "fetch past its own timeout: 1")


async def test_a_fetcher_that_does_not_turn_is_named(plan: AppPlan) -> None:
    """aiokafka's routine may end or hang without a word; what we ask of it is then answered with nothing."""
    async with watched(plan, OpenGate()) as worker:
        fetcher = worker.client._fetcher
        worker.thread.thread_loop.call_soon_threadsafe(fetcher._fetch_task.cancel)
        await wait_until(fetcher._fetch_task.done, timeout_s=SOON_S)
        await worker.names_after(30, "fetcher")


async def test_a_fetch_loop_that_does_not_come_round_is_named(plan: AppPlan) -> None:
    """Our own loop between the client and the agents."""
    async with watched(plan, OpenGate()) as worker:
        worker.thread.fetch = worker.hang  # type: ignore[method-assign]  # what is stuck, made by hand
        await worker.has_hung()
        await worker.names_after(30, "delivery")


async def test_an_agent_that_takes_nothing_is_named(plan: AppPlan, broker: EmbeddedBroker) -> None:
    """Records are handed over and nobody is there: Faust's stream would keep them for ever."""
    gate = OpenGate()
    async with watched(plan, gate) as worker:
        for agent in worker.app.agents.values():
            await agent.stop()
        publish(broker.address, plan.input_topic, 6)
        await wait_until(
            lambda: (
                worker.consumer.current_assignment is not None
                and worker.consumer.current_assignment.in_transit.total() > 0
                and not worker.vitals.agents.is_resting
            ),
            timeout_s=START_S,
        )
        await worker.names_after(30, "agent")


async def test_a_rebalance_that_does_not_end_is_named(plan: AppPlan) -> None:
    """The longest that letting go may take is 30 s; heartbeats go on meanwhile and hide nothing."""
    gate = OpenGate()
    async with watched(plan, gate) as worker:
        gate.forget = worker.hang  # type: ignore[method-assign]  # what is stuck, made by hand
        worker.thread.thread_loop.call_soon_threadsafe(worker.client._coordinator.request_rejoin)
        await worker.has_hung()
        await worker.names_after(31, "group coordinator")


async def test_a_consumer_thread_that_is_stuck_is_named(plan: AppPlan) -> None:
    """aiokafka lives in a loop of its own, which can get stuck while ours turns."""
    async with watched(plan, OpenGate()) as worker:
        worker.thread.thread_loop.call_soon_threadsafe(worker.release.wait)
        worker.now_s[0] += HOUR_S
        await wait_until(
            lambda: any(reason.startswith("consumer thread") for reason in worker.dead()), timeout_s=SOON_S
        )
        worker.release.set()
        await worker.is_alive_after(0)


def test_the_health_port_of_a_worker_answers_while_its_event_loop_is_blocked(
    broker: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    """A handler that blocks is the likeliest cause: what is stuck can only be named by somebody else."""
    with Deployment(
        kafka=broker.address,
        prefix=prefix,
        folder=tmp_path,
        stream={"agent": "tests.integration.blocking_handler:reply"},
    ) as deployment:
        broker.create_topics(deployment.topics)
        go_on = tmp_path / "go-on"
        event = {"conversation_id": "c", "turn": 0, "speaker": "customer", "text": str(go_on)}
        deployment.publish("support-chat", [event], key="conversation_id")
        worker = deployment.start_worker("support-chat")
        wait_until_sync(go_on.with_suffix(".blocked").exists, timeout_s=START_S, what="the handler blocks")
        port = re.search(
            r'"health.listening".*?"port": ?(\d+)|"port": ?(\d+).*?"health.listening"', worker.tail()
        )
        assert port is not None, worker.tail()
        url = f"http://127.0.0.1:{port[1] or port[2]}/livez"
        assert httpx.get(url, timeout=5, trust_env=False).json() == {"status": "ok", "reasons": []}
        go_on.touch()
        assert worker.stop() == 0


# --- what mends itself ---------------------------------------------------------------------------


async def test_heartbeats_begin_again_after_an_error_that_ended_them(
    plan: AppPlan, broker: EmbeddedBroker
) -> None:
    """aiokafka starts an ended heartbeat only at the next join, so a member that goes on must join anew."""
    async with watched(plan, OpenGate()) as worker:
        before = worker.consumer.current_assignment
        broker.fail(Request.HEARTBEAT, [UNEXPECTED])
        await wait_until(
            lambda: worker.consumer.current_assignment not in (before, None),
            timeout_s=START_S,
            what="a new assignment",
        )
        await worker.is_alive_after(HOUR_S)
        assert worker.gate.fatal == []


async def test_commits_that_cannot_be_read_are_read_again(
    plan: AppPlan, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An assignment whose commits are unknown takes nothing; it neither crashes nor waits for a rebalance."""
    failures: list[Exception] = [KafkaError("no coordinator"), TimeoutError()]
    read = TrackingConsumerThread.committed

    async def committed(self: TrackingConsumerThread) -> Any:
        if failures:
            raise failures.pop()
        return await read(self)

    monkeypatch.setattr(TrackingConsumerThread, "committed", committed)
    publish(broker.address, plan.input_topic, 6)
    gate = OpenGate()
    async with watched(plan, gate):
        await wait_until(lambda: len(gate.taken) == 6, timeout_s=START_S)
    assert failures == []
    assert gate.fatal == []


async def test_an_error_of_one_partition_keeps_what_the_others_gave(
    plan: AppPlan, broker: EmbeddedBroker
) -> None:
    """Their positions have moved: what is not returned now would be skipped until the next rebalance."""
    publish(broker.address, plan.input_topic, 12)
    gate = OpenGate()
    gate.open = False
    async with watched(plan, gate) as worker:
        fetcher, taken = worker.client._fetcher, dict[int, int]()
        await wait_until(lambda: len(fetcher._records) == PARTITIONS, timeout_s=SOON_S)
        bad = TopicPartition(plan.input_topic, PARTITIONS - 1)
        allowed = {TP(plan.input_topic, number): 2 for number in range(PARTITIONS)}

        def give_an_error() -> None:
            fetcher._records[bad] = FetchError(error=KafkaError("of one"), backoff=0)
            worker.thread._turn = PARTITIONS - 1  # the others come first

        worker.thread.thread_loop.call_soon_threadsafe(give_an_error)
        batch = await worker.thread.fetch(
            Allowance(of_partition=allowed, of_topic={plan.input_topic: 100}), 0.1
        )
        taken = {tp.partition: len(records) for tp, records in batch.records.items()}
        assert taken == dict.fromkeys(range(PARTITIONS - 1), 2)


async def test_an_exception_in_an_agent_stops_the_worker_and_acknowledges_nothing(
    plan: AppPlan, broker: EmbeddedBroker
) -> None:
    """Faust would log it, start the agent again behind the record, and go on: a loss that nobody sees."""
    gate = OpenGate()

    def fail(fetched: Fetched) -> bool:
        raise ValueError("a bug of ours")

    gate.finish = fail
    async with watched(plan, gate) as worker:
        publish(broker.address, plan.input_topic, 1)
        await wait_until(lambda: bool(gate.fatal), timeout_s=SOON_S)
        assert isinstance(gate.fatal[0], ValueError)
        current = worker.consumer.current_assignment
        assert current is not None
        assert current.in_transit.total() == 0
        # Positions of empty partitions may be committed; nothing above the beginning, and no done-map.
        unconfirmed = current.unconfirmed().values()
        assert {(commit.offset, commit.metadata) for commit in unconfirmed} <= {(0, "")}
        await worker.consumer.commit()
    reader = Consumer({"bootstrap.servers": broker.address, "group.id": plan.group})
    places = [Place(plan.input_topic, number) for number in range(PARTITIONS)]
    committed = reader.committed(places, timeout=20)
    reader.close()
    assert all(place.offset <= 0 and not (place.metadata or "").rstrip("\0") for place in committed)
