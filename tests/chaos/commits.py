"""What a commit says is finished: an offset, and a map of what is done above it in its metadata.

Decoded here from the documented layout, on purpose not with the product's own code:
`d1:<base>:<base85 of (CRC-32 of base and bitmap, raw-deflated bitmap)>`, bit i of the bitmap (lowest
first) standing for offset base + i.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.chaos.history import Place, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What one commit says is finished."""

    below: int
    above: frozenset[int] = frozenset()

    def __contains__(self, offset: int) -> bool:
        return offset < self.below or offset in self.above


def finished(sample: Sample) -> Finished:
    """Return what a commit says; raises ValueError for a map that nobody can read."""
    if not sample.metadata:
        return Finished(below=sample.offset)
    version, base, packed = sample.metadata.split(":", 2)
    if version != "d1" or int(base) != sample.offset:
        raise ValueError(f"a map of {version}:{base} in a commit of {sample.offset}")
    payload = base64.b85decode(packed)
    bitmap = zlib.decompress(payload[4:], wbits=-15)
    if zlib.crc32(bitmap, zlib.crc32(base.encode())) != int.from_bytes(payload[:4], "big"):
        raise ValueError("the checksum of the map is wrong")
    above = {
        sample.offset + 8 * index + bit
        for index, byte in enumerate(bitmap)
        for bit in range(8)
        if byte >> bit & 1
    }
    return Finished(below=sample.offset, above=frozenset(above))


class Commits:
    """The last commit of each partition, asked for places."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._finished: Mapping[tuple[str, int], Finished] = {
            (sample.topic, sample.partition): finished(sample) for sample in samples
        }

    def has(self, place: Place) -> bool:
        """Whether the record at this place is committed as finished."""
        found = self._finished.get((place.topic, place.partition))
        return found is not None and place.offset in found
