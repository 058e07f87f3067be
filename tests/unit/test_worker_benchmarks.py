"""The benchmarks of the worker print no figure of a run that lost, repeated or never made a result."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import orjson
import pytest
from confluent_kafka import Producer

from benchmarks.load import Event, Load, check_results
from benchmarks.processes import cpu_s
from benchmarks.watching import ResultsWatch, watch
from benchmarks.worker_latency import Lone
from sluicegate.local.broker import EmbeddedBroker

_LOAD = Load(events=10, keys=4)
_PARTITIONS = 2


@dataclass(frozen=True)
class Process:
    """This process, as if it had ended with the exit code."""

    exit_code: int | None = None
    pid: int = os.getpid()


@pytest.fixture
def kafka() -> Iterator[str]:
    """The address of an embedded broker with a topic for results."""
    with EmbeddedBroker({"results": _PARTITIONS}) as broker:
        yield broker.address


def _write(kafka: str, events: Iterable[Event]) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for conversation, turn in events:
        producer.produce("results", orjson.dumps({"conversation_id": conversation, "turn": turn}))
    producer.flush()


def _all() -> list[Event]:
    return [_LOAD.event(number) for number in range(_LOAD.events)]


def test_a_load_spreads_its_events_over_its_keys_and_repeats_none() -> None:
    """Ten events on four keys are ten different ones, and no key has more than three of them."""
    events = _all()

    turns = [turn for _, turn in events]

    assert len(set(events)) == 10
    assert {conversation for conversation, _ in events} == {f"conversation-{n}" for n in range(4)}
    assert max(turns) == 2


@pytest.mark.parametrize("size", [1, 340, 1_000_000])
def test_a_text_is_as_long_as_it_was_asked_for(size: int) -> None:
    """The bytes of a payload row are those of its events' texts."""
    assert len(Load(events=1, keys=1, text_bytes=size).text.encode()) == size


def test_a_result_of_each_event_is_complete(kafka: str) -> None:
    """One result an event is what a figure needs."""
    _write(kafka, _all())

    check_results(kafka, "results", _PARTITIONS, _LOAD)


def test_a_missing_result_leaves_no_figure(kafka: str) -> None:
    """A lost event is seen, also when another one came twice, so that the count is right."""
    _write(kafka, [*_all()[:-1], _all()[0]])

    with pytest.raises(AssertionError, match="1 of 10 results are missing, 1 are repeated"):
        check_results(kafka, "results", _PARTITIONS, _LOAD)


def test_a_repeated_result_leaves_no_figure(kafka: str) -> None:
    """A result that came twice was paid for twice."""
    _write(kafka, [*_all(), _all()[0]])

    with pytest.raises(AssertionError, match="0 of 10 results are missing, 1 are repeated"):
        check_results(kafka, "results", _PARTITIONS, _LOAD)


def test_a_process_that_ends_leaves_no_figure(kafka: str) -> None:
    """Watching does not wait for the results of a process that is gone."""
    with (
        closing(ResultsWatch(kafka, "results", _PARTITIONS)) as results,
        pytest.raises(AssertionError, match="only 0 of 10 results came"),
    ):
        watch(results, [Process(exit_code=1)], redis_pid=os.getpid(), events=10, begin=lambda: None)


def test_events_that_cannot_be_published_leave_no_figure(kafka: str) -> None:
    """What goes wrong while the events are published stops the watching."""

    def fail() -> None:
        raise AssertionError("the broker did not take the events")

    with (
        closing(ResultsWatch(kafka, "results", _PARTITIONS)) as results,
        pytest.raises(AssertionError, match="did not take"),
    ):
        watch(results, [Process()], redis_pid=os.getpid(), events=10, begin=fail)


def test_a_process_is_charged_for_all_of_its_cpu_time_and_no_more() -> None:
    """What the operating system says of a process from outside is what the process knows of itself."""
    before_s = time.process_time()

    seen_s = cpu_s(os.getpid())

    assert before_s <= seen_s <= time.process_time()


def test_a_lone_events_time_is_without_the_providers() -> None:
    """Of 150 ms from publishing to reading, 100 ms at the provider, 50 ms are left."""
    lone = Lone(published_at=10.0, received_at=10.02, completed_at=10.12, read_at=10.15)

    assert lone.beyond_ms == pytest.approx(50)
    assert lone.before_ms == pytest.approx(20)
    assert lone.after_ms == pytest.approx(30)
