"""Secrets that lie in files: read at the moment of their use and never shown."""

from __future__ import annotations

from pathlib import Path

from sluicegate.errors import ConfigurationError


def read_secret(path: Path, *, setting: str) -> str:
    """Return the file's text without the line end that editors leave.

    Raises ConfigurationError when there is none. It names the setting alone, not the file: a password that
    was written where its file's name belongs must not show.
    """
    try:
        text = path.read_bytes().decode("utf-8").rstrip("\r\n")
    except OSError as exc:
        # `from None`, here and below: the system's error holds the name, the decoder's the bytes.
        raise ConfigurationError(f"{setting}: the file cannot be read: {exc.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"{setting}: the file holds no UTF-8 text") from None
    if not text:
        raise ConfigurationError(f"{setting}: the file is empty")
    return text
