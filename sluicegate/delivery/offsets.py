"""Which offset of a partition may be committed, and what above it is finished already.

Kafka stores one offset per partition, but events finish out of order. The commit is therefore the lowest
delivered offset that is not finished, and the offsets finished above it travel in the same commit's metadata
(`sluicegate.delivery.done_map`). The next owner of the partition skips those.

The tracker remembers only what is *unfinished*: every offset below the highest one delivered that is not
among them is finished or a hole (a transaction marker, an aborted or a compacted record). Its memory is
bounded by what intake admits, however far the partition runs ahead of a stuck event.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from sluicegate.delivery.done_map import (
    MAX_METADATA_BYTES,
    MAX_SPAN_OFFSETS,
    DoneMap,
    EncodedMap,
    Refusal,
    decode,
    encode,
)

METADATA_STOP_SHARE = 0.75
"""Intake of a partition stops at this share, so that what is in flight always still fits."""

# One change adds at most about 5 characters. The map is measured anew when that could have brought it to
# the stop, but not more often than every 64 changes, which stay within 8 % of the metadata.
_CHARACTERS_PER_CHANGE = 5
_LEAST_CHANGES_PER_MEASURE = 64
_ZERO_DIGIT = ord("0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An offset and the map that belongs to it, taken together. `version` says to `confirm` what it holds."""

    offset: int
    metadata: str
    version: int = field(compare=False)


