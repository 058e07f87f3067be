"""The recipe that people start with, on the same input: fixed concurrency, retries with backoff, no limiter.

A call that is refused is tried again up to 5 times, after 2, 4, 8, 16 and 32 s plus up to 200 ms. Nothing
is parked, nothing is ordered, and offsets are committed once, at the end.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from sluicegate.errors import CallRejectedError
from sluicegate.events.cloudevent import CloudEvent, binary_headers, read_event
from sluicegate.events.identity import event_identity, lane_key, own_id
from sluicegate.events.models import read_model, write_model
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.reading import record_of
from sluicegate.llm.api import CallRequest, LlmCaller, Message
from sluicegate.llm.client import HttpLlmCaller
from sluicegate.llm.outcomes import Completed, Rejected, Usage
from sluicegate.processing.context import Completion, Context, EventInfo
from sluicegate.processing.handlers import Handler, load_handler
from sluicegate.records import OutgoingRecord, Record
from sluicegate.retry.headers import origin_headers
from sluicegate.settings import Settings, StreamSettings
from sluicegate.state.api import HistoryEntry
from sluicegate.topics import StreamTopics, stream_topics

CONCURRENCY = 50
_RETRIES = 5
_FIRST_BACKOFF_S = 2.0
_JITTER_S = 0.2
_POLL_S = 0.1
_SESSION_TIMEOUT_S = 6.0
_PREFETCH_RECORDS, _PREFETCH_KBYTES = 1_000, 4_096


class GivenUpError(Exception):
    """A call was refused six times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveStream:
    """One stream as the recipe sees it."""

    name: str
    settings: StreamSettings
    topics: StreamTopics
    handler: Handler


@dataclass(slots=True, kw_only=True)
class NaiveLlm:
    """Calls with backoff, for one event."""

    caller: LlmCaller
    settings: StreamSettings
    identity: str
    chance: random.Random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    usage: Usage = field(default_factory=Usage)

    @property
    def routes(self) -> tuple[str, ...]:
        """The stream's own provider: the recipe knows no other."""
        return (self.settings.provider,)

    async def complete(
        self,
        *,
        step: str,
        system: str | None = None,
        messages: Sequence[Message] = (),
        user: str | None = None,
        max_output_tokens: int | None = None,
        json_object: bool = False,
    ) -> Completion:
        """Return the answer, or raise GivenUpError after five retries."""
        prompt = (
            *((Message(role="system", text=system),) if system is not None else ()),
            *messages,
            *((Message(role="user", text=user),) if user is not None else ()),
        )
        for attempt in range(1, _RETRIES + 2):
            outcome = await self.caller.call(
                CallRequest(
                    model=self.settings.model,
                    messages=prompt,
                    max_output_tokens=max_output_tokens or self.settings.max_output_tokens,
                    request_id=f"{self.identity}/{step}/{attempt}",
                    json_object=json_object,
                )
            )
            if isinstance(outcome, Completed):
                self.usage += outcome.usage
                return Completion(
                    text=outcome.text,
                    model=outcome.model,
                    usage=outcome.usage,
                    route=self.settings.provider,
                )
            if isinstance(outcome, Rejected):
                raise CallRejectedError(outcome.reason, outcome.http_status)
            if attempt <= _RETRIES:
                await self.sleep(_FIRST_BACKOFF_S * 2 ** (attempt - 1) + self.chance.uniform(0, _JITTER_S))
        raise GivenUpError


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveHistory:
    """A conversation in this process's memory, in order of arrival."""

    entries: list[HistoryEntry]

    async def earlier(self) -> tuple[HistoryEntry, ...]:
        """Return what has been said so far."""
        return tuple(self.entries)

    def append(self, entry: HistoryEntry) -> None:
        """Add what was said."""
        self.entries.append(entry)


