"""The peers of the worker as processes: each is killed when its `with` block ends, and its log is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Peer:
    """One `python -m benchmarks.MODULE …` for as long as the `with` block."""

    def __init__(self, module: str, arguments: Sequence[str], *, folder: Path) -> None:
        """`folder` takes its log."""
        self._command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        self._log = folder / f"{module}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._started().poll()

    def wait(self, timeout_s: float) -> int:
        """Return its exit code. Raises TimeoutExpired when it does not end in time."""
        return self._started().wait(timeout_s)

    def tail(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._started()
        process.kill()
        process.wait()
        if error is not None:
            error.add_note(f"{' '.join(self._command[1:3])}:\n{self.tail()}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("a peer runs only inside its `with` block")
        return self._process