class OffsetTracker:
    """Tracks one partition during one ownership. Not thread-safe: other threads get the frozen `Commit`."""

    __slots__ = (
        "_confirmed",
        "_max_metadata_bytes",
        "_measure_at",
        "_measured_bytes",
        "_measured_share",
        "_next",
        "_pending",
        "_restored",
        "_unfinished",
        "_unmeasured_changes",
        "_version",
        "rewinds",
        "truncated_maps",
    )

    def __init__(self, *, max_metadata_bytes: int = MAX_METADATA_BYTES) -> None:
        """`max_metadata_bytes`: what the broker takes with a commit (`offset.metadata.max.bytes`)."""
        self._max_metadata_bytes = max_metadata_bytes
        self._pending: deque[int] = (
            deque()
        )  # delivered, ascending; finished ones leave when they reach the head
        self._unfinished: set[int] = set()
        self._next: int | None = None  # everything below is delivered, a hole, or the former owner's
        self._restored = DoneMap(base=0)
        self._version = 0
        self._confirmed = 0
        self._measured_share = 0.0
        self._measured_bytes = 0
        self._unmeasured_changes = 0
        self._measure_at = _LEAST_CHANGES_PER_MEASURE
        self.truncated_maps = 0
        self.rewinds = 0

    def restore(self, offset: int | None, metadata: str) -> Refusal | None:
        """Start from the former owner's commit (None: there was none); says why its map was not believed."""
        self._forget()
        if offset is None:
            return None
        decoded = decode(offset, metadata)
        self._next = offset
        self._restored = decoded.done
        return decoded.refusal

    def already_done(self, offset: int) -> bool:
        """Whether a former owner finished this offset: then skip it; `delivered` counts it as finished."""
        return offset in self._restored

    def delivered(self, offset: int) -> None:
        """Note a record that was handed out. Call it for every record, in the partition's order."""
        if self._next is not None and offset < self._next:
            if offset in self._unfinished:
                return
            # The log itself went back (truncated, or reset to its start): what was known is about other
            # records. To run them again is safe, to take them for finished would lose them.
            self._forget()
            self.rewinds += 1
        self._next = offset + 1
        if offset in self._restored:
            self._changed()
            return
        self._pending.append(offset)
        self._unfinished.add(offset)
        self._unmeasured_changes += 1

    def done(self, offset: int) -> None:
        """Note that a delivered record is finished: its end is confirmed. Others are ignored."""
        if offset in self._unfinished:
            self._unfinished.remove(offset)
            self._changed()

    def advance(self, position: int) -> None:
        """Note the consumer's position: everything below it was delivered or is a hole."""
        if self._next is None or position > self._next:
            self._next = position
            if not self._unfinished:
                self._changed()

    def position(self) -> int | None:
        """Return the offset that comes next, None where that is not known."""
        return self._next

    def watermark(self) -> int | None:
        """Return the lowest unfinished offset, else the consumer's position; None while nothing is known."""
        pending = self._pending
        while pending and pending[0] not in self._unfinished:
            pending.popleft()
        return pending[0] if pending else self._next

    def done_above(self) -> frozenset[int]:
        """Return what the next commit's map says: offsets above the watermark that need not run again."""
        return frozenset(self._done_map())

    def snapshot(self) -> Commit | None:
        """Return the offset and its map as of now; None while nothing is known.

        A map that does not fit is cut at its high end and counted in `truncated_maps`: intake that heeds
        `metadata_share` never gets there.
        """
        watermark = self.watermark()
        if watermark is None:
            return None
        encoded = self._encode()
        self.truncated_maps += encoded.truncated
        return Commit(offset=watermark, metadata=encoded.text, version=self._version)

    def confirm(self, commit: Commit) -> None:
        """Note that the broker has this commit."""
        self._confirmed = max(self._confirmed, commit.version)

    @property
    def dirty(self) -> bool:
        """Whether there is something that no confirmed commit holds."""
        return self._version != self._confirmed

    @property
    def unfinished(self) -> int:
        """How many delivered records are not finished."""
        return len(self._unfinished)

    @property
    def span(self) -> int:
        """How far what was delivered reaches above the watermark."""
        watermark = self.watermark()
        return 0 if watermark is None or self._next is None else self._next - watermark

    @property
    def metadata_bytes(self) -> int:
        """How long the map was when it was last written."""
        return self._measured_bytes

    def remaining(self, end: int) -> int:
        """Return how many records below `end`, the partition's next offset, are not finished.

        Holes count as records until they are passed. Without any commit or record everything counts.
        """
        start = self._next or 0
        done_beyond = sum(start <= offset < end for offset in self._restored)
        return len(self._unfinished) + max(0, end - start) - done_beyond

    @property
    def metadata_share(self) -> float:
        """How full the next map is, by characters or by reach; measured anew when near the stop."""
        if self._unmeasured_changes >= self._measure_at:
            self._encode()
        return self._measured_share

    @property
    def must_stop(self) -> bool:
        """Whether intake of this partition has to wait for the watermark to move."""
        return self.metadata_share >= METADATA_STOP_SHARE

    def _encode(self) -> EncodedMap:
        """Write the map as of now and note how full it is."""
        encoded = encode(self._done_map(), max_bytes=self._max_metadata_bytes)
        reach = self._next - self._pending[0] if self._next is not None and self._pending else 0
        if reach > MAX_SPAN_OFFSETS:
            encoded = replace(encoded, truncated=True)
        share = max(len(encoded.text) / self._max_metadata_bytes, reach / MAX_SPAN_OFFSETS)
        self._measured_share = 1.0 if encoded.truncated else share
        self._measured_bytes = len(encoded.text)
        self._unmeasured_changes = 0
        left = (METADATA_STOP_SHARE - self._measured_share) * self._max_metadata_bytes
        self._measure_at = max(_LEAST_CHANGES_PER_MEASURE, int(left / _CHARACTERS_PER_CHANGE))
        return encoded

    def _done_map(self) -> DoneMap:
        base = self.watermark()
        if base is None or self._next is None:
            return DoneMap(base=0)
        reach = min(self._next - base, MAX_SPAN_OFFSETS)
        # What the former owner finished and was not delivered again yet has to stay in the map.
        kept = int.from_bytes(self._restored.bitmap, "little") >> max(0, base - self._restored.base)
        bits = kept >> reach << reach | self._known_bits(base, reach)
        return DoneMap(base=base, bitmap=bits.to_bytes((bits.bit_length() + 7) // 8, "little"))

    def _known_bits(self, base: int, reach: int) -> int:
        """Return a bit for each of the `reach` offsets from `base` that is finished or a hole, lowest first.

        Written as binary digits and read as a number: with ten thousands unfinished a shift for each would
        hold up the process that commits twice a second.
        """
        digits = bytearray(b"1") * reach
        for offset in self._unfinished:
            if offset < base + reach:
                digits[offset - base] = _ZERO_DIGIT
        digits.reverse()
        return int(digits or b"0", base=2)

    def _changed(self) -> None:
        self._version += 1
        self._unmeasured_changes += 1

    def _forget(self) -> None:
        self._pending.clear()
        self._unfinished.clear()
        self._next = None
        self._restored = DoneMap(base=0)
        self._confirmed = self._version
        self._measured_share = 0.0
        self._measured_bytes = 0
        self._unmeasured_changes = 0
        self._measure_at = _LEAST_CHANGES_PER_MEASURE
