"""The events of a demo run, in the order and at the pace in which they are published."""

from __future__ import annotations

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluicegate.cli.demo.plan import CHAT, DOCUMENTS, DemoNames, DemoOptions
from sluicegate.events.cloudevent import binary_headers
from sluicegate.events.models import Document, Event, Speaker, SupportChat
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.local.samples import bundled_chats, chats_of, documents_of, event_json, installed_documents
from sluicegate.records import OutgoingRecord

PUBLISHED_OVER_S = 25.0
_OPEN_CONVERSATIONS = 16
_DOCUMENT_SHARE = 10
_SOURCE = "/sluicegate/demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoInput:
    """What is published: the events in their order, and how many of them get an answer."""

    events: tuple[Event, ...]

    @property
    def answers(self) -> int:
        """How many results are to come."""
        return sum(
            not (isinstance(event, SupportChat) and event.speaker is Speaker.AGENT) for event in self.events
        )


def demo_input(options: DemoOptions) -> DemoInput:
    """Choose the events: the first min(documents, limit/10) documents, then chats from the head."""
    documents = documents_of(options.documents) if options.documents else installed_documents()
    documents = documents[: max(1, options.limit // _DOCUMENT_SHARE)]
    chats = chats_of(options.chats) if options.chats else bundled_chats()
    chats = chats[: max(0, options.limit - len(documents))]
    return DemoInput(events=mixed(chats, documents, random.Random(options.seed)))


def mixed(
    chats: Sequence[SupportChat], documents: Sequence[Document], chance: random.Random
) -> tuple[Event, ...]:
    """Let conversations run side by side, each in its order, with the documents spread between them."""
    conversations: defaultdict[str, deque[SupportChat]] = defaultdict(deque)
    for chat in chats:
        conversations[chat.conversation_id].append(chat)
    waiting = deque(conversations.values())
    open_now: list[deque[SupportChat]] = []
    spoken: list[Event] = []
    while waiting or open_now:
        while waiting and len(open_now) < _OPEN_CONVERSATIONS:
            open_now.append(waiting.popleft())
        conversation = chance.choice(open_now)
        spoken.append(conversation.popleft())
        if not conversation:
            open_now.remove(conversation)
    for index, document in enumerate(documents):
        spoken.insert(round(index * (len(spoken) + 1) / max(1, len(documents))), document)
    return tuple(spoken)


def record_of_event(event: Event, names: DemoNames, *, run: str, time_ms: int) -> OutgoingRecord:
    """Return an event as another service would publish it. `run` keeps ids of different runs apart."""
    stream = CHAT if isinstance(event, SupportChat) else DOCUMENTS
    key = str(getattr(event, event.id_field))
    number = f"-{event.turn}" if isinstance(event, SupportChat) else ""
    return OutgoingRecord(
        topic=names.input(stream),
        key=key.encode("utf-8"),
        value=event_json(event),
        headers=binary_headers(
            id=f"{run}-{key}{number}", source=_SOURCE, type=type(event).ce_type, time_ms=time_ms
        ),
    )


def publish_events(
    demo: DemoInput,
    names: DemoNames,
    publisher: ConfluentPublisher,
    *,
    run: str,
    wait: Callable[[float], bool],
    over_s: float = PUBLISHED_OVER_S,
) -> int:
    """Publish every event at an even pace, each confirmed, and return how many; stop when `wait` says so.

    `wait` takes seconds and returns whether to stop. Raises PublishError for the first that Kafka refuses.
    """
    start_s = time.monotonic()
    done = 0
    while done < len(demo.events):
        reached = (
            len(demo.events)
            if over_s <= 0
            else int((time.monotonic() - start_s) / over_s * len(demo.events)) + 1
        )
        batch = demo.events[done : max(done, reached)]
        records = [
            record_of_event(event, names, run=run, time_ms=time.time_ns() // 1_000_000) for event in batch
        ]
        for error in publisher.publish_all(records):
            if error is not None:
                raise error
        done += len(batch)
        if done < len(demo.events) and wait(over_s / len(demo.events)):
            break
    return done
