"""Identity: the same event has one name for ever, and two events never share one."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from sluicegate.events.cloudevent import CloudEvent
from sluicegate.events.identity import event_identity, lane_key, own_id
from sluicegate.events.models import Speaker, SupportChat
from sluicegate.records import Origin

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
origins = st.builds(
    Origin, topic=st.sampled_from(["a", "a1", "b"]), partition=st.integers(0, 20), offset=st.integers(0, 200)
)
Named = tuple[str, str, str, str]
named = st.tuples(texts, texts, texts, texts)
PINNED_CLOUDEVENT = "cf4593411ac88e723a2ebc9cb9c27275"
PINNED_BARE = "27650314b4fd862e04a86344ef11ad33"
ORIGIN = Origin(topic="support-chat", partition=3, offset=41)
CHAT = SupportChat(conversation_id="c-1", turn=0, speaker=Speaker.AGENT, text="x")


def identity_of(source: str, id: str, stream: str, key: str, origin: Origin = ORIGIN) -> str:
    """The identity of a CloudEvent."""
    return event_identity(
        event=CloudEvent(data={}, id=id, source=source, type="t"), stream=stream, key=key, origin=origin
    )


@given(named, named)
def test_two_events_never_share_an_identity(one: Named, other: Named) -> None:
    """Source, id, stream and key all count, and where one ends and the next begins counts too."""
    assume(one != other)
    assert identity_of(*one) != identity_of(*other)


@given(cut=st.integers(0, 6), parts=st.integers(0, 2))
def test_parts_cannot_be_shifted_into_each_other(cut: int, parts: int) -> None:
    """The same letters, cut elsewhere, are another event."""
    whole = "abcdef"
    pieces = ["x", "y", "z", "w"]
    pieces[parts : parts + 2] = [whole[:cut], whole[cut:]]
    other = ["x", "y", "z", "w"]
    other[parts : parts + 2] = [whole[: (cut + 1) % 7], whole[(cut + 1) % 7 :]]
    source, id, stream, key = pieces
    assert identity_of(source, id, stream, key) != identity_of(other[0], other[1], other[2], other[3])


@given(named, origins)
def test_a_cloudevent_is_the_same_wherever_it_was_published(parts: Named, origin: Origin) -> None:
    """Published twice, it is still one event: its steps are paid once."""
    assert identity_of(*parts, origin=origin) == identity_of(*parts)


@given(origins, origins, st.sampled_from(["s", "s1"]), st.sampled_from(["s", "s1"]))
def test_without_an_envelope_the_origin_names_the_event(
    one: Origin, other: Origin, stream: str, other_stream: str
) -> None:
    """Two records are two events, however alike; two streams on one topic do their own work."""
    bare = CloudEvent(data={})
    same = event_identity(event=bare, stream=stream, key="k", origin=one) == event_identity(
        event=bare, stream=other_stream, key="k", origin=other
    )
    assert same == ((one, stream) == (other, other_stream))


def test_an_identity_never_changes_between_versions() -> None:
    """Steps and ends that an earlier version stored are found again."""
    assert identity_of("/shop", "1", "support-chat", "c-1") == PINNED_CLOUDEVENT
    bare = event_identity(event=CloudEvent(data={}), stream="support-chat", key="c-1", origin=ORIGIN)
    assert bare == PINNED_BARE
    assert re.fullmatch(r"[0-9a-f]{32}", bare)


def test_an_event_is_known_by_its_own_id_else_by_its_origin() -> None:
    """What a result names as its cause can be found by whoever published it."""
    assert own_id(CloudEvent(data={}, id="e-1", source="s", type="t"), ORIGIN) == "e-1"
    assert own_id(CloudEvent(data={}), ORIGIN) == "support-chat/3/41"


def test_a_missing_key_is_taken_from_the_event() -> None:
    """A publisher that sends no key gets the order of one who does."""
    assert lane_key(None, CHAT) == "c-1"
    assert lane_key(b"c-2", CHAT) == "c-2"
    assert lane_key(b"", CHAT) == ""


@given(st.binary(max_size=20))
def test_any_key_is_text_that_can_be_stored(key: bytes) -> None:
    """A key that is no UTF-8 still names its lane, the same each time."""
    text = lane_key(key, CHAT)
    assert text.encode("utf-8").decode("utf-8") == text
    assert text == lane_key(key, CHAT)
