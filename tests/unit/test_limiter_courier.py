"""Batches are brought to Redis however long it is away."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from structlog.testing import capture_logs

from sluicegate.errors import StateUnavailableError
from sluicegate.limiter.api import Dimension
from sluicegate.limiter.booking import Batch, Reply
from sluicegate.limiter.courier import Courier
from sluicegate.limiter.link import ConnectionLostError
from sluicegate.telemetry.metrics import Metrics


class _AwayLink:
    """A link that gets no answer so many times, for each of the reasons in turn."""

    def __init__(self, failures: int, *reasons: StateUnavailableError) -> None:
        self.sequences: list[int] = []
        self.batches: list[Batch] = []
        self._left = failures
        self._reasons = itertools.cycle(reasons or (StateUnavailableError("away"),))

    def fail(self, times: int) -> None:
        """Get no answer so many times from now on."""
        self._left = times

    async def send(self, batch: Batch, sequence: int) -> Reply:
        """Fail, or answer."""
        self.sequences.append(sequence)
        if self._left:
            self._left -= 1
            raise next(self._reasons)
        self.batches.append(batch)
        return Reply(
            now_us=0,
            generation=1,
            blocked_until_us=0,
            blocked_by=Dimension.BLOCKED,
            void_until_us=0,
            was_lost=False,
            is_leasing=False,
            wants_answers=False,
            has_probe=False,
            circuit=None,
            safe=1.0,
            learnt=(0.0, 0.0, 0.0, 0.0),
            raised_us=(0, 0, 0, 0),
            answers=(),
        )


def _courier(link: Any, now_s: Callable[[], float] = lambda: 0.0) -> Courier:
    # A draw of -1 makes every pause nothing.
    return Courier(link, scope="main", metrics=Metrics(), random=lambda: -1.0, now_s=now_s)


async def test_an_outage_of_an_hour_is_waited_out() -> None:
    """Thousands of failures in a row leave the backoff at its cap and the loop alive."""
    link = _AwayLink(3000)

    _, was_repeated = await _courier(link).bring(Batch)

    assert was_repeated
    assert link.sequences == [1] * 3001


async def test_each_try_says_how_things_are_by_then() -> None:
    """What is left of a block grows shorter during an outage, so the batch is made anew for every try."""
    link = _AwayLink(2)
    left_us = iter((300, 200, 100))

    await _courier(link).bring(lambda: Batch(block_us=next(left_us)))

    assert [batch.block_us for batch in link.batches] == [100]


async def test_an_outage_is_told_once_for_each_reason() -> None:
    """Also by a process that never had an answer; and the next outage is told again."""
    with capture_logs() as logs:
        link = _AwayLink(100, StateUnavailableError("refused"), StateUnavailableError("wrong password"))
        now_s = 0.0
        courier = _courier(link, lambda: now_s)
        for _ in range(2):
            await courier.bring(Batch)
            link.fail(100)
            now_s += 10

    outage = [
        ("limiter.redis-away", "refused"),
        ("limiter.redis-away", "wrong password"),
        ("limiter.redis-answers", None),
    ]
    assert [(entry["event"], entry.get("error")) for entry in logs] == outage * 2


async def test_an_outage_that_flickers_is_told_once() -> None:
    """A Redis without memory answers what writes nothing, and refuses the next that does."""
    now_s = 0.0
    link = _AwayLink(1, StateUnavailableError("out of memory"))
    courier = _courier(link, lambda: now_s)
    with capture_logs() as logs:
        for _ in range(5):
            await courier.bring(Batch)
            link.fail(1)
            now_s += 1

    assert [entry["event"] for entry in logs].count("limiter.redis-away") == 1


async def test_a_connection_that_had_ended_is_no_outage() -> None:
    """The batch goes out again at once and in silence, but only once: what keeps cutting us off is one."""
    link = _AwayLink(1, ConnectionLostError("lost"))
    courier = _courier(link)
    with capture_logs() as logs:
        _, was_repeated = await courier.bring(Batch)
        assert was_repeated
        assert [entry["event"] for entry in logs] == ["limiter.redis-answers"]
        link.fail(2)
        await courier.bring(Batch)

    assert [entry["event"] for entry in logs][1:] == ["limiter.redis-away", "limiter.redis-answers"]
