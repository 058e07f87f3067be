"""Reads the settings: shipped defaults, then the file, then the environment; the later one wins.

A file is TOML. In the environment `SLUICEGATE_KAFKA__GROUP` is `[kafka] group`; names without `__`
are not settings. No error ever holds a value: it may be a credential.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sluicegate.errors import ConfigurationError
from sluicegate.settings.checks import check_agreement
from sluicegate.settings.environment import Overlay
from sluicegate.settings.explain import explain
from sluicegate.settings.model import Settings

_DEFAULT_PROVIDER = "main"
_SHIPPED_STREAMS: dict[str, dict[str, Any]] = {
    "support-chat": {
        "agent": "streams.support_chat:reply",
        "provider": _DEFAULT_PROVIDER,
        "model": "gpt-4o-mini",
        "lane": "interactive",
        "ordered": True,
    },
    "documents": {
        "agent": "streams.documents:index",
        "provider": _DEFAULT_PROVIDER,
        "model": "gpt-4o-mini",
        "lane": "bulk",
    },
}


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the checked settings; `path` None means no file.

    Raises ConfigurationError that names every wrong key, the nearest right one and, for the
    environment, the variable; never a value.
    """
    raw = _with_shipped_streams(_read(path) if path is not None else {})
    overlay = Overlay(environ)
    overlay.apply(raw)
    _add_default_provider(raw)
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as exc:
        # `from None`: pydantic's own error would stand in the traceback beside ours.
        raise ConfigurationError(explain(exc, raw, overlay.variables)) from None
    settings = settings.with_environment_paths(frozenset(".".join(path) for path in overlay.variables))
    check_agreement(settings)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}; check --config") from exc
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{path} is not valid TOML: {exc}") from None


def _with_shipped_streams(raw: dict[str, Any]) -> dict[str, Any]:
    """Put both shipped streams under what the file says of them, key by key."""
    given = raw.get("streams", {})
    if not isinstance(given, dict):
        return raw
    streams: dict[str, Any] = {name: dict(section) for name, section in _SHIPPED_STREAMS.items()}
    for name, section in given.items():
        if isinstance(section, dict) and name in streams:
            streams[name].update(section)
        else:
            streams[name] = section
    return {**raw, "streams": streams}


def _add_default_provider(raw: dict[str, Any]) -> None:
    """Give the shipped provider its address, where it is mentioned or some stream calls it."""
    providers = raw.setdefault("providers", {})
    streams = raw.get("streams", {})
    if not isinstance(providers, dict) or not isinstance(streams, dict):
        return
    called = {
        called
        for section in streams.values()
        if isinstance(section, dict)
        for called in _called_providers(section)
    }
    if _DEFAULT_PROVIDER in called or _DEFAULT_PROVIDER in providers:
        section = providers.setdefault(_DEFAULT_PROVIDER, {})
        if isinstance(section, dict):
            section.setdefault("base_url", "http://127.0.0.1:8089/v1")


def _called_providers(stream: Mapping[str, Any]) -> Iterator[str]:
    fallback = stream.get("fallback")
    for text in (stream.get("provider"), *(fallback if isinstance(fallback, list) else ())):
        if isinstance(text, str):
            yield text.partition("/")[0]
