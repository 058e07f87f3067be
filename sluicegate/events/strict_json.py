"""Reads JSON that anybody may have written: bounded in depth, strict in encoding, silent about content."""

from __future__ import annotations

from typing import Any

import orjson

from sluicegate.errors import BadEventError, BadEventReason

JsonObject = dict[str, Any]


def read_json(value: bytes) -> Any:
    """Parse UTF-8 JSON; nesting above 1,024 levels, NaN and lone surrogates are refused.

    Of a key given twice the last value counts; an integer beyond 64 bits becomes a float, which no
    strict integer field takes. Raises BadEventError NOT_UTF8 or NOT_JSON. The parser's own error
    keeps the document: it is neither the cause nor the context of ours.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        pass
    raise BadEventError(BadEventReason.NOT_JSON if _is_utf8(value) else BadEventReason.NOT_UTF8)


def read_object(value: bytes) -> JsonObject:
    """Parse JSON that must be an object; else BadEventError WRONG_SCHEMA."""
    parsed = read_json(value)
    if not isinstance(parsed, dict):
        raise BadEventError(BadEventReason.WRONG_SCHEMA)
    return parsed


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
