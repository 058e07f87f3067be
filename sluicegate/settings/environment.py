"""Lays environment variables over the settings of a file.

`SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_RUNNING=50` is `[streams.support-chat] max_running = 50`: parts
are split at `__`, and a section's name is matched with everything but letters and digits as `_`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from types import UnionType
from typing import Any, get_args

from sluicegate.errors import ConfigurationError
from sluicegate.limiter.api import Lane
from sluicegate.settings.model import Settings, section_fields
from sluicegate.settings.nearest import hint
from sluicegate.settings.routes import read_fallback

_PREFIX = "SLUICEGATE_"
_NAMED = ("providers", "streams", "limits", "prices")  # in the order in which their names build on another
Path = tuple[str, ...]


class Overlay:
    """The variables that are settings, and after `apply` which one set which key."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._given = {
            name: value
            for name, value in sorted(environ.items())
            if name.startswith(_PREFIX) and "__" in name.removeprefix(_PREFIX)
        }
        self.variables: dict[Path, str] = {}

    def apply(self, raw: dict[str, Any]) -> None:
        """Change `raw` in place. Raises ConfigurationError for a variable that names no key."""

        def rank(variable: str) -> int:
            section = _parts(variable)[0]
            return _NAMED.index(section) if section in _NAMED else len(_NAMED)

        for variable in sorted(self._given, key=rank):
            self._apply_one(raw, variable, self._given[variable])

    def _apply_one(self, raw: dict[str, Any], variable: str, text: str) -> None:
        section, *rest = _parts(variable)
        if section not in Settings.model_fields:
            raise ConfigurationError(
                f"{variable}: there is no such section{hint(section, Settings.model_fields)}"
            )
        if len(rest) != (2 if section in _NAMED else 1) or not all(rest):
            shape = "SECTION__NAME__KEY" if section in _NAMED else "SECTION__KEY"
            raise ConfigurationError(f"{variable}: write it as {_PREFIX}{shape}")
        path: Path = (section, *rest)
        if section in _NAMED:
            path = (section, _section_name(raw, section, rest[0], variable), rest[1])
        target: Any = raw
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigurationError(f"{variable}: the file has a value where a table belongs")
        target[path[-1]] = _value(text, is_text=path[-1] in _text_keys(section))
        self.variables[path] = variable


def _parts(variable: str) -> list[str]:
    return variable.removeprefix(_PREFIX).lower().split("__")


def _section_name(raw: dict[str, Any], section: str, part: str, variable: str) -> str:
    """Find the section that the variable means; a new one is spelt with dashes."""
    matches = {name for name in _candidates(raw, section) if _folded(name) == part}
    if len(matches) > 1:
        raise ConfigurationError(
            f"{variable}: means more than one of {', '.join(sorted(matches))}; use the file"
        )
    return matches.pop() if matches else part.replace("_", "-")


def _candidates(raw: dict[str, Any], section: str) -> Iterable[str]:
    def names(of: str) -> set[str]:
        found = raw.get(of)
        return {name for name in found if isinstance(name, str)} if isinstance(found, dict) else set()

    if section in ("providers", "streams"):
        return names(section)
    streams = raw.get("streams")
    models = {
        model
        for stream in (streams.values() if isinstance(streams, dict) else ())
        if isinstance(stream, dict)
        for model in _called_models(stream)
    }
    return names(section) | names("providers") | models


def _called_models(stream: Mapping[str, Any]) -> Iterator[str]:
    """Name each PROVIDER/MODEL that the stream calls, its fallbacks included."""
    own_model = str(stream.get("model"))
    yield f"{stream.get('provider')}/{own_model}"
    fallback = stream.get("fallback")
    for text in fallback if isinstance(fallback, list) else ():
        yield "/".join(read_fallback(str(text), own_model))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _text_keys(section: str) -> frozenset[str]:
    """Keys whose value is text: `2024` stays text there, while `max_running` makes a number of it."""
    return frozenset(
        key
        for key, field in section_fields(section).items()
        if any(
            isinstance(kind, type) and issubclass(kind, (str, FilePath, Lane))
            for kind in _kinds(field.annotation)
        )
    )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type; what an array holds is not what it is."""
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _value(text: str, *, is_text: bool) -> Any:
    """Read a TOML value; what is none, or belongs into a text key, is taken as it stands."""
    try:
        value = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    if len(value) != 1 or (is_text and not isinstance(value["value"], str)):
        return text
    return value["value"]
