"""What the shipped streams take in and give out, and the two classes that own models derive from.

Models are strict: `"3"` and `true` are no integers. Fields that a model does not know are ignored, so
that publishers may add some. No repr shows content.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.strict_json import JsonObject
from sluicegate.llm.outcomes import Usage

Name = Annotated[str, Field(min_length=1, max_length=512)]
Tenant = Annotated[str, Field(min_length=1, max_length=256)]
_LARGEST_EXACT_INTEGER = 2**53 - 1  # what every JSON reader keeps exactly (RFC 8259, section 6)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    ce_type: ClassVar[str]

    def __repr_args__(self) -> list[tuple[str | None, object]]:
        """Show nothing of an event, wherever it may be printed."""
        return []


class Event(_Model):
    """Something that a stream takes in. `id_field` names the field that stands in for a missing key.

    `ce_type` is what our own publishing calls it; an event that comes in may be of any type.
    """

    ce_type: ClassVar[str] = "sluicegate.event"
    id_field: ClassVar[str]


class Result(_Model):
    """Something that a stream publishes about one event."""


class Speaker(StrEnum):
    """Who said a message of a support chat."""

    CUSTOMER = "customer"
    AGENT = "agent"


class SupportChat(Event):
    """One message of a support chat. `turn` counts the conversation's messages from 0."""

    ce_type: ClassVar[str] = "sluicegate.support-chat.message.v1"
    id_field: ClassVar[str] = "conversation_id"

    conversation_id: Name = Field(description="Which conversation; also the record's key.")
    turn: int = Field(ge=0, le=_LARGEST_EXACT_INTEGER, description="The message's number in it, from 0.")
    speaker: Speaker = Field(
        strict=False, description="A customer's message is answered, an agent's is only remembered."
    )
    text: str = Field(description="What was said.")
    tenant: Tenant | None = Field(default=None, description="Whose event it is: tenants take turns.")


class ChatReply(Result):
    """The answer to a customer's message. `route` names the provider (or provider/model) that gave it."""

    ce_type: ClassVar[str] = "sluicegate.support-chat.reply.v1"

    conversation_id: str
    turn: int
    reply: str
    model: str
    usage: Usage
    route: str = ""


class Document(Event):
    """One text to be indexed."""

    ce_type: ClassVar[str] = "sluicegate.documents.document.v1"
    id_field: ClassVar[str] = "document_id"

    document_id: Name = Field(description="Which document; also the record's key.")
    title: str = Field(max_length=4096, description="Its title, perhaps empty.")
    media_type: str = Field(
        min_length=1, max_length=256, description="What the text is: text/plain, text/markdown, text/html."
    )
    text: str = Field(description="The whole text.")
    tenant: Tenant | None = Field(default=None, description="Whose event it is: tenants take turns.")


class Chunk(BaseModel):
    """One piece of a document: characters `start` to `end` (exclusive) of its text, and what they say.

    `degraded` marks an answer that was not the JSON asked for: its text became the summary.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    index: int
    start: int
    end: int
    summary: str = Field(repr=False)
    tags: tuple[str, ...] = Field(repr=False, strict=False)
    degraded: bool = False


class DocumentIndex(Result):
    """What a document is about, as a whole and piece by piece. `degraded` when any part of it is.

    `routes` names the providers (or provider/model) that answered, each once.
    """

    ce_type: ClassVar[str] = "sluicegate.documents.index.v1"

    document_id: str
    title: str
    summary: str
    tags: tuple[str, ...] = Field(strict=False)
    chunks: tuple[Chunk, ...] = Field(strict=False)
    degraded: bool
    model: str
    usage: Usage
    routes: tuple[str, ...] = Field(default=(), strict=False)


EventT = TypeVar("EventT", bound=Event)
ResultT = TypeVar("ResultT", bound=Result)


def read_model(model: type[EventT], data: JsonObject) -> EventT:
    """Validate an event's data. BadEventError WRONG_SCHEMA names at most a field of the model."""
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        where = _place(exc, model)
    # Outside the handler: pydantic's error keeps the input.
    raise BadEventError(BadEventReason.WRONG_SCHEMA, where)


def read_result_model(model: type[ResultT], value: bytes) -> ResultT:
    """Validate a result as `write_model` wrote it. BadEventError as from `read_model`."""
    try:
        return model.model_validate_json(value)
    except ValidationError as exc:
        where = _place(exc, model)
    raise BadEventError(BadEventReason.WRONG_SCHEMA, where)


def write_model(result: Result) -> bytes:
    """Return the result as the JSON value of its record."""
    return result.model_dump_json().encode("utf-8")


def _place(error: ValidationError, model: type[BaseModel]) -> str:
    """Name the first field at fault. Deeper parts of a place may be the event's own keys."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    place = str(next(iter(faults[0]["loc"]), "")) if faults else ""
    return place if place in model.model_fields else ""
