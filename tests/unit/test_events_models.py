"""The shipped models: strict in what they take, stable in what they give, silent about content."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.models import (
    ChatReply,
    Chunk,
    Document,
    DocumentIndex,
    Event,
    Speaker,
    SupportChat,
    read_model,
    write_model,
)
from sluicegate.events.strict_json import read_object
from sluicegate.llm.outcomes import Usage

CHAT = {"conversation_id": "c-1", "turn": 0, "speaker": "customer", "text": "Hello"}
DOCUMENT = {"document_id": "d-1", "title": "T", "media_type": "text/plain", "text": "Body"}
USAGE = Usage(input_tokens=3, output_tokens=2)


class Noted(Event):
    """An event of a user's own, with a map and a rule that quotes what it refuses."""

    ce_type: ClassVar[str] = "example.noted.v1"
    id_field: ClassVar[str] = "name"

    name: str
    notes: dict[str, int] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _no_canary(cls, value: str) -> str:
        if "canary" in value:
            raise ValueError(f"refused: {value}")
        return value


def test_a_chat_message_is_read() -> None:
    """The four documented fields, and a tenant if there is one."""
    chat = read_model(SupportChat, CHAT)
    assert (chat.conversation_id, chat.turn, chat.text, chat.tenant) == ("c-1", 0, "Hello", None)
    assert chat.speaker is Speaker.CUSTOMER
    assert read_model(SupportChat, CHAT | {"tenant": "acme"}).tenant == "acme"


def test_a_document_is_read() -> None:
    """The four documented fields; an empty text is a text."""
    assert read_model(Document, DOCUMENT | {"text": ""}).text == ""


def test_fields_that_a_model_does_not_know_are_ignored() -> None:
    """A publisher may add fields before we know them."""
    assert read_model(SupportChat, CHAT | {"mood": {"deep": ["x"]}}) == read_model(SupportChat, CHAT)


@pytest.mark.parametrize(
    ("model", "whole", "change", "where"),
    [
        (SupportChat, CHAT, {"turn": "3"}, "turn"),
        (SupportChat, CHAT, {"turn": True}, "turn"),
        (SupportChat, CHAT, {"turn": 1.0}, "turn"),
        (SupportChat, CHAT, {"turn": -1}, "turn"),
        (SupportChat, CHAT, {"turn": 2**53}, "turn"),
        (SupportChat, CHAT, {"speaker": "robot"}, "speaker"),
        (SupportChat, CHAT, {"speaker": None}, "speaker"),
        (SupportChat, CHAT, {"text": 5}, "text"),
        (SupportChat, CHAT, {"conversation_id": ""}, "conversation_id"),
        (SupportChat, CHAT, {"conversation_id": 7}, "conversation_id"),
        (SupportChat, CHAT, {"conversation_id": "x" * 513}, "conversation_id"),
        (SupportChat, CHAT, {"tenant": ""}, "tenant"),
        (Document, DOCUMENT, {"title": None}, "title"),
        (Document, DOCUMENT, {"media_type": ""}, "media_type"),
        (Document, DOCUMENT, {"text": ["x"]}, "text"),
    ],
)
def test_a_wrong_value_is_refused_by_field(
    model: type[Event], whole: dict[str, Any], change: dict[str, Any], where: str
) -> None:
    """Nothing is converted: a value of another kind is the publisher's mistake."""
    with pytest.raises(BadEventError) as caught:
        read_model(model, whole | change)
    assert (caught.value.reason, caught.value.where) == (BadEventReason.WRONG_SCHEMA, where)


@pytest.mark.parametrize(("model", "whole"), [(SupportChat, CHAT), (Document, DOCUMENT)])
def test_every_field_but_the_tenant_is_required(model: type[Event], whole: dict[str, Any]) -> None:
    """A missing field is named."""
    for missing in whole:
        with pytest.raises(BadEventError) as caught:
            read_model(model, {name: value for name, value in whole.items() if name != missing})
        assert caught.value.where == missing