class NaiveWorker:
    """Runs the recipe in a thread with its own event loop, until it is told to stop."""

    def __init__(self, settings: Settings, streams: Sequence[str], *, provider: str, seed: int) -> None:
        self._settings = settings
        self._provider = settings.providers[provider]
        self._streams = {
            (topics := stream_topics(settings, name)).input: NaiveStream(
                name=name,
                settings=settings.streams[name],
                topics=topics,
                handler=load_handler(settings.streams[name].agent),
            )
            for name in streams
        }
        self._chance = random.Random(seed)
        self._histories: defaultdict[str, list[HistoryEntry]] = defaultdict(list)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="naive")
        self.finished = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Start consuming."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what was taken and end; what is under way is given up."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._consume())
        except Exception as exc:  # noqa: BLE001 - the thread's one loop: whatever ends it is shown by the run
            self.error = exc

    async def _consume(self) -> None:
        kafka = self._settings.kafka.bootstrap_servers
        consumers = [self._consumer(stream) for stream in self._streams.values()]
        tasks: set[asyncio.Task[None]] = set()
        slots = asyncio.Semaphore(CONCURRENCY)
        caller = HttpLlmCaller(
            self._provider.format.value,
            self._provider.base_url,
            api_key=lambda: None,
            timeout_s=self._provider.timeout_s,
        )
        with ConfluentPublisher(kafka, client_id="naive") as publisher:
            async with caller:
                while not self._stopping.is_set():
                    for consumer in consumers:
                        for message in await asyncio.to_thread(consumer.consume, 100, _POLL_S):
                            if message.error() is None:
                                record = record_of(message)
                                task = asyncio.create_task(self._one(record, caller, publisher, slots))
                                tasks.add(task)
                                task.add_done_callback(tasks.discard)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        for consumer in consumers:
            _commit_and_close(consumer)

    def _consumer(self, stream: NaiveStream) -> Consumer:
        consumer = Consumer(
            consumer_config(
                self._settings.kafka.bootstrap_servers,
                client_id="naive",
                group=stream.topics.group,
                session_timeout_s=_SESSION_TIMEOUT_S,
                prefetch_records=_PREFETCH_RECORDS,
                prefetch_kbytes=_PREFETCH_KBYTES,
            )
        )
        consumer.subscribe([stream.topics.input])
        return consumer

    async def _one(
        self, record: Record, caller: LlmCaller, publisher: ConfluentPublisher, slots: asyncio.Semaphore
    ) -> None:
        stream = self._streams[record.topic]
        envelope = read_event(record, max_event_bytes=stream.settings.max_event_bytes)
        async with slots:
            outgoing = await self._answer(stream, record, envelope, caller)
        if outgoing is not None:
            await publisher.publish(outgoing)
        self.finished += 1

    async def _answer(
        self, stream: NaiveStream, record: Record, envelope: CloudEvent, caller: LlmCaller
    ) -> OutgoingRecord | None:
        event = read_model(stream.handler.argument, envelope.data)
        key = lane_key(record.key, event)
        identity = event_identity(event=envelope, stream=stream.name, key=key, origin=record.place)
        context = Context(
            event=EventInfo(
                id=own_id(envelope, record.place),
                source=envelope.source,
                time=None,
                attempt=1,
                key=key,
                tenant=None,
            ),
            settings=stream.settings,
            llm=NaiveLlm(caller=caller, settings=stream.settings, identity=identity, chance=self._chance),
            history=NaiveHistory(entries=self._histories[key]),
        )
        origin = origin_headers(record.place, record.timestamp_ms)
        try:
            result = await stream.handler.run(event, context)
        except (GivenUpError, CallRejectedError, ExceptionGroup):
            return OutgoingRecord(
                topic=stream.topics.dlq,
                key=record.key,
                value=record.value,
                headers=(*record.headers, *origin),
            )
        if result is None:
            return None
        headers = binary_headers(
            id=identity,
            source="/naive",
            type=result.ce_type,
            time_ms=time.time_ns() // 1_000_000,
            causation_id=context.event.id,
        )
        return OutgoingRecord(
            topic=stream.topics.results,
            key=record.key,
            value=write_model(result),
            headers=(*headers, *origin),
        )


def _commit_and_close(consumer: Consumer) -> None:
    places: list[TopicPartition] = consumer.position(consumer.assignment())
    taken = [place for place in places if place.offset >= 0]
    if taken:
        consumer.commit(offsets=taken, asynchronous=False)
    consumer.close()
