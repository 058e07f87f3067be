"""Stored ends come back exactly, whatever bytes they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import StateUnavailableError
from sluicegate.state.api import End, EndKind, HistoryEntry
from sluicegate.state.codec import pack_end, pack_entry, unpack_end, unpack_entry

ENTRIES = st.builds(HistoryEntry, speaker=st.text(max_size=12), text=st.text(max_size=80))
ENDS = st.builds(
    End,
    kind=st.sampled_from(EndKind),
    value=st.none() | st.binary(max_size=200),
    headers=st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=40)), max_size=5).map(tuple),
    history=st.lists(ENTRIES, max_size=3).map(tuple),
)


@given(end=ENDS)
def test_an_end_survives_being_stored(end: End) -> None:
    """Kind, value (also none or empty), duplicate headers and history come back as they were."""
    assert unpack_end(pack_end(end)) == end


@given(entry=ENTRIES)
def test_a_history_line_survives_being_stored(entry: HistoryEntry) -> None:
    """Line breaks, zero bytes and any language come back as they were."""
    assert unpack_entry(pack_entry(entry)) == entry


@pytest.mark.parametrize("packed", [b"", b"\x02", b"\xff\x00\x00"])
def test_an_end_of_an_unknown_version_is_refused(packed: bytes) -> None:
    """A newer release's layout is never read as if it were ours."""
    with pytest.raises(StateUnavailableError, match="upgrade"):
        unpack_end(packed)
