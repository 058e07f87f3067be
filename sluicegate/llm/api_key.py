"""An API key from a file, read anew when the file changes, so that it is rotated without a restart."""

from __future__ import annotations

import os
from pathlib import Path

from sluicegate.errors import ConfigurationError

_Stamp = tuple[int, int, int]


class ApiKeyFile:
    """Gives the file's key at every call; its repr and its errors name the file, never what is in it.

    While a rotation is under way (the file is gone, empty or unreadable for a moment) the last key is kept.
    Raises ConfigurationError when it is made and there is no key yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stamp = _stamp(path)
            self._key = _read(path)
        except OSError as exc:
            raise ConfigurationError(f"api_key_file {path} cannot be read: {exc.strerror}") from exc
        except ValueError as exc:
            raise ConfigurationError(f"api_key_file {path}: {exc}") from None

    def __call__(self) -> str | None:
        """Return the key as it is in the file now. (One `stat` of a local file: no need for a thread.)"""
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._key = _read(self._path)
                self._stamp = stamp
        except (OSError, ValueError):
            return self._key
        return self._key

    def __repr__(self) -> str:
        return f"ApiKeyFile({str(self._path)!r})"


def _stamp(path: Path) -> _Stamp:
    # The inode too: a mounted secret is exchanged by moving a link, which may keep size and time.
    status = os.stat(path)  # noqa: PTH116 - Path.stat costs three times as much, at every call
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> str:
    key = path.read_bytes().strip()
    if not key:
        raise ValueError("the file is empty")
    if not all(0x21 <= byte <= 0x7E for byte in key):
        raise ValueError("a key is one line of printable ASCII")
    return key.decode("ascii")
