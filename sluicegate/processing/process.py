"""The life of one delivery: taken, run, and then ended, parked, set aside or left.

Every await may be the last: the process can die and the event can be forgotten between any two. What
was not acked is delivered again, and Take says how far it had come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from sluicegate.delivery.dispatcher import Item, Slot, Verdict
from sluicegate.errors import RecordTooLargeError
from sluicegate.events.models import Result
from sluicegate.kafka.api import ConfirmedPublisher
from sluicegate.processing.account import DELIVERY_DONE, Account
from sluicegate.processing.conclusion import STALE, Conclusion, DecisionWord, TakeAgain
from sluicegate.processing.context import Context, EventInfo
from sluicegate.processing.ending import Ending
from sluicegate.processing.handlers import Handler
from sluicegate.processing.history import EventHistory
from sluicegate.processing.letters import (
    Death,
    death_by_bytes,
    death_by_decision,
    death_by_error,
    handler_bug,
)
from sluicegate.processing.parking import Parking
from sluicegate.processing.publishing import PersistentPublisher
from sluicegate.processing.reading import BadDelivery, Delivered, Delivery
from sluicegate.processing.results import recorded, result
from sluicegate.processing.signals import AlreadyOver, Broken, Fate, Left, MustDie, MustPark
from sluicegate.processing.spans import decided, processing
from sluicegate.processing.steps import EventSteps, StepPorts
from sluicegate.retry.decisions import EndReason, LetterReason, Park, Progress, decide_behind
from sluicegate.retry.policy import RetryPolicy, has_expired
from sluicegate.settings import StreamSettings
from sluicegate.state.api import (
    Behind,
    Cancelled,
    Copies,
    End,
    EndKind,
    Ends,
    Finish,
    Histories,
    Run,
    Stale,
    Taken,
)
from sluicegate.state.patient import patiently
from sluicegate.telemetry.labels import Repair
from sluicegate.telemetry.traces import NO_TRACES, Traces
from sluicegate.topics import StreamTopics

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """What is fixed about a stream."""

    stream: str
    topics: StreamTopics
    settings: StreamSettings
    policy: RetryPolicy
    handler: Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorPorts:
    """What a processor needs of the world.

    `waits_here` asks the dispatcher whether an item of that origin offset waits in that lane. `log` takes
    an event name and its fields, one line a delivery.
    """

    copies: Copies
    ends: Ends
    histories: Histories
    steps: StepPorts
    publisher: ConfirmedPublisher
    waits_here: Callable[[Hashable, int], bool]
    log: Callable[[str, dict[str, object]], None]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    traces: Traces = NO_TRACES


class EventProcessor:
    """Works on the deliveries of one stream."""

    def __init__(self, rules: StreamRules, ports: ProcessorPorts) -> None:
        self._rules = rules
        self._ports = ports
        self._clock = ports.steps.clock
        self._metrics = ports.steps.metrics
        publisher = PersistentPublisher(
            publisher=ports.publisher,
            sleep=ports.sleep,
            random=ports.steps.random,
            traces=ports.traces,
        )
        self._ending = Ending(
            topics=rules.topics,
            ends=ports.ends,
            publisher=publisher,
            clock=self._clock,
            metrics=self._metrics,
            ended={kind: self._metrics.ended.labels(rules.stream, kind) for kind in EndKind},
            traces=ports.traces,
        )
        self._parking = Parking(
            topics=rules.topics,
            copies=ports.copies,
            publisher=publisher,
            new_id=ports.steps.new_id,
            metrics=self._metrics,
            traces=ports.traces,
        )

    async def work(self, item: Item[Delivered], slot: Slot[Delivered]) -> Verdict:
        """Bring one delivery as far as it goes now.

        Raises only what must stop the process: errors of our own code, and a broker that refuses records
        for reasons that are not about the event.
        """
        delivered = item.payload
        if delivered.retry is not None:
            late_s = (self._clock.now_ms() - delivered.retry.due_at_ms) / 1000
            self._metrics.due_wait_seconds.labels(delivered.ref.stream).observe(max(0.0, late_s))
        account = Account(
            id=delivered.ref.identity, origin=str(delivered.ref.origin), attempt=delivered.attempt
        )
        with processing(self._ports.traces, delivered, self._rules.topics.group) as span:
            conclusion: Conclusion | TakeAgain = TakeAgain()
            while isinstance(conclusion, TakeAgain):
                conclusion = await self._take(delivered, item, slot, account)
            span.note(decided(account, conclusion.decision))
        if conclusion.verdict is not Verdict.SET_ASIDE:
            self._ports.log(DELIVERY_DONE, account.fields(conclusion.decision.value))
        return conclusion.verdict

    async def _take(
        self, delivered: Delivered, item: Item[Delivered], slot: Slot[Delivered], account: Account
    ) -> Conclusion | TakeAgain:
        taken = await patiently(lambda: self._ports.copies.take(delivered.ref, delivered.copy))
        self._count_mended(delivered, taken)
        match taken.verdict:
            case Stale():
                self._metrics.stale.labels(stream=delivered.ref.stream).inc()
                return STALE
            case Finish(gen=gen, end=end):
                return await self._ending.finish(delivered, gen, end, slot)
            case Cancelled(gen=gen):
                return await self._die(
                    delivered, gen, Death(reason=LetterReason.CANCELLED.value), slot, account
                )
            case Behind() as behind:
                return await self._stand_behind(delivered, behind, item, slot, account)
            case Run() as run:
                return await self._run(delivered, run, slot, account)
            case _:
                assert_never(taken.verdict)

    async def _stand_behind(
        self,
        delivered: Delivered,
        behind: Behind,
        item: Item[Delivered],
        slot: Slot[Delivered],
        account: Account,
    ) -> Conclusion | TakeAgain:
        if isinstance(delivered, BadDelivery):
            raise TypeError("a record that is no event heeds no gate")
        if self._ports.waits_here(item.lane, behind.predecessor_offset):
            return Conclusion(verdict=Verdict.SET_ASIDE, decision=DecisionWord.SET_ASIDE)
        park = decide_behind(
            behind.predecessor_due_at_ms,
            delivered.deferrals,
            self._rules.policy,
            self._clock.now_ms(),
            self._ports.steps.random,
        )
        return await self._park(
            delivered, behind.gen, park, delivered.progress, slot, account, has_called=False
        )

    async def _run(
        self, delivered: Delivered, run: Run, slot: Slot[Delivered], account: Account
    ) -> Conclusion | TakeAgain:
        gen = run.gen
        if isinstance(delivered, BadDelivery):
            return await self._die(delivered, gen, death_by_bytes(delivered), slot, account)
        if has_expired(delivered.envelope.time_ms, self._rules.policy, self._clock.now_ms()):
            return await self._die(delivered, gen, Death(reason=EndReason.EXPIRED.value), slot, account)
        fate = Fate()
        steps = EventSteps(
            delivery=delivered,
            settings=self._rules.settings,
            policy=self._rules.policy,
            ports=self._ports.steps,
            fate=fate,
            account=account,
        )
        outcome = await self._handle(delivered, run, steps, fate)
        steps.close()
        return await self._conclude(delivered, gen, outcome, steps, fate, slot, account)

    async def _conclude(
        self,
        delivered: Delivery,
        gen: str,
        outcome: End | Death,
        steps: EventSteps,
        fate: Fate,
        slot: Slot[Delivered],
        account: Account,
    ) -> Conclusion | TakeAgain:
        match fate.decided:
            case Left():
                return Conclusion(verdict=Verdict.LEFT, decision=DecisionWord.LEFT)
            case AlreadyOver():
                self._metrics.stale.labels(stream=delivered.ref.stream).inc()
                return STALE
            case Broken(error=error):
                raise error
            case MustPark() | MustDie() | None:
                # What is on the wire is paid for: it ends and is kept before the event goes anywhere.
                await steps.settled()
            case _:
                assert_never(fate.decided)
        decided = fate.decided
        match decided if decided is not None else outcome:
            case MustPark(park=park, progress=progress):
                return await self._park(
                    delivered, gen, park, progress, slot, account, has_called=steps.progress.has_called
                )
            case MustDie(letter=letter, progress=progress):
                return await self._die(delivered, gen, death_by_decision(letter, progress), slot, account)
            case Death() as death:
                return await self._die(delivered, gen, death, slot, account)
            case End() as end:
                return await self._ending.end(delivered, gen, end, slot)

    async def _handle(self, delivery: Delivery, run: Run, steps: EventSteps, fate: Fate) -> End | Death:
        """Run the handler and return what it came to, unless `fate` knows better."""
        handler = self._rules.handler
        history = EventHistory(self._ports.histories, delivery.ref, fate)
        ctx = Context(event=_info(delivery), settings=self._rules.settings, llm=steps, history=history)
        error, answer = await _run_apart(handler.run(delivery.event, ctx), fate)
        if error is not None:
            return death_by_error(error)
        if answer is None:
            return recorded(history.appended)
        if handler.result is None or not isinstance(answer, handler.result):
            return handler_bug("WrongResult")
        return result(
            delivery,
            answer,
            history.appended,
            self._clock.now_ms(),
            run.dead_predecessor,
            steps.spent,
            self._ports.traces.current(),
        )

    async def _die(
        self, delivered: Delivered, gen: str, death: Death, slot: Slot[Delivered], account: Account
    ) -> Conclusion | TakeAgain:
        account.error = death.error_type or death.reason
        return await self._ending.die(delivered, gen, death, slot)

    async def _park(
        self,
        delivery: Delivery,
        gen: str,
        park: Park,
        progress: Progress,
        slot: Slot[Delivered],
        account: Account,
        *,
        has_called: bool,
    ) -> Conclusion | TakeAgain:
        account.error = park.reason.value if park.reason is not None else None
        try:
            return await self._parking.park(delivery, gen, park, progress, slot, has_called=has_called)
        except RecordTooLargeError:
            # Tiers take the input's largest record and our headers; somebody made this one's topic smaller.
            return await self._die(
                delivery, gen, Death(reason=LetterReason.COPY_TOO_LARGE.value), slot, account
            )

    def _count_mended(self, delivered: Delivered, taken: Taken) -> None:
        repairs, stream = self._metrics.repairs, delivered.ref.stream
        if taken.switch_was_lost:
            repairs.labels(stream=stream, kind=Repair.SWITCH_LOST).inc()
        if taken.gates_healed:
            repairs.labels(stream=stream, kind=Repair.GATE_HEALED).inc(taken.gates_healed)


async def _run_apart(
    handler: Coroutine[Any, Any, Result | None], fate: Fate
) -> tuple[BaseException | None, Result | None]:
    """Run foreign code in a task of its own and return what it raised, or what it returned.

    In ours it could swallow the cancellation of a rebalance, and a task group of its own would leave the
    count of cancellations raised (Python 3.11 and 3.12): nobody could tell the two apart.
    """
    task = asyncio.get_running_loop().create_task(_contained(handler))
    try:
        await _ended(task)
    except asyncio.CancelledError:
        fate.decide(Left())  # nothing more is begun, even if the handler goes on
        task.cancel()
        await _ended(task)
        _error_of(task)  # looked at, else asyncio would log it with its text
        raise
    error = _error_of(task)
    return (error, None) if error is not None else task.result()


async def _ended(task: asyncio.Task[Any]) -> None:
    """Return when the task has ended, however: `asyncio.wait` for one, without its sets."""
    ended = asyncio.get_running_loop().create_future()

    def tell(_: asyncio.Task[Any]) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(tell)
    await ended


async def _contained(
    handler: Coroutine[Any, Any, Result | None],
) -> tuple[BaseException | None, Result | None]:
    """Keep a handler's `sys.exit` from the event loop: the process would end at that event, for ever."""
    try:
        return None, await handler
    except SystemExit as error:
        return error, None


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _info(delivery: Delivery) -> EventInfo:
    time_ms = delivery.envelope.time_ms
    return EventInfo(
        id=delivery.event_id,
        source=delivery.envelope.source,
        time=_EPOCH + timedelta(milliseconds=time_ms) if time_ms is not None else None,
        attempt=delivery.attempt,
        key=delivery.ref.key,
        tenant=delivery.tenant,
    )
