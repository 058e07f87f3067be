"""The run's own processes: workers and the relay, exactly as in production."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

from sluicegate.cli.demo.plan import STREAMS, Addresses, DemoNames, DemoOptions, write_settings
from sluicegate.errors import StackError
from sluicegate.local.processes import CommandProcess, stop_all
from sluicegate.local.redis_server import free_port

_READY_TIMEOUT_S = 60.0
_READY_POLL_S = 0.1
_ASK_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 30.0


class Crew:
    """Starts, watches, kills and stops workers and the relay."""

    def __init__(self, options: DemoOptions, names: DemoNames, addresses: Addresses, folder: Path) -> None:
        self._options = options
        self._names = names
        self._addresses = addresses
        self._folder = folder
        self._members: dict[CommandProcess, int] = {}
        self._hired = 0

    def start_all(self) -> None:
        """Start `--workers` workers of each stream and a relay, and return when all are ready."""
        for stream in STREAMS:
            for _ in range(self._options.workers):
                self._start_worker(stream)
        self._start("relay", ("relay",))
        self._wait_until_ready()

    def kill_worker(self, stream: str) -> tuple[int, int]:
        """SIGKILL a worker of the stream and start another; return both process ids."""
        victim = next(member for member in self._members if member.name.startswith(f"worker-{stream}"))
        killed = victim.pid
        del self._members[victim]
        victim.kill()
        return killed, self._start_worker(stream).pid

    def check(self) -> None:
        """Raise StackError when one of them has ended by itself."""
        for member in self._members:
            if (code := member.exit_code) is not None:
                raise StackError(f"{member.name} ended by itself with code {code}:\n{member.tail()}")

    def running(self) -> dict[str, int]:
        """Return how many events each stream's workers say they are at; a silent stream is left out."""
        counts: dict[str, int] = {}
        with httpx.Client(timeout=_ASK_TIMEOUT_S, trust_env=False) as client:
            for port in self._members.values():
                for stream, count in running_in(_metrics(client, port)).items():
                    counts[stream] = counts.get(stream, 0) + count
        return counts

    def stop_all(self) -> dict[str, int]:
        """Send SIGTERM to all and return the exit codes that are not 0."""
        codes = stop_all(tuple(self._members), timeout_s=_STOP_TIMEOUT_S)
        self._members.clear()
        return {name: code for name, code in codes.items() if code != 0}

    def _start_worker(self, stream: str) -> CommandProcess:
        self._hired += 1
        options = ("--embedded-broker",) if self._options.is_embedded else ()
        return self._start(f"worker-{stream}-{self._hired}", ("worker", stream, *options))

    def _start(self, name: str, arguments: tuple[str, ...]) -> CommandProcess:
        port = free_port()
        config = self._folder / f"{name}.toml"
        write_settings(config, self._options, self._names, self._addresses, http_port=port)
        member = CommandProcess(name, (*arguments, "--config", str(config)), folder=self._folder)
        member.start()
        self._members[member] = port
        return member

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        waiting = dict(self._members)
        with httpx.Client(timeout=_ASK_TIMEOUT_S, trust_env=False) as client:
            while waiting:
                self.check()
                waiting = {member: port for member, port in waiting.items() if not _answers(client, port)}
                if waiting and time.monotonic() > deadline:
                    member = next(iter(waiting))
                    raise StackError(
                        f"{member.name} is not ready after {_READY_TIMEOUT_S:g} s:\n{member.tail()}"
                    )
                if waiting:
                    time.sleep(_READY_POLL_S)


def running_in(metrics: str) -> dict[str, int]:
    """Read the events at work, by stream, out of a process's metrics."""
    found = re.finditer(r'^sluicegate_events_running\{stream="([^"]*)"\} ([0-9.e+]+)$', metrics, re.MULTILINE)
    return {match[1]: int(float(match[2])) for match in found}


def _metrics(client: httpx.Client, port: int) -> str:
    try:
        return client.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.HTTPError:
        return ""


def _answers(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
