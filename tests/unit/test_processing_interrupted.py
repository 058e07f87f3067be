"""Every await between Take and the ack may be the last one: cancelled or killed there, one end, paid once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import orjson
import pytest

from sluicegate.delivery.dispatcher import Verdict
from sluicegate.errors import RecordTooLargeError
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Halted, Outcome, Reason, Throttled
from sluicegate.records import OutgoingRecord, Record
from tests.unit.processing_world import World, answer, headers_of

_MOST_AWAITS = 200


class Fault(StrEnum):
    """How the work on an event stops."""

    CANCELLED_BEFORE = "a rebalance before the call of a port"
    CANCELLED_AFTER = "a rebalance right after it had its effect"
    KILLED_BEFORE = "kill -9 before the call of a port"
    KILLED_AFTER = "kill -9 right after it had its effect"


class Interruption:
    """Stops the event's task at the n-th await of a port, once."""

    def __init__(self, nth: int, fault: Fault) -> None:
        self.fired = False
        self.world: World | None = None
        self._left = nth
        self._fault = fault

    def wrap(self, _: str, port: Any) -> Any:
        """Return the port with every coroutine method counted."""
        return _Counted(port, self)

    async def around(self, name: str, call: Callable[[], Any]) -> Any:
        """Make the call, unless this is where it stops."""
        self._left -= 1
        hits = self._left == 0 and not self.fired
        if hits and self._fault in (Fault.CANCELLED_BEFORE, Fault.KILLED_BEFORE):
            self._stop()
            await asyncio.sleep(0)
        value = await call()
        if hits and self._fault in (Fault.CANCELLED_AFTER, Fault.KILLED_AFTER):
            self._stop()
            # A limiter gives a permit or is cancelled, never both: there the next await is the last.
            if name != "acquire":
                await asyncio.sleep(0)
        return value

    def _stop(self) -> None:
        """Cancel the event's work: its next suspension is its last; a call on the wire goes on if it may."""
        self.fired = True
        assert self.world is not None
        assert self.world.work is not None
        self.world.work.cancel()


class _Counted:
    def __init__(self, port: Any, interruption: Interruption) -> None:
        self._port = port
        self._interruption = interruption

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._port, name)
        if not asyncio.iscoroutinefunction(target):
            return target
        return lambda *args, **more: self._interruption.around(name, lambda: target(*args, **more))


class Broker:
    """Delivers what is not acked, and releases what was parked, until nothing is left."""

    def __init__(self, world: World, fault: Fault) -> None:
        self._world = world
        self._fault = fault
        self.unacked: list[Record] = []
        self._released = 0

    async def run(self) -> None:
        """Deliver until everything is acked and nothing waits in a tier."""
        for _ in range(50):
            if not self.unacked and not self._release():
                return
            record = self.unacked[0]
            verdict = await self._deliver(record)
            if verdict is Verdict.ACK:
                self.unacked.remove(record)
        raise AssertionError("the event does not come to an end")

    def _release(self) -> bool:
        waiting: list[OutgoingRecord] = self._world.parked[self._released :]
        self._released += len(waiting)
        if waiting:
            self._world.advance(120)
        # Twice: a relay that crashed before its commit does the same.
        self.unacked += [self._world.due_record(copy) for copy in waiting for _ in range(2)]
        return bool(waiting)

    async def _deliver(self, record: Record) -> Verdict | None:
        try:
            return await self._world.deliver_while_time_passes(record)
        except asyncio.CancelledError:
            await self._end_process()
            return None

    async def _end_process(self) -> None:
        world = self._world
        if self._fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
            await world.wire_calls.finished(0)
            world.start_worker()


def plain(request: CallRequest) -> Outcome:
    """Answer everything."""
    return answer()


def refusing_once() -> Callable[[CallRequest], Outcome]:
    """Refuse the first call for a minute, then answer everything."""
    left = [Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)]
    return lambda request: left.pop() if left else answer()


def without_credit_once() -> Callable[[CallRequest], Outcome]:
    """Have no credit at the first call, then answer everything: a circuit opens and a probe closes it."""
    left = [Halted(reason=Reason.MONEY, http_status=429)]
    return lambda request: left.pop() if left else answer()


def refusing_a_sibling() -> Callable[[CallRequest], Outcome]:
    """Refuse one chunk's first call for a minute, then answer everything."""
    left = [Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)]

    def script(request: CallRequest) -> Outcome:
        if "/chunk-1/" in request.request_id and left:
            return left.pop()
        return answer(orjson.dumps({"summary": "about", "tags": ["a"]}).decode())

    return script


def chat(world: World) -> Record:
    """Return a customer's message."""
    return world.chat()


def chat_with_a_large_answer(world: World) -> Record:
    """Return a message whose result is refused as too large until its dead letter is there."""
    world.publisher.refuse = lambda record: (
        RecordTooLargeError("too large")
        if record.topic == world.topics.results and not world.letters
        else None
    )
    return world.chat()


def bad(world: World) -> Record:
    """Return a record that is no event."""
    return world.record(b"{", key=b"c-1")


def document(world: World) -> Record:
    """Return a document of three chunks."""
    text = "\n\n".join("word " * 9 for _ in range(3))
    value: dict[str, object] = {"document_id": "d", "title": "t", "media_type": "text/plain", "text": text}
    return world.record(value, key=b"d")


Script = Callable[[CallRequest], Outcome]
SCENARIOS: dict[str, tuple[str, Callable[[], Script], Callable[[World], Record]]] = {
    "answered": ("support-chat", lambda: plain, chat),
    "parked and answered": ("support-chat", refusing_once, chat),
    "parked for want of credit and answered": ("support-chat", without_credit_once, chat),
    "answered by the backup": ("support-chat", refusing_once, chat),
    "answered too long": ("support-chat", lambda: plain, chat_with_a_large_answer),
    "bad record": ("support-chat", lambda: plain, bad),
    "document with a refused chunk": ("documents", refusing_a_sibling, document),
}


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_an_interrupted_event_ends_once_and_is_paid_once(scenario: str, fault: Fault) -> None:
    """Stopped at its n-th await and delivered again, for every n: one kind of end under one id, paid once."""
    stream, make_script, make_record = SCENARIOS[scenario]
    for nth in range(1, _MOST_AWAITS):
        interruption = Interruption(nth, fault)
        world = World(
            stream=stream,
            script=make_script(),
            backup_script=plain if scenario == "answered by the backup" else None,
            environ={"SLUICEGATE_STREAMS__DOCUMENTS__CHUNK_TOKENS": "13"},
            wrap=interruption.wrap,
        )
        interruption.world = world
        broker = Broker(world, fault)
        broker.unacked.append(make_record(world))

        await broker.run()
        await world.wire_calls.finished(5)

        _check(world, fault, f"interrupted at await {nth}")
        if not interruption.fired:
            assert nth > 4
            return
    raise AssertionError(f"more than {_MOST_AWAITS} awaits")


def _check(world: World, fault: Fault, where: str) -> None:
    ends = world.results + world.letters
    names = {(record.topic, headers_of(record).get("ce_id")) for record in ends}
    assert len(names) == 1, where
    assert len({record.value for record in ends}) == 1, where
    assert len(ends) <= 2, where
    is_killed = fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER)
    # Only a call on the wire at the moment of a crash can be paid for again.
    paid = world.caller.paid + world.backup_caller.paid
    assert all(times <= 1 + is_killed for times in paid.values()), where
    for limiter in (world.limiter, world.backup_limiter):
        assert len(limiter.settled) == len(limiter.granted), where
    assert len(world.leases) == 0, where
    assert world.crashes == [], where
