"""Commands of Sluicegate as child processes, whose output goes into files."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.errors import StackError

_TAIL_LINES = 12
_LAST_WORDS_S = 5.0


class CommandProcess:
    """One `sluicegate …` process. It keeps this process's environment, less its SLUICEGATE settings."""

    def __init__(self, name: str, arguments: Sequence[str], *, folder: Path) -> None:
        """`folder` takes its log; `name` is its name there and in messages."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, reads_stdout: bool = False) -> None:
        """Start it; with `reads_stdout` its standard output can be read with `first_line`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sluicegate", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads_stdout else log,
                stderr=log,
                env=_environment(os.environ),
                # Ctrl-C is for the parent, which then stops its children in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id. Raises StackError when it was not started."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._started().poll()

    def first_line(self, timeout_s: float) -> Mapping[str, Any]:
        """Return the JSON object that it prints first. Raises StackError when none comes in time."""
        stdout = self._started().stdout
        lines: queue.Queue[bytes] = queue.Queue()

        def read() -> None:
            if stdout is not None:
                lines.put(stdout.readline())

        threading.Thread(target=read, name=f"{self.name}-stdout", daemon=True).start()
        try:
            found = json.loads(lines.get(timeout=timeout_s))
        except (queue.Empty, ValueError) as exc:
            raise StackError(f"{self.name} did not start:\n{self.tail()}") from exc
        if not isinstance(found, dict):
            raise StackError(f"{self.name} said something unexpected when it started")
        return found

    def kill(self) -> None:
        """End it as a crash would."""
        process = self._started()
        process.kill()
        process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it still runs."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def wait(self, timeout_s: float) -> int:
        """Return the exit code; kill it when it does not end in time."""
        process = self._started()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        if process.poll() is None:
            self.kill()
        if process.stdout is not None:
            process.stdout.close()
        return process.wait(_LAST_WORDS_S)

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process


def stop_all(processes: Sequence[CommandProcess], *, timeout_s: float) -> dict[str, int]:
    """Send SIGTERM to all at once and return their exit codes by name; kill what does not end in time."""
    for process in processes:
        process.ask_to_stop()
    return {process.name: process.wait(timeout_s) for process in processes}


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    # A child has a configuration file of its own: settings meant for this process must not leak in.
    return {name: value for name, value in environ.items() if not name.startswith("SLUICEGATE_")}
