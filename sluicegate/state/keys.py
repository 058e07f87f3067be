"""The names of the state's keys in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from sluicegate.state.api import EventRef

_KEY_HASH_BYTES = 16
# Each of an event's scripts asks for its names: as many events as may be at work at once.
_MOST_CACHED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """All keys that one event's scripts touch.

    They begin with `<group>:`, so that deployments share a Redis, and carry one hash tag per stream and
    key, so that every script stays within one slot. The record's key appears only as its hash.
    """

    row: str
    gate: str
    gate_entries: str
    dead_letter: str
    steps: str
    history: str


def prefix_of(group: str, stream: str, key: str) -> str:
    """Return what the names of all keys of one stream and key begin with; no part of it is a pattern."""
    key_hash = blake2b(key.encode(errors="surrogatepass"), digest_size=_KEY_HASH_BYTES).hexdigest()
    return f"{group}:{{{stream}/{key_hash}}}"


@lru_cache(maxsize=_MOST_CACHED)
def keys_of(group: str, ref: EventRef) -> Keys:
    """Return the key names of an event."""
    tagged = prefix_of(group, ref.stream, ref.key)
    place = f"{ref.origin.topic}/{ref.origin.partition}"
    return Keys(
        row=f"{tagged}:row:{ref.origin}",
        gate=f"{tagged}:gate:{place}",
        gate_entries=f"{tagged}:gate-entries:{place}",
        dead_letter=f"{tagged}:dead-letter:{place}",
        steps=f"{tagged}:steps:{ref.identity}",
        history=f"{tagged}:history",
    )
