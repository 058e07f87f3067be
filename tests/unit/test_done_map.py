"""The done-map: what fits comes back exactly, and nothing foreign is ever believed."""

from __future__ import annotations

import base64
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.delivery.done_map import (
    MAX_METADATA_BYTES,
    MAX_SPAN_OFFSETS,
    DoneMap,
    Refusal,
    decode,
    encode,
)

_BASES = st.integers(0, 2**62)
_GAPS = st.sets(st.integers(0, 5_000), max_size=300)


def _text(base: int, done: set[int]) -> str:
    return encode(DoneMap.of(base, done)).text


@given(base=_BASES, gaps=_GAPS)
def test_a_map_that_fits_comes_back_exactly(base: int, gaps: set[int]) -> None:
    """What one owner finished above the watermark is what the next one skips."""
    done = {base + gap for gap in gaps}
    encoded = encode(DoneMap.of(base, done))

    decoded = decode(base, encoded.text)

    assert not encoded.truncated
    assert decoded.refusal is None
    assert set(decoded.done) == done
    assert all((base + gap in decoded.done) == (gap in gaps) for gap in range(-9, 5_010))


@given(base=_BASES, gaps=_GAPS, limit=st.integers(0, 400))
def test_a_map_that_does_not_fit_loses_only_its_high_end(base: int, gaps: set[int], limit: int) -> None:
    """A cut map lists a prefix of what is finished: repeats, never losses; and it says that it was cut."""
    done = {base + gap for gap in gaps}
    encoded = encode(DoneMap.of(base, done), max_bytes=limit)

    kept = set(decode(base, encoded.text).done)

    assert len(encoded.text) <= limit
    assert encoded.truncated == (kept != done)
    assert kept == {offset for offset in done if not kept or offset <= max(kept)} or not kept


def test_half_done_at_random_fits_what_the_broker_takes() -> None:
    """The worst pattern of 20,000 offsets, half of them done, stays within the broker's default."""
    chance = random.Random(1)
    done = {offset for offset in range(10**9, 10**9 + 20_000) if chance.random() < 0.5}

    encoded = encode(DoneMap.of(10**9, done))

    assert not encoded.truncated
    assert len(encoded.text) <= MAX_METADATA_BYTES


def test_the_text_is_ascii_so_that_characters_are_bytes() -> None:
    """Kafka's limit is in bytes while ours counts characters."""
    assert _text(7, {8, 9, 200}).isascii()


def test_no_metadata_is_an_empty_map_and_no_refusal() -> None:
    """A commit by a tool carries no map; that is ordinary."""
    decoded = decode(5, "")

    assert decoded.refusal is None
    assert not decoded.done


def test_a_map_of_another_base_is_refused() -> None:
    """An offset that somebody reset does not go with the map that was committed before."""
    decoded = decode(6, _text(5, {7}))

    assert decoded.refusal is Refusal.FOREIGN_BASE
    assert not decoded.done


@pytest.mark.parametrize("text", ["d2:5:abc", "d1", "hello", "{}", "\N{SNOWMAN}", "host-17"])
def test_what_other_software_wrote_is_refused(text: str) -> None:
    """Metadata that is not ours, or is of a later version, is never read as offsets."""
    decoded = decode(5, text)

    assert decoded.refusal is not None
    assert not decoded.done


@given(position=st.integers(0), replacement=st.characters(codec="ascii"))
def test_a_damaged_map_is_never_read_as_another(position: int, replacement: str) -> None:
    """Raw deflate has no checksum: without ours one changed character would skip events unread."""
    done = {1_001, 1_005, 1_020, 1_400}
    text = _text(1_000, done)
    at = position % len(text)

    decoded = decode(1_000, text[:at] + replacement + text[at + 1 :])

    assert set(decoded.done) == (done if decoded.refusal is None else set())


@given(st.text(max_size=200))
def test_garbage_behind_our_prefix_is_refused_and_never_raises(rest: str) -> None:
    """Whatever stands behind the version and base, reading it ends in a reason."""
    decoded = decode(3, f"d1:3:{rest}")

    assert decoded.refusal is not None


def _hostile(bitmap: bytes, base: int, behind: bytes = b"") -> str:
    deflate = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(bitmap) + deflate.flush() + behind
    checksum = zlib.crc32(bitmap, zlib.crc32(str(base).encode())).to_bytes(4, "big")
    return f"d1:{base}:{base64.b85encode(checksum + packed).decode()}"


def test_a_decompression_bomb_is_refused() -> None:
    """A few thousand characters that unpack to megabytes are not unpacked, valid checksum or not."""
    bomb = _hostile(b"\xff" * (MAX_SPAN_OFFSETS // 8 + 1), 9)
    assert len(bomb) <= MAX_METADATA_BYTES

    assert decode(9, bomb).refusal is Refusal.TOO_LARGE
    assert decode(9, _hostile(b"\xff" * (MAX_SPAN_OFFSETS // 8), 9)).refusal is None


def test_anything_behind_the_map_is_refused() -> None:
    """A map with a tail was not written by us, whatever its checksum says."""
    assert decode(9, _hostile(b"\x02", 9)).refusal is None
    assert decode(9, _hostile(b"\x02", 9, behind=b"tail")).refusal is Refusal.GARBAGE


def test_more_text_than_a_commit_can_hold_is_refused() -> None:
    """A map of ours is never longer than the broker's default."""
    assert decode(9, "d1:9:" + "0" * MAX_METADATA_BYTES).refusal is Refusal.TOO_LARGE


def test_a_map_that_reaches_too_far_is_cut_and_says_so() -> None:
    """Reach is bounded by the same number that reading refuses, so what is written can be read."""
    encoded = encode(DoneMap.of(0, [1, MAX_SPAN_OFFSETS + 8]))

    assert encoded.truncated
    assert set(decode(0, encoded.text).done) == {1}
