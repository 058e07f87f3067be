"""The virtual environment of the peers: none of them becomes a dependency of this project."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / ".bench-venv"
# throttled-py wants redis < 8. litellm is only read, so its dependencies are left out and its version pinned.
_PACKAGES = ("limits", "pyrate-limiter", "throttled-py", "redis<8")
_READ_ONLY = ("litellm==1.80.5",)
_TIMEOUT_S = 600.0


class NotInstalledError(Exception):
    """Raised when the peers cannot be installed here."""


def prepare() -> Path:
    """Return the Python of the peers' environment, made and filled if it is not there yet.

    Raises NotInstalledError when a package cannot be had; the next run tries again.
    """
    python = _FOLDER / "bin" / "python"
    done = _FOLDER / "complete"
    wanted = "\n".join((*_PACKAGES, *_READ_ONLY))
    if done.exists() and done.read_text() == wanted:
        return python
    print("making the peers' environment in .bench-venv ...", file=sys.stderr, flush=True)
    venv.create(_FOLDER, with_pip=True, clear=True)
    _pip(python, *_PACKAGES)
    _pip(python, "--no-deps", *_READ_ONLY)
    done.write_text(wanted)
    return python


def versions(python: Path) -> str:
    """Return the installed versions of the peers, for the table's foot."""
    script = (
        "from importlib.metadata import version\n"
        "print(', '.join(f'{n} {version(n)}' for n in "
        "('limits', 'pyrate-limiter', 'throttled-py', 'litellm', 'redis')))"
    )
    return subprocess.run(
        [python, "-c", script], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
    ).stdout.strip()


def _pip(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments],
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise NotInstalledError(f"not installed: pip could not get {', '.join(arguments)}")
