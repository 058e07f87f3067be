"""Writes settings as TOML and as environment variables: flat tables of plain values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

Value = str | int | float | bool | Sequence[float] | Sequence[str]
Tables = Mapping[str, Mapping[str, Value]]


def write_toml(tables: Tables) -> str:
    """Return the tables as TOML; a table's name may be dotted, its last part is quoted where it must be."""
    lines: list[str] = []
    for name, table in tables.items():
        # JSON's strings, numbers, booleans and flat arrays are TOML's too.
        values = (f"{key} = {json.dumps(value)}" for key, value in table.items())
        lines += [f"[{_table_name(name)}]", *values, ""]
    return "\n".join(lines)


def write_environment(tables: Tables) -> Sequence[str]:
    """Return the same settings as `NAME=value` lines for the environment."""
    return [
        f"SLUICEGATE_{_variable(name)}__{key.upper()}={_text(value)}"
        for name, table in tables.items()
        for key, value in table.items()
    ]


def _text(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table_name(name: str) -> str:
    section, dot, rest = name.partition(".")
    return f"{section}{dot}{rest if re.fullmatch(r'[A-Za-z0-9_-]*', rest) else json.dumps(rest)}"


def _variable(name: str) -> str:
    section, dot, rest = name.partition(".")
    return section.upper() + ("__" if dot else "") + re.sub(r"[^A-Za-z0-9]", "_", rest).upper()
