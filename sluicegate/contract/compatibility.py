"""Whether a schema may take another's place while publishers and readers still hold the old one.

Of events we are the reader: everything that the old schema allows the new one must allow. Of results we
are the writer: everything that the new one allows the old one must allow. In both a field that is gone is
gone for somebody, and a keyword that this check does not know may not change.

Schemas are open, so a field that only one of them knows is no difference but for `required`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, assert_never

from sluicegate.contract.schemas import JsonSchema

_PROSE: Final = frozenset({"$schema", "$id", "$defs", "title", "description", "default", "examples"})
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT: Final = ("pattern", "format", "multipleOf", "uniqueItems")
_JUDGED: Final = _PROSE.union(
    _LOWER,
    _UPPER,
    _EXACT,
    ("$ref", "anyOf", "type", "enum", "const", "required", "properties", "items", "additionalProperties"),
)
_WHOLE: Final = "the whole"


class Direction(StrEnum):
    """Who reads what a schema describes."""

    EVENTS = "events"
    RESULTS = "results"


def breaking_changes(old: JsonSchema, new: JsonSchema, direction: Direction) -> tuple[str, ...]:
    """Say what would break, one sentence each, `place: what`; nothing when the change is safe."""
    match direction:
        case Direction.EVENTS:
            narrowed, effect = _Narrowing(wide=old, narrow=new), "what was accepted is refused"
        case Direction.RESULTS:
            narrowed, effect = _Narrowing(wide=new, narrow=old), "readers get what they were not told of"
        case _:
            assert_never(direction)
    kept = set(_fields(new, new, "", ()))
    removed = [f"{place}: removed" for place in _fields(old, old, "", ()) if place not in kept]
    refused = [f"{place or _WHOLE}: {keyword}; {effect}" for place, keyword in narrowed.faults()]
    return tuple(dict.fromkeys(removed + refused))


Fault = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Narrowing:
    """Finds where `narrow` may refuse what `wide` allows: a place and the keyword that does."""

    wide: JsonSchema
    narrow: JsonSchema

    def faults(self) -> list[Fault]:
        return list(self._compare(self.wide, self.narrow, "", ()))

    def _compare(
        self, wide: JsonSchema, narrow: JsonSchema, place: str, seen: tuple[Fault, ...]
    ) -> Iterator[Fault]:
        pair = str(wide.get("$ref")), str(narrow.get("$ref"))
        if "$ref" in wide and pair in seen:
            return  # a model that holds itself: this pair is being compared already
        seen = (*seen, pair)
        wide, narrow = _resolved(wide, self.wide), _resolved(narrow, self.narrow)
        choices = _choices(narrow)
        for choice in _choices(wide):
            found = [list(self._compare_one(choice, each, place, seen)) for each in choices]
            if all(found):
                yield from found[0] if len(found) == 1 else [(place, "anyOf")]

    def _compare_one(
        self, wide: JsonSchema, narrow: JsonSchema, place: str, seen: tuple[Fault, ...]
    ) -> Iterator[Fault]:
        if "$ref" in wide or "$ref" in narrow or "anyOf" in wide or "anyOf" in narrow:
            yield from self._compare(wide, narrow, place, seen)
            return
        yield from ((place, keyword) for keyword in _narrower(wide, narrow))
        yield from self._compare_parts(wide, narrow, place, seen)

    def _compare_parts(
        self, wide: JsonSchema, narrow: JsonSchema, place: str, seen: tuple[Fault, ...]
    ) -> Iterator[Fault]:
        theirs, ours = wide.get("properties", {}), narrow.get("properties", {})
        for name in sorted(theirs.keys() & ours.keys()):
            yield from self._compare(theirs[name], ours[name], _join(place, name), seen)
        if narrow.get("additionalProperties", True) is False:
            unknown = sorted(theirs.keys() - ours.keys())
            yield from ((_join(place, name), "additionalProperties") for name in unknown)
        for name in narrow.get("required", []):
            if name not in wide.get("required", []):
                yield _join(place, name), "required"
        for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
            theirs, ours = wide.get(keyword, True), narrow.get(keyword, True)
            if isinstance(theirs, dict) and isinstance(ours, dict):
                yield from self._compare(theirs, ours, place + mark, seen)
            elif ours is not True and theirs is not False and theirs != ours:
                yield place, keyword


def _narrower(wide: JsonSchema, narrow: JsonSchema) -> Iterator[str]:
    """Name the keywords of one value by which `narrow` refuses more."""
    if "type" in narrow and not _types(wide) <= _types(narrow):
        yield "type"
    if (ours := _values(narrow)) is not None:
        theirs = _values(wide)
        if theirs is None or any(value not in ours for value in theirs):
            yield "enum"
    for keyword in _LOWER:
        if keyword in narrow and (keyword not in wide or narrow[keyword] > wide[keyword]):
            yield keyword
    for keyword in _UPPER:
        if keyword in narrow and (keyword not in wide or narrow[keyword] < wide[keyword]):
            yield keyword
    for keyword in _EXACT:
        if keyword in narrow and narrow[keyword] != wide.get(keyword):
            yield keyword
    for keyword in sorted((wide.keys() | narrow.keys()) - _JUDGED):
        if wide.get(keyword) != narrow.get(keyword):
            yield f"{keyword}, which this check cannot judge"


def _types(schema: JsonSchema) -> set[str]:
    """Return the types allowed. A schema of none allows all: more than any list of names."""
    named = schema.get("type", "anything")
    found = {named} if isinstance(named, str) else set(named)
    return found | {"integer"} if "number" in found else found


def _values(schema: JsonSchema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _choices(schema: JsonSchema) -> list[JsonSchema]:
    """Return what a value may be instead, each with the keywords that stand beside the choice."""
    beside = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    return [{**beside, **choice} for choice in schema.get("anyOf", [{}])]


def _resolved(schema: JsonSchema, document: JsonSchema) -> JsonSchema:
    """Follow references within the document; keywords beside one count, too."""
    while (reference := schema.get("$ref")) is not None:
        target: Any = document
        for part in str(reference).removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{keyword: value for keyword, value in schema.items() if keyword != "$ref"}}
    return schema


def _fields(schema: JsonSchema, document: JsonSchema, place: str, seen: tuple[str, ...]) -> Iterator[str]:
    """Yield the place of every field, those of nested values included."""
    if (reference := schema.get("$ref")) is not None:
        if reference in seen:
            return
        seen = (*seen, reference)
    schema = _resolved(schema, document)
    for name, inner in schema.get("properties", {}).items():
        yield _join(place, name)
        yield from _fields(inner, document, _join(place, name), seen)
    for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(inner := schema.get(keyword), dict):
            yield from _fields(inner, document, place + mark, seen)
    for choice in schema.get("anyOf", []):
        yield from _fields(choice, document, place, seen)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
