"""From confluent-kafka's messages to our plain records."""

from __future__ import annotations

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from sluicegate.records import Headers, Record


def record_of(message: Message) -> Record:
    """Translate a message that carries no error; a header without a value reads as an empty one.

    Header names that are not UTF-8 make the client refuse all of a message's headers: then it has none.
    """
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise ValueError("the message was not read from a partition")
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=message.timestamp()[1],
        key=_raw(message.key()),
        value=_raw(message.value()),
        headers=_headers(message),
    )


def append_time_ms(message: Message) -> int | None:
    """Return when the broker stored the record; None where it keeps the producer's time."""
    kind, timestamp_ms = message.timestamp()
    return timestamp_ms if kind == TIMESTAMP_LOG_APPEND_TIME else None


def _headers(message: Message) -> Headers:
    try:
        headers = message.headers()
    except UnicodeDecodeError:
        return ()
    # A consumer gives a list of pairs, whatever a producer may be given.
    pairs = list(headers.items()) if isinstance(headers, dict) else headers or []
    # A list and the check in place: twice as fast as a generator and a call, for some twenty headers each.
    return tuple([(name, value if isinstance(value, bytes) else _raw(value) or b"") for name, value in pairs])


def _raw(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
