"""docs/settings.md, written from the models of the settings.

A section's docstring begins with its heading and a colon and is its introduction; a field's description is
its meaning. `docs/PAGE.md` in either becomes a link, and what a description ends with after `; by default`
stands as the default. Units follow from names.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sluicegate.settings.model import Settings

_HEAD = """# Settings

Generated from the models by `python -m sluicegate.settings.catalogue > docs/settings.md`; a test keeps it so.

""" + (
    "Every section and key of the TOML file, and the environment variable that overrides it. How files and "
    "variables are found and read is in [operations](operations.md#configuration). In a variable NAME is the "
    "section's name with everything but letters and digits written `_`: `[streams.support-chat]` is "
    "`SUPPORT_CHAT`. A list is written there as in TOML.\n\n"
    "A key without a unit is a count, a part or a text, as its type says. *required*: there is no default. "
    "*none*: nothing is set.\n"
)
_TABLE = "\n| key | type | unit | default | meaning | environment variable |\n|---|---|---|---|---|---|\n"
_UNITS = (  # the first that a key's name matches
    (re.compile(r"requests_per_(minute|day)$"), r"calls per \1"),
    (re.compile(r"(?:input_|output_)?(tokens|dollars)_per_(minute|day)$"), r"\1 per \2"),
    (re.compile(r"\w+_dollars_per_million$"), "dollars per million tokens"),
    (re.compile(r"\w+_(bytes|tokens)$"), r"\1"),
    (re.compile(r"\w+_s$"), "seconds"),
)
_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("exclusiveMaximum", "below {}"),
    ("maximum", "at most {}"),
)
_DEFAULT = re.compile(r"^(?P<meaning>.*); by default (?P<default>.+)$", re.DOTALL)
_PAGE = re.compile(r"docs/([a-z-]+)\.md(#[\w-]+)?")
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}


def markdown() -> str:
    """Return the page."""
    return _HEAD + "".join(_section(name) for name in Settings.model_fields)


def _section_model(section: str) -> tuple[type[BaseModel], bool]:
    """Return the model of `[section]`, and whether it is `[section.NAME]`."""
    annotation = Settings.model_fields[section].annotation
    named = get_origin(annotation) is dict
    model = get_args(annotation)[1] if named else annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model, named


def unit(key: str) -> str:
    """Return the unit that a key's name says, empty where it is a count, a part or a text."""
    for pattern, text in _UNITS:
        if found := pattern.match(key):
            return found.expand(text)
    return ""


def _section(section: str) -> str:
    model, named = _section_model(section)
    heading, _, introduction = inspect.cleandoc(model.__doc__ or "").partition(": ")
    variable = f"SLUICEGATE_{section.upper()}__{'NAME__' if named else ''}"
    properties = model.model_json_schema()["properties"]
    rows = []
    for key, field in _own_first(model):
        kind = _type(properties[key], field)
        meaning, default = _meaning_and_default(field)
        cells = (f"`{key}`", kind, unit(key), default, _linked(meaning), f"`{variable}{key.upper()}`")
        rows.append(f"| {' | '.join(cells)} |\n")
    text = _linked("\n\n".join(" ".join(part.split()) for part in introduction.split("\n\n")))
    return f"\n## {heading}\n\n{text[:1].upper()}{text[1:]}\n{_TABLE}{''.join(rows)}"


def _own_first(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield a section's fields, those that several sections have in common last."""
    own = vars(model)["__annotations__"]
    yield from sorted(model.model_fields.items(), key=lambda item: item[0] not in own)


def _meaning_and_default(field: FieldInfo) -> tuple[str, str]:
    description = field.description or ""
    if told := _DEFAULT.match(description):
        return told["meaning"], told["default"]
    if field.is_required():
        return description, "required"
    return description, "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return f'"{_choice(value)}"'
        case str():
            return f'"{value}"'
        case float() if value.is_integer():
            return str(int(value))
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return str(value)


def _choice(member: Enum) -> str:
    """Return how a choice is written: its value where that is a text, else its name."""
    return member.value if isinstance(member.value, str) else member.name.lower()


def _type(schema: dict[str, Any], field: FieldInfo) -> str:
    """Say what a value is and its bounds, from the JSON Schema that pydantic makes of the field."""
    if isinstance(field.default, Enum):
        return ", ".join(f"`{_choice(member)}`" for member in type(field.default))
    schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    if schema["type"] == "array":
        return f"list, each: {_type(schema['items'], field)}"
    text = "file" if schema.get("format") == "path" else _TYPES[schema["type"]]
    bounds = [form.format(_toml(schema[key])) for key, form in _BOUNDS if key in schema]
    return f"{text}, {' and '.join(bounds)}" if bounds else text


def _linked(text: str) -> str:
    return _PAGE.sub(lambda found: f"[{found[1]}]({found[1]}.md{found[2] or ''})", text)


if __name__ == "__main__":
    sys.stdout.write(markdown())
