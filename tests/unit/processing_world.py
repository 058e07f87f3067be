"""A worker without Kafka, Redis or a provider: the real processor on fakes, and a clock that tests move."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import orjson

from sluicegate.delivery.dispatcher import Item, Slot, Verdict
from sluicegate.errors import PublishError
from sluicegate.limiter.api import WaitersReleasedError
from sluicegate.limiter.costs import CostModel
from sluicegate.limiter.fake import FakeLimiter
from sluicegate.limiter.profiles import Profile
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Outcome, Usage
from sluicegate.processing.calling import Wire
from sluicegate.processing.handlers import Handler, load_handler
from sluicegate.processing.leases import LeaseKeeper
from sluicegate.processing.process import EventProcessor, ProcessorPorts, StreamRules
from sluicegate.processing.reading import Delivered, DeliveryReader
from sluicegate.processing.routes import Route, Routes
from sluicegate.processing.sending import Sender
from sluicegate.processing.steps import StepPorts
from sluicegate.processing.wire import WireCalls
from sluicegate.records import Headers, OutgoingRecord, Record
from sluicegate.retry.policy import RetryPolicy
from sluicegate.settings import Settings, load_settings
from sluicegate.state.fake_state import FakeState
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.traces import NO_TRACES, Traces
from sluicegate.topics import stream_topics

START_MS = 1_700_000_000_000


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        """Return the moved time."""
        return self.ms


class FakePauses:
    """Lets waits pass at once by moving time; refuses them once the process drains."""

    def __init__(self, passes: Callable[[float], Awaitable[None]]) -> None:
        self.waits: list[float] = []
        self.is_draining = False
        self._passes = passes

    async def wait(self, delay_s: float) -> None:
        """Move time by the delay."""
        self.waits.append(delay_s)
        if self.is_draining:
            raise WaitersReleasedError
        await self._passes(delay_s)
        await asyncio.sleep(0)


Script = Callable[[CallRequest], Outcome | Awaitable[Outcome]]


def answer(text: str = "an answer", *, input_tokens: int = 10, output_tokens: int = 5) -> Completed:
    """Return what a provider gives when all is well."""
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return Completed(text=text, model="model-1", usage=usage)


class ScriptedCaller:
    """Answers as the script says and remembers who asked and who was answered."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[CallRequest] = []
        self.paid: Counter[str] = Counter()

    async def call(self, request: CallRequest) -> Outcome:
        """Ask the script; a completed call is counted by event and step."""
        self.requests.append(request)
        reply = self.script(request)
        outcome = reply if isinstance(reply, Outcome) else await reply
        if isinstance(outcome, Completed):
            self.paid[request.request_id.rpartition("/")[0]] += 1
        return outcome