def test_an_integer_beyond_64_bits_is_refused() -> None:
    """It would arrive as a rounded float, and never as another number."""
    data = read_object(json.dumps(CHAT | {"turn": 2**80}).encode())
    with pytest.raises(BadEventError):
        read_model(SupportChat, data)


@given(
    st.dictionaries(
        st.sampled_from([*CHAT, "tenant", "x"]), st.none() | st.integers() | st.text(), max_size=6
    )
)
def test_no_object_gives_any_other_error(data: dict[str, Any]) -> None:
    """Whatever the data holds is an event or WRONG_SCHEMA at a field of the model."""
    try:
        read_model(SupportChat, data)
    except BadEventError as error:
        assert error.reason is BadEventReason.WRONG_SCHEMA
        assert error.where in SupportChat.model_fields


@pytest.mark.parametrize("data", [{"name": "canary"}, {"name": "n", "notes": {"canary": "canary"}}])
def test_no_refusal_quotes_the_event(data: dict[str, Any]) -> None:
    """Neither a user's own rule nor a key of the event's own shows in the error or behind it."""
    with pytest.raises(BadEventError) as caught:
        read_model(Noted, data)
    assert "canary" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__context__ is None


def test_no_repr_shows_content() -> None:
    """A model in a log line or an exception gives nothing away."""
    chat = read_model(SupportChat, CHAT | {"text": "canary", "tenant": "canary"})
    chunk = Chunk(index=0, start=0, end=6, summary="canary", tags=("canary",))
    index = _index(chunk)
    reply = ChatReply(conversation_id="c", turn=0, reply="canary", model="m", usage=USAGE)
    assert "canary" not in f"{chat!r} {chat} {chunk!r} {index!r} {reply!r} {reply}"


def test_a_reply_has_the_documented_keys() -> None:
    """Other services read these names."""
    reply = ChatReply(conversation_id="c", turn=1, reply="Hi ü", model="m-1", usage=USAGE)
    assert json.loads(write_model(reply)) == {
        "conversation_id": "c",
        "turn": 1,
        "reply": "Hi ü",
        "model": "m-1",
        "usage": {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 0},
        "route": "",
    }
    assert ChatReply.ce_type == "sluicegate.support-chat.reply.v1"
    assert ChatReply.model_validate_json(write_model(reply)) == reply


def test_an_index_has_the_documented_keys() -> None:
    """Other services read these names."""
    index = _index(Chunk(index=0, start=0, end=4, summary="s", tags=("a", "b")))
    written = json.loads(write_model(index))
    assert written.keys() == {
        "document_id", "title", "summary", "tags", "chunks", "degraded", "model", "usage", "routes",
    }  # fmt: skip
    assert written["chunks"] == [
        {"index": 0, "start": 0, "end": 4, "summary": "s", "tags": ["a", "b"], "degraded": False}
    ]
    assert DocumentIndex.ce_type == "sluicegate.documents.index.v1"
    assert DocumentIndex.model_validate_json(write_model(index)) == index


def test_results_of_before_there_were_routes_are_read() -> None:
    """A record without the newer keys is as good as one that has them."""
    reply = json.loads(write_model(ChatReply(conversation_id="c", turn=1, reply="r", model="m", usage=USAGE)))
    index = json.loads(write_model(_index(Chunk(index=0, start=0, end=4, summary="s", tags=()))))
    del reply["route"], index["routes"]
    assert ChatReply.model_validate_json(json.dumps(reply)).route == ""
    assert DocumentIndex.model_validate_json(json.dumps(index)).routes == ()


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_being_written(text: str) -> None:
    """An answer with any character at all arrives as the provider gave it."""
    reply = ChatReply(conversation_id="c", turn=0, reply=text, model="m", usage=USAGE)
    assert read_object(write_model(reply))["reply"] == text


def _index(chunk: Chunk) -> DocumentIndex:
    return DocumentIndex(
        document_id="d",
        title="canary" if chunk.summary == "canary" else "T",
        summary=chunk.summary,
        tags=chunk.tags,
        chunks=(chunk,),
        degraded=False,
        model="m",
        usage=USAGE,
    )
