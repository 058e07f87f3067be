"""A stream's dead letters as Kafka holds them: read from end to end, and which of them still count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from consumers.inspection.reading import onlooker, partitions_of
from sluicegate.kafka.admin import Bounds, KafkaAdmin, Partition
from sluicegate.processing.decoding import EventDecoder
from sluicegate.processing.letters import CAUSATION, ENDED_AT, ERROR_TYPE, WHERE, reason_of
from sluicegate.records import Origin, Record
from sluicegate.retry.headers import RetryHeaders, parse_dead_letter_headers
from sluicegate.settings import Settings
from sluicegate.state.api import EndKind, EventRef, Phase, Standing
from sluicegate.topics import stream_topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `retry` None: it names no origin, so nothing more is known of its event.

    `ref` is its event's name in the state, `decoded_id` the event's own id as its bytes tell it.
    """

    record: Record
    retry: RetryHeaders | None
    ref: EventRef
    decoded_id: str

    @property
    def place(self) -> Origin:
        """Where in the DLQ it lies."""
        return self.record.place

    @property
    def origin(self) -> Origin:
        """Its event's name inside; a letter that names none is its own."""
        return self.retry.origin if self.retry is not None else self.record.place

    @property
    def event_id(self) -> str:
        """What others call its event."""
        return self.text(CAUSATION) or self.decoded_id

    @property
    def reason(self) -> str:
        """Why its event ended so."""
        return reason_of(self.record.headers)

    @property
    def where(self) -> str | None:
        """The field, the header or the exception's class at fault."""
        return self.text(WHERE) or self.text(ERROR_TYPE)

    @property
    def ended_at_ms(self) -> int:
        """When, as the worker wrote it; else when the broker stored it."""
        written = self.text(ENDED_AT) or ""
        return int(written) if written.isdecimal() and len(written) < 16 else self.record.timestamp_ms

    def text(self, name: str) -> str | None:
        """Return a header as text, the last one of its name."""
        found = [value for header, value in self.record.headers if header == name]
        return found[-1].decode("utf-8", "replace") if found else None

    def without_value(self) -> Letter:
        """Return the same without its payload: thousands of them are held at once."""
        return replace(self, record=replace(self.record, value=None))

    def is_called(self, name: str) -> bool:
        """Whether an operator means this letter: its place in the DLQ, or any name of its event."""
        own = (str(self.place), f"{self.place.partition}/{self.place.offset}")
        return name in (*own, str(self.origin), self.event_id, self.decoded_id, self.ref.identity)


class LetterReader:
    """Reads one stream's DLQ. Use it as a context."""

    def __init__(self, settings: Settings, stream: str, decoder: EventDecoder) -> None:
        self._topic = stream_topics(settings, stream).dlq
        self._decoder = decoder
        self._admin = KafkaAdmin.of(settings.kafka)
        self._reader = onlooker(settings)

    def __enter__(self) -> LetterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def bounds(self) -> dict[Partition, Bounds]:
        """Return what the DLQ holds now. Raises BrokerError."""
        places = partitions_of((self._topic,), self._admin.partition_counts())
        return dict(self._admin.bounds(places))

    def read(self, bounds: dict[Partition, Bounds] | None = None) -> Iterator[Letter]:
        """Yield the letters within the bounds, all of them by default. Raises BrokerError."""
        for record in self._reader.read(self.bounds() if bounds is None else bounds):
            retry = parse_dead_letter_headers(record.headers, now_ms=max(0, record.timestamp_ms))
            origin = retry.origin if retry is not None else record.place
            decoded = self._decoder.decode(record, origin)
            yield Letter(record=record, retry=retry, ref=decoded.ref, decoded_id=decoded.event_id)


class LetterBook:
    """The events that a stream's DLQ names, kept from look to look: each letter is read once."""

    def __init__(self, settings: Settings, stream: str, decoder: EventDecoder, *, most: int) -> None:
        """A DLQ with more than `most` records is not read."""
        self._reader = LetterReader(settings, stream, decoder)
        self._most = most
        self._next: dict[Partition, int] = {}
        self._newest: dict[Origin, Letter] = {}

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def events(self) -> list[EventRef] | None:
        """Return every event that the DLQ names now, each once; None when they are too many."""
        bounds = self._reader.bounds()
        if sum(bound.high - bound.low for bound in bounds.values()) > self._most:
            return None
        unread = {
            place: Bounds(low=max(bound.low, self._next.get(place, 0)), high=bound.high)
            for place, bound in bounds.items()
        }
        read = (letter.without_value() for letter in self._reader.read(unread))
        for letter in newest_of_each_event(chain(self._newest.values(), read)):
            self._newest[letter.origin] = letter
        self._next = {place: bound.high for place, bound in bounds.items()}
        for origin, letter in list(self._newest.items()):
            place = Partition(topic=letter.record.topic, number=letter.record.partition)
            if place in bounds and letter.record.offset < bounds[place].low:
                del self._newest[origin]
        return [letter.ref for letter in self._newest.values()]


def newest_of_each_event(letters: Iterable[Letter]) -> list[Letter]:
    """Return one letter an event: a replayed one may have died again, and only its last death counts."""
    newest: dict[Origin, Letter] = {}
    for letter in letters:
        known = newest.get(letter.origin)
        if known is None or _age(letter) >= _age(known):
            newest[letter.origin] = letter
    return list(newest.values())


def has_ended_well(standing: Standing | None) -> bool:
    """Whether the event has since got a result, or was recorded: then its dead letter is history."""
    return standing is not None and standing.phase is Phase.DONE and standing.kind is not EndKind.DEAD_LETTER


def is_under_way(standing: Standing | None) -> bool:
    """Whether a replay has opened the event again and it has no end yet."""
    return standing is not None and standing.phase is not Phase.DONE


def _age(letter: Letter) -> tuple[int, int]:
    return letter.ended_at_ms, letter.record.offset
