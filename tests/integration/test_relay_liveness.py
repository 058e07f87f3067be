"""What /livez says of a relay whose loop or publishes are stuck, and of one that merely waits.

The relay runs; only the clock by which it is judged is moved by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Producer

from consumers.relay.plan import tiers_of
from consumers.relay.relay import Relay, RelayLimits
from sluicegate.clock import LocalClock
from sluicegate.errors import PublishError
from sluicegate.kafka.config import consumer_config
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.records import Origin, OutgoingRecord
from sluicegate.retry.headers import RetryHeaders, with_retry_headers
from sluicegate.settings import load_settings
from sluicegate.state.api import Copy
from sluicegate.telemetry.metrics import Metrics
from tests.waiting import wait_until_sync

HOUR_S = 3600.0
START_S = 20.0
PARTITIONS = 2


@dataclass
class SilentSender:
    """Takes records and tells no outcome until it is asked to."""

    outcomes: list[Callable[[PublishError | None], None]] = field(default_factory=list)
    may_tell: threading.Event = field(default_factory=threading.Event)

    def send(self, record: OutgoingRecord, on_done: Callable[[PublishError | None], None]) -> None:
        """Keep what would be told."""
        del record
        self.outcomes.append(on_done)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Tell everything once that is allowed."""
        del timeout_s
        while self.may_tell.is_set() and self.outcomes:
            self.outcomes.pop()(None)

    def flush(self, timeout_s: float) -> bool:
        """Do the same at the end."""
        self.poll(timeout_s)
        return not self.outcomes


@dataclass
class Stand:
    """A relay in a thread, its tiers on the embedded broker, and the clock that it is judged by."""

    broker: EmbeddedBroker
    prefix: str
    sender: SilentSender = field(default_factory=SilentSender)
    now_s: float = 1000.0
    stopping: threading.Event = field(default_factory=threading.Event)
    answer: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        settings = load_settings(None, {"SLUICEGATE_KAFKA__GROUP": self.prefix})
        self.tiers = tiers_of(settings)
        self.broker.create_topics(dict.fromkeys((tier.topic for tier in self.tiers), PARTITIONS))
        self.relay = Relay(
            tiers=self.tiers,
            consumer_config=consumer_config(
                self.broker.address,
                client_id=self.prefix,
                group=self.prefix,
                session_timeout_s=6,
                prefetch_records=100,
                prefetch_kbytes=100,
            ),
            publisher=self.sender,
            clock=LocalClock(),
            metrics=Metrics(),
            partition_counts=self._counts,
            limits=RelayLimits(publish_timeout_s=30, stop_timeout_s=1),
            monotonic=lambda: self.now_s,
        )

    def _counts(self) -> Mapping[str, int]:
        self.asked.set()
        self.answer.wait()
        return {tier.due_topic: PARTITIONS for tier in self.tiers}

    def park(self) -> None:
        """Put a record that is due into the first tier."""
        retry = RetryHeaders(
            origin=Origin(topic="in", partition=0, offset=0),
            origin_timestamp_ms=1,
            copy=Copy(id="1-a", replaces="input"),
            due_at_ms=1,
            attempt=1,
        )
        producer = Producer({"bootstrap.servers": self.broker.address})
        producer.produce(
            self.tiers[0].topic, value=b"{}", partition=0, headers=list(with_retry_headers((), retry))
        )
        assert producer.flush(10) == 0

    def dead(self) -> list[str]:
        """What /livez names of the relay."""
        vitals = (self.relay.loop, self.relay.publishes)
        return [complaint for vital in vitals if (complaint := vital.complaint()) is not None]


@pytest.fixture
def running(embedded_broker: EmbeddedBroker, prefix: str) -> Iterator[Callable[[], Stand]]:
    """Return a function that starts a relay; it ends with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_running(embedded_broker, prefix))


@contextmanager
def _running(broker: EmbeddedBroker, prefix: str) -> Iterator[Stand]:
    stand = Stand(broker=broker, prefix=prefix)
    thread = threading.Thread(target=stand.relay.run, args=(stand.stopping.is_set,), daemon=True)
    thread.start()
    try:
        yield stand
    finally:
        for event in (stand.stopping, stand.answer, stand.sender.may_tell):
            event.set()
        thread.join(START_S)
        assert not thread.is_alive()


def test_a_relay_with_nothing_to_do_for_an_hour_is_alive(running: Callable[[], Stand]) -> None:
    """Its loop turns whether or not there is a record."""
    stand = running()
    stand.answer.set()
    wait_until_sync(stand.asked.is_set, timeout_s=START_S, what="an assignment")
    stand.now_s += HOUR_S
    wait_until_sync(lambda: stand.dead() == [], what="the loop turns")


def test_a_relay_whose_loop_is_stuck_is_named_within_30_seconds(running: Callable[[], Stand]) -> None:
    """In a rebalance, too: each question to the broker has its own time."""
    stand = running()
    wait_until_sync(stand.asked.is_set, timeout_s=START_S, what="a question that gets no answer")
    stand.now_s += 20
    assert stand.dead() == []
    stand.now_s += 10
    assert [reason.partition(",")[0] for reason in stand.dead()] == ["loop stuck"]
    stand.answer.set()
    wait_until_sync(lambda: stand.dead() == [], what="the loop turns again")


def test_a_publish_that_outlasts_its_timeout_is_named(running: Callable[[], Stand]) -> None:
    """The loop turns on and would wait for that outcome for ever."""
    stand = running()
    stand.answer.set()
    stand.park()
    wait_until_sync(lambda: bool(stand.sender.outcomes), timeout_s=START_S, what="a release")
    stand.now_s += 45
    wait_until_sync(lambda: stand.dead() == [])
    stand.now_s += 15
    wait_until_sync(lambda: stand.dead() == ["publish past its own timeout: 1"])
    stand.sender.may_tell.set()
    wait_until_sync(lambda: stand.dead() == [], what="an outcome")
