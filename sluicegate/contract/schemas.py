"""JSON Schemas (2020-12) of what a stream takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from pydantic_core import core_schema

from sluicegate.events.models import Event, Result
from sluicegate.topics import StreamTopics

JsonSchema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# What a reader must cope with: a field with a default may be missing in what was published earlier.
_MODE: Final[JsonSchemaMode] = "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamContract:
    """What other services need to know of one stream. `result` None: it publishes none, ever."""

    name: str
    topics: StreamTopics
    event: type[Event]
    result: type[Result] | None
    max_event_bytes: int

    @property
    def models(self) -> tuple[type[Event | Result], ...]:
        """The models of its events and results."""
        return (self.event,) if self.result is None else (self.event, self.result)


def schema_id(model: type[Event | Result]) -> str:
    """Name a model's schema by its `ce_type`: another type is another contract."""
    return f"urn:sluicegate:schema:{model.ce_type}"


def schema_of(model: type[Event | Result]) -> JsonSchema:
    """Return a schema that stands alone."""
    schema = model.model_json_schema(schema_generator=_Plain, mode=_MODE)
    return {"$schema": _DIALECT, "$id": schema_id(model), **schema}


def shared_schemas(models: Sequence[type[Event | Result]], ref_template: str) -> tuple[list[str], JsonSchema]:
    """Return the models' schemas side by side: each model's name among them, and all by name.

    `ref_template` says how they refer to each other. Models of one name get longer ones.
    """
    unique = list(dict.fromkeys(models))
    references, whole = models_json_schema(
        [(model, _MODE) for model in unique], schema_generator=_Plain, ref_template=ref_template
    )
    prefix = ref_template.removesuffix("{model}")
    names = {model: references[model, _MODE]["$ref"].removeprefix(prefix) for model in unique}
    return [names[model] for model in models], whole["$defs"]


class _Plain(GenerateJsonSchema):
    """Leaves out titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchema:
        made = super().default_schema(schema)
        # `null` as a default says nothing that "not required" does not.
        if made.get("default", ...) is None:
            del made["default"]
        return made
