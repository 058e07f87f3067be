"""Ends and history lines as compact bytes: what the state stores and must be able to give back exactly.

Layout of an end, version 1, big-endian: u8 version, u8 kind, u8 1 when a value follows, then value,
u32 count and pairs of headers, u32 count and pairs of history. Every string of bytes is a u32 length
and its bytes. A history line is two such strings: speaker, text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sluicegate.errors import StateUnavailableError
from sluicegate.state.api import End, EndKind, HistoryEntry

_VERSION = 1
_KINDS = (EndKind.RESULT, EndKind.DEAD_LETTER, EndKind.RECORDED)
_HEAD = struct.Struct(">BBB")
_LENGTH = struct.Struct(">I")


def pack_end(end: End) -> bytes:
    """Return the end as bytes that `unpack_end` reads back unchanged."""
    parts = [_HEAD.pack(_VERSION, _KINDS.index(end.kind), end.value is not None)]
    if end.value is not None:
        parts += (_LENGTH.pack(len(end.value)), end.value)
    parts.append(_LENGTH.pack(len(end.headers)))
    for name, content in end.headers:
        parts.append(_pair(name.encode(), content))
    parts.append(_LENGTH.pack(len(end.history)))
    for entry in end.history:
        parts.append(pack_entry(entry))
    return b"".join(parts)


def unpack_end(packed: bytes) -> End:
    """Return the end that was packed.

    Raises StateUnavailableError when a newer release wrote it: it stays unread until this one is gone.
    """
    if not packed or packed[0] != _VERSION:
        raise StateUnavailableError("a stored end has an unknown version: finish the rolling upgrade")
    _, kind, has_value = _HEAD.unpack_from(packed)
    reader = _Reader(packed, _HEAD.size)
    value = reader.string() if has_value else None
    headers = tuple((name.decode(), content) for name, content in reader.pairs())
    history = tuple(
        HistoryEntry(speaker=speaker.decode(), text=text.decode()) for speaker, text in reader.pairs()
    )
    return End(kind=_KINDS[kind], value=value, headers=headers, history=history)


def pack_entry(entry: HistoryEntry) -> bytes:
    """Return one history line as bytes."""
    return _pair(entry.speaker.encode(), entry.text.encode())


def unpack_entry(packed: bytes) -> HistoryEntry:
    """Return the history line that was packed."""
    reader = _Reader(packed, 0)
    return HistoryEntry(speaker=reader.string().decode(), text=reader.string().decode())


def _pair(left: bytes, right: bytes) -> bytes:
    return b"%b%b%b%b" % (_LENGTH.pack(len(left)), left, _LENGTH.pack(len(right)), right)


class _Reader:
    def __init__(self, packed: bytes, position: int) -> None:
        self._packed = packed
        self._position = position

    def _number(self) -> int:
        number: int = _LENGTH.unpack_from(self._packed, self._position)[0]
        self._position += _LENGTH.size
        return number

    def string(self) -> bytes:
        length = self._number()
        start, self._position = self._position, self._position + length
        return self._packed[start : self._position]

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(self._number()):
            yield self.string(), self.string()
