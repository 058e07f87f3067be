"""Calls of scripts as Redis reads them (RESP: `*<parts>`, then `$<length>` and bytes for each part).

Packed here and not by redis-py, which asks each argument for its type one by one: a twentieth of a busy
worker's time by its profile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple


def _bulk(part: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(part), part)


INFO_SERVER = b"*2\r\n" + _bulk(b"INFO") + _bulk(b"server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script as a command begins: by the SHA-1 that EVALSHA knows it by, and by its whole text."""

    by_sha: bytes
    by_text: bytes


def load_script(name: str) -> Script:
    """Read `<name>.lua` beside this module. SHA-1 is Redis's choice and guards nothing here."""
    text = resources.files(__package__).joinpath(f"{name}.lua").read_bytes()
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(by_sha=_bulk(b"EVALSHA") + _bulk(sha), by_text=_bulk(b"EVAL") + _bulk(text))


class Call(NamedTuple):
    """One call of a script. The server's run_id goes in front of `args` as ARGV[1]."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]

    def packed(self) -> PackedCall:
        """Return the call as bytes. Raises UnicodeEncodeError for text that has none."""
        keys, args = self.keys, self.args
        return PackedCall(
            script=self.script,
            begin=b"*%d\r\n" % (4 + len(keys) + len(args)),
            keys=_bulk(b"%d" % len(keys)) + _bulks(keys),
            args=_bulks(args),
        )


class PackedCall(NamedTuple):
    """A call that lacks only the run_id of the server it goes to."""

    script: Script
    begin: bytes
    keys: bytes
    args: bytes

    def command(self, run_id: bytes, *, by_text: bool) -> bytes:
        """Return the command: EVALSHA, or EVAL with the whole text."""
        how = self.script.by_text if by_text else self.script.by_sha
        return b"".join((self.begin, how, self.keys, _bulk(run_id), self.args))


def _bulks(parts: Iterable[str | bytes | int]) -> bytes:
    packed: list[bytes] = []
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
        else:
            content = part if isinstance(part, bytes) else b"%d" % part
        packed.append(b"$%d\r\n%b\r\n" % (len(content), content))
    return b"".join(packed)