class RecordedCosts(CostModel):
    """Keeps what it was taught: prompt bytes, longest answer, usage."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self.lessons: list[tuple[int, int, Usage]] = []

    def learn(self, prompt_bytes: int, max_output_tokens: int, usage: Usage) -> None:
        """Note the lesson and learn it."""
        self.lessons.append((prompt_bytes, max_output_tokens, usage))
        super().learn(prompt_bytes, max_output_tokens, usage)


class FakePublisher:
    """Keeps what it is given; raises what `failures` holds first, and what `refuse` says."""

    def __init__(self) -> None:
        self.records: list[OutgoingRecord] = []
        self.failures: list[PublishError] = []
        self.refuse: Callable[[OutgoingRecord], PublishError | None] = lambda record: None

    async def publish(self, record: OutgoingRecord) -> None:
        """Store one record."""
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        if (error := self.refuse(record)) is not None:
            raise error
        self.records.append(record)

    def of(self, topic: str) -> list[OutgoingRecord]:
        """Return what one topic holds."""
        return [record for record in self.records if record.topic == topic]


@dataclass
class World:
    """One stream, its topics and its state. `processor` is the worker at this moment.

    With `backup_script` the stream has a second route, `backup`, with a scope and a caller of its own.
    """

    stream: str = "support-chat"
    script: Script = lambda request: answer()
    backup_script: Script | None = None
    handler: Handler | None = None
    environ: dict[str, str] = field(default_factory=dict)
    wrap: Callable[[str, Any], Any] = lambda name, port: port
    profile: Profile = Profile.GENERIC
    traces: Traces = NO_TRACES

    def __post_init__(self) -> None:
        self.settings: Settings = load_settings(None, self.environ)
        self.own = self.settings.stream(self.stream)
        self.topics = stream_topics(self.settings, self.stream)
        self.clock = ManualClock()
        self._ids = iter(range(1, 1_000_000))
        self.state = FakeState(self.clock.now_ms, self.new_id)
        self.limiter = FakeLimiter()
        self.caller = ScriptedCaller(self.script)
        self.costs = RecordedCosts(self.profile)
        self.backup_limiter = FakeLimiter(scope="backup")
        self.backup_caller = ScriptedCaller(self.backup_script or self.script)
        self.publisher = FakePublisher()
        self.metrics = Metrics()
        self.pauses = FakePauses(self.time_passes)
        self.crashes: list[BaseException] = []
        self.lines: list[dict[str, object]] = []
        self.work: asyncio.Task[Verdict] | None = None
        self.waiting_here: set[tuple[Hashable, int]] = set()
        self.waits_here: Callable[[Hashable, int], bool] = lambda lane, order: (
            (lane, order) in self.waiting_here
        )
        self.draw = 0.5
        self.handler = self.handler or load_handler(self.own.agent)
        self.policy = RetryPolicy.from_settings(self.settings.retry, self.own)
        self.reader = DeliveryReader(
            stream=self.stream,
            input_topic=self.topics.input,
            due_topic=self.topics.due,
            model=self.handler.argument,
            ordered=self.own.ordered,
            max_event_bytes=self.own.max_event_bytes,
            horizon_s=self.policy.horizon_s,
            clock=self.clock,
            metrics=self.metrics,
        )
        self._next_offset: Counter[str] = Counter()
        self.start_worker()

    def new_id(self) -> str:
        """Return ids that never repeat and are the same in every run."""
        return f"id{next(self._ids)}"

    def advance(self, seconds: float) -> None:
        """Move the clock of everything."""
        self.clock.ms += round(seconds * 1000)
        self.limiter.advance(seconds)
        self.backup_limiter.advance(seconds)

    async def time_passes(self, seconds: float) -> None:
        """Do the same with a live worker, which keeps its leases meanwhile."""
        self.advance(seconds)
        await self.leases.renew()

    def start_worker(self) -> None:
        """Start the process anew: everything in memory is fresh, state and topics stay."""
        assert self.handler is not None
        self.wire_calls = WireCalls(self.crashes.append)
        self.leases = LeaseKeeper(self.state, self.metrics, self.stream, now_s=lambda: self.clock.ms / 1000)
        state = self.wrap("state", self.state)
        steps = StepPorts(
            steps=state,
            routes=Routes(self._routes(), fallback_after_s=self.own.fallback_after_s),
            wire=Wire(steps=state, sender=Sender(clock=self.clock, metrics=self.metrics)),
            wire_calls=self.wire_calls,
            leases=self.leases,
            pauses=self.wrap("pauses", self.pauses),
            clock=self.clock,
            random=lambda: self.draw,
            new_id=self.new_id,
            metrics=self.metrics,
            traces=self.traces,
        )
        self.processor = EventProcessor(
            StreamRules(
                stream=self.stream,
                topics=self.topics,
                settings=self.own,
                policy=self.policy,
                handler=self.handler,
            ),
            ProcessorPorts(
                copies=state,
                ends=state,
                histories=state,
                steps=steps,
                publisher=self.wrap("publisher", self.publisher),
                waits_here=lambda lane, order: self.waits_here(lane, order),  # noqa: PLW0108 - tests set another
                log=lambda name, fields: self.lines.append({"name": name, **fields}),
                sleep=self._sleep,
                traces=self.traces,
            ),
        )

    def _routes(self) -> list[Route]:
        limiter = self.wrap("limiter", self.limiter)
        own = Route(
            name="main",
            model=self.own.model,
            limiter=limiter,
            view=limiter,
            caller=self.wrap("caller", self.caller),
            costs=self.costs,
        )
        if self.backup_script is None:
            return [own]
        backup_limiter = self.wrap("limiter", self.backup_limiter)
        backup = Route(
            name="backup",
            model="backup-model",
            limiter=backup_limiter,
            view=backup_limiter,
            caller=self.wrap("caller", self.backup_caller),
            costs=RecordedCosts(self.profile),
        )
        return [own, backup]

    async def _sleep(self, delay_s: float) -> None:
        self.advance(delay_s)
        await asyncio.sleep(0)

    def record(
        self,
        value: bytes | dict[str, object] | None,
        *,
        key: bytes | None = b"c-1",
        headers: Headers = (),
        topic: str | None = None,
        partition: int = 3,
    ) -> Record:
        """Return the next record of a topic, the input by default."""
        name = topic or self.topics.input
        offset = self._next_offset[name]
        self._next_offset[name] += 1
        return Record(
            topic=name,
            partition=partition,
            offset=offset,
            timestamp_ms=self.clock.ms,
            key=key,
            value=orjson.dumps(value) if isinstance(value, dict) else value,
            headers=headers,
        )

    def chat(self, text: str = "hello", *, speaker: str = "customer", turn: int = 0, **more: Any) -> Record:
        """Return a support chat's next record on the input."""
        value = {"conversation_id": "c-1", "turn": turn, "speaker": speaker, "text": text}
        return self.record(value, **more)

    def item(self, record: Record) -> Item[Delivered]:
        """Return what intake hands to the dispatcher."""
        delivered = self.reader.read(record)
        return Item(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            lane=delivered.lane,
            order=delivered.ref.origin.offset,
            size_bytes=len(record.value or b""),
            is_due=record.topic == self.topics.due,
            payload=delivered,
            ack=lambda: None,
        )

    async def deliver(self, record: Record) -> Verdict:
        """Work on one record as the dispatcher does."""
        item = self.item(record)
        return await self.processor.work(item, Slot(item))

    async def deliver_while_time_passes(self, record: Record) -> Verdict:
        """Do the same, with blocks that end and probes that become due by themselves."""
        work = self.work = asyncio.create_task(self.deliver(record))
        while not work.done():
            await asyncio.sleep(0)
            if self.limiter.waiting:
                circuit = self.limiter.circuit()
                await self.time_passes(circuit.next_probe_s if circuit else self.limiter.blocked_for_s())
        return work.result()

    def due_record(self, parked: OutgoingRecord) -> Record:
        """Return the record that the relay makes of a parked one."""
        assert parked.partition is not None
        return self.record(
            parked.value,
            key=parked.key,
            headers=parked.headers,
            topic=self.topics.due,
            partition=parked.partition,
        )

    @property
    def parked(self) -> list[OutgoingRecord]:
        """Return everything that was published to a tier."""
        return [record for tier in self.topics.tiers for record in self.publisher.of(tier)]

    @property
    def results(self) -> list[OutgoingRecord]:
        """Return the results' topic."""
        return self.publisher.of(self.topics.results)

    @property
    def letters(self) -> list[OutgoingRecord]:
        """Return the DLQ."""
        return self.publisher.of(self.topics.dlq)

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        return self.metrics.registry.get_sample_value(f"sluicegate_{name}_total", labels) or 0.0


def headers_of(record: OutgoingRecord) -> dict[str, str]:
    """Return the headers as text; fails on one that is there twice."""
    assert len({name for name, _ in record.headers}) == len(record.headers)
    return {name: value.decode() for name, value in record.headers}


def value_of(record: OutgoingRecord) -> Any:
    """Return the JSON of a record."""
    assert record.value is not None
    return orjson.loads(record.value)
