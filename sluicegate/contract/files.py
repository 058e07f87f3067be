"""The contract as files: which there are, what they hold, and how those that are there differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import orjson

from sluicegate.contract.asyncapi import asyncapi_document
from sluicegate.contract.compatibility import Direction, breaking_changes
from sluicegate.contract.schemas import JsonSchema, StreamContract, schema_of
from sluicegate.errors import ConfigurationError

_ASYNCAPI: Final = "asyncapi.json"
_EVENT: Final = ".event.json"
_RESULT: Final = ".result.json"
_LAYOUT: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE

Files = Mapping[str, bytes]


def contract_files(streams: Sequence[StreamContract]) -> Files:
    """Return every file of the contract by its name."""
    schemas: dict[str, JsonSchema] = {}
    for stream in streams:
        schemas[f"{stream.name}{_EVENT}"] = schema_of(stream.event)
        if stream.result is not None:
            schemas[f"{stream.name}{_RESULT}"] = schema_of(stream.result)
    documents = {**dict(sorted(schemas.items())), _ASYNCAPI: asyncapi_document(streams)}
    return {name: orjson.dumps(document, option=_LAYOUT) for name, document in documents.items()}


def is_contract_file(name: str) -> bool:
    """Return whether a file of this name belongs to a contract."""
    return name == _ASYNCAPI or name.endswith((_EVENT, _RESULT))


def drift(there: Files, wanted: Files) -> tuple[str, ...]:
    """Say which files are missing, different or left over, one each."""
    missing = [f"{name}: missing" for name in wanted if name not in there]
    different = [f"{name}: differs" for name in wanted if there.get(name, wanted[name]) != wanted[name]]
    left_over = [f"{name}: no stream has it any more" for name in there if name not in wanted]
    return (*missing, *different, *left_over)


def breaking(there: Files, wanted: Files) -> tuple[str, ...]:
    """Say what would break for who holds the files that are there. Another `ce_type` breaks nothing.

    Raises ConfigurationError for a file that holds no schema.
    """
    found: list[str] = []
    for name in sorted(there.keys() & wanted.keys() - {_ASYNCAPI}):
        old, new = _schema(name, there[name]), _schema(name, wanted[name])
        if old.get("$id") == new["$id"]:
            direction = Direction.EVENTS if name.endswith(_EVENT) else Direction.RESULTS
            found += [f"{name}: {change}" for change in breaking_changes(old, new, direction)]
    return tuple(found)


def _schema(name: str, text: bytes) -> JsonSchema:
    with suppress(orjson.JSONDecodeError):
        if isinstance(found := orjson.loads(text), dict):
            return found
    raise ConfigurationError(f"{name} is no JSON Schema: restore it, or delete it to have it written anew")
