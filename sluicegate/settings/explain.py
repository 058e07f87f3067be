"""Turns a failed validation into sentences that name the key and the way out, and quote no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sluicegate.settings.model import Settings, section_fields
from sluicegate.settings.nearest import hint

Path = tuple[str, ...]


def explain(error: ValidationError, raw: Mapping[str, Any], variables: Mapping[Path, str]) -> str:
    """Return one line per wrong key; `variables` says which keys the environment set."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return "\n".join(_line(detail, raw, variables) for detail in details)


def _line(detail: ErrorDetails, raw: Mapping[str, Any], variables: Mapping[Path, str]) -> str:
    path = tuple(str(part) for part in detail["loc"])
    source = _source(path, variables)
    return f"{_dotted(path)}{source}: {_fault(detail, path, raw)}"


def _fault(detail: ErrorDetails, path: Path, raw: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return f"there is no such setting{hint(path[-1], _known_keys(path))}"
        case "missing":
            return f"is missing{_misspelt_section(path, raw)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a table, written as [{_dotted(path)}]"
        case _:
            text = detail["msg"].removeprefix("Value error, ")
            return text.replace("Input should be", "must be")


def _source(path: Path, variables: Mapping[Path, str]) -> str:
    for length in range(len(path), 1, -1):
        if variable := variables.get(path[:length]):
            return f" (from {variable})"
    inside = sorted(name for key, name in variables.items() if key[: len(path) - 1] == path[:-1])
    return f" (section from {inside[0]})" if inside and len(path) > 2 else ""


def _known_keys(path: Path) -> list[str]:
    return list(Settings.model_fields) if len(path) == 1 else list(section_fields(path[0]))


def _misspelt_section(path: Path, raw: Mapping[str, Any]) -> str:
    """A section that lacks what it needs is often a misspelt name of another."""
    others = raw.get(path[0])
    if len(path) != 3 or not isinstance(others, dict):
        return ""
    text = hint(path[1], [name for name in others if name != path[1]])
    return f"{text} (section names)" if "did you mean" in text else ""


def _dotted(path: Path) -> str:
    return ".".join(
        part if part.replace("-", "").replace("_", "").isalnum() else f'"{part}"' for part in path
    )
