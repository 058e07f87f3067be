"""Names that an event keeps through retries, replays and repeated publishing."""

from __future__ import annotations

from hashlib import sha256

from sluicegate.events.cloudevent import CloudEvent
from sluicegate.events.models import Event
from sluicegate.records import Origin

_HEX_DIGITS = 32


def event_identity(*, event: CloudEvent, stream: str, key: str, origin: Origin) -> str:
    """Return 32 hex digits that name the event for durable steps, and are its result's `ce_id`.

    A CloudEvent is the same however often it is published: the hash of source, id, stream and key.
    Without an envelope the origin is all there is to tell two events apart.
    """
    if event.id is not None and event.source is not None:
        return _digest("cloudevent", event.source, event.id, stream, key)
    return _digest("origin", origin.topic, str(origin.partition), str(origin.offset), stream)


def own_id(event: CloudEvent, origin: Origin) -> str:
    """Return what others know the event by: its `ce_id`, else `topic/partition/offset`."""
    return event.id if event.id is not None else str(origin)


def lane_key(key: bytes | None, event: Event) -> str:
    """Return the record's key as text, or the event's id field where the key is null."""
    if key is None:
        return str(getattr(event, event.id_field))
    return key.decode("utf-8", "backslashreplace")


def _digest(*parts: str) -> str:
    """Hash parts with their lengths before them, so that no two lists of parts read the same."""
    encoded = [part.encode("utf-8") for part in parts]
    return sha256(b"".join([b"%d:%b" % (len(part), part) for part in encoded])).hexdigest()[:_HEX_DIGITS]
