"""The done-map: which offsets above the watermark are finished, as text that fits into a commit's metadata.

Layout: `d1:<base offset>:<base85 of (CRC-32, raw-deflated bitmap)>`. Bit i, lowest first, stands for offset
base + i. The base is the committed offset itself. Raw deflate carries no checksum and a damaged map would
silently skip events, hence the CRC; it covers the base too.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

MAX_METADATA_BYTES = 4095
"""What a broker takes by default (`offset.metadata.max.bytes`: 4096), less the NUL that commits end with.

The text is ASCII: characters are bytes."""

MAX_SPAN_OFFSETS = 1 << 22
"""How far above its base a map may reach. Bounds the memory a hostile map can ask for to 512 KiB."""

_VERSION = "d1"
_CRC_BYTES = 4
_MAX_BITMAP_BYTES = MAX_SPAN_OFFSETS // 8


class Refusal(StrEnum):
    """Why a map found in a commit was not believed. A closed set: it becomes a metric label."""

    UNKNOWN_VERSION = "unknown-version"
    FOREIGN_BASE = "foreign-base"
    GARBAGE = "garbage"
    TOO_LARGE = "too-large"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneMap:
    """A set of offsets at or above `base`; membership is O(1)."""

    base: int
    bitmap: bytes = b""

    @classmethod
    def of(cls, base: int, offsets: Iterable[int]) -> DoneMap:
        """Build a map of the offsets that are not below `base`."""
        bits = bytearray()
        for offset in offsets:
            byte, bit = divmod(offset - base, 8)
            if byte < 0:
                continue
            if byte >= len(bits):
                bits.extend(bytes(byte + 1 - len(bits)))
            bits[byte] |= 1 << bit
        return cls(base=base, bitmap=bytes(bits))

    def __contains__(self, offset: int) -> bool:
        byte, bit = divmod(offset - self.base, 8)
        return 0 <= byte < len(self.bitmap) and bool(self.bitmap[byte] >> bit & 1)

    def __iter__(self) -> Iterator[int]:
        for index, byte in enumerate(self.bitmap):
            for bit in range(8) if byte else ():
                if byte >> bit & 1:
                    yield self.base + index * 8 + bit

    def __bool__(self) -> bool:
        return any(self.bitmap)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMap:
    """A map as text. `truncated`: it did not fit, its high end is missing and will be run again."""

    text: str
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedMap:
    """A map read back; empty when `refusal` says why it was not believed."""

    done: DoneMap
    refusal: Refusal | None = None


def encode(done: DoneMap, *, max_bytes: int = MAX_METADATA_BYTES) -> EncodedMap:
    """Write a map into at most `max_bytes` characters; an empty map is the empty text.

    A map that does not fit loses its high end, a quarter at a time: what is missing is run again, which
    costs a repeat, while a map that lists too much would lose events.
    """
    bitmap = done.bitmap.rstrip(b"\0")
    kept = bitmap[:_MAX_BITMAP_BYTES]
    while kept:
        text = _text(done.base, kept)
        if len(text) <= max_bytes:
            return EncodedMap(text=text, truncated=len(kept) < len(bitmap))
        kept = kept[: len(kept) * 3 // 4].rstrip(b"\0")
    return EncodedMap(text="", truncated=bool(bitmap))


def decode(base: int, text: str) -> DecodedMap:
    """Read the map that was committed with offset `base`; a foreign or damaged one is refused whole."""
    nothing = DoneMap(base=base)
    if not text:
        return DecodedMap(done=nothing)
    version, _, rest = text.partition(":")
    base_text, _, payload = rest.partition(":")
    refusal: Refusal | None = None
    bitmap = b""
    if version != _VERSION:
        refusal = Refusal.UNKNOWN_VERSION
    elif len(text) > MAX_METADATA_BYTES:
        refusal = Refusal.TOO_LARGE
    elif base_text != str(base):
        refusal = Refusal.FOREIGN_BASE
    else:
        try:
            bitmap = _inflate(base, base64.b85decode(payload.encode("ascii")))
        except OverflowError:
            refusal = Refusal.TOO_LARGE
        except (ValueError, zlib.error):
            refusal = Refusal.GARBAGE
    if refusal is not None:
        return DecodedMap(done=nothing, refusal=refusal)
    return DecodedMap(done=DoneMap(base=base, bitmap=bitmap))


def _text(base: int, bitmap: bytes) -> str:
    deflate = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(bitmap) + deflate.flush()
    payload = _checksum(base, bitmap) + packed
    return f"{_VERSION}:{base}:{base64.b85encode(payload).decode('ascii')}"


def _inflate(base: int, payload: bytes) -> bytes:
    """Raise OverflowError for a decompression bomb, ValueError or zlib.error for anything damaged."""
    inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    bitmap = inflate.decompress(payload[_CRC_BYTES:], _MAX_BITMAP_BYTES + 1)
    if len(bitmap) > _MAX_BITMAP_BYTES:
        raise OverflowError("the map reaches too far above its base")
    if not inflate.eof or inflate.unused_data or payload[:_CRC_BYTES] != _checksum(base, bitmap):
        raise ValueError("the map is damaged")
    return bitmap


def _checksum(base: int, bitmap: bytes) -> bytes:
    return zlib.crc32(bitmap, zlib.crc32(str(base).encode("ascii"))).to_bytes(_CRC_BYTES, "big")
