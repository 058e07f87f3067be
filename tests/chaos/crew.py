"""The processes of a run, and who starts them again when they end: what Kubernetes is in production."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from tests.chaos.history import Disruption, Exit, Harm
from tests.integration.deployment import Deployment, Process
from tests.waiting import wait_until_sync

_WATCHED_EVERY_S = 0.2
_LOOKED_AT_EVERY_S = 3.0
_READY_TIMEOUT_S = 25.0
_ANSWER_TIMEOUT_S = 2.0
_PORT = re.compile(r'"port": ?(\d+)')


class Harms:
    """What was done to the run and when, for the checker's excuses."""

    def __init__(self) -> None:
        self._done: list[Disruption] = []

    @property
    def all(self) -> tuple[Disruption, ...]:
        """Everything so far."""
        return tuple(self._done)

    @contextmanager
    def of(self, harm: Harm) -> Iterator[None]:
        """Record harm for as long as the block lasts."""
        start_s = time.time()
        try:
            yield
        finally:
            self._done.append(Disruption(harm=harm, start_s=start_s, end_s=time.time()))


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One member of the crew: a stream's worker or, without a stream, a relay."""

    name: str
    stream: str | None
    process: Process
    is_wanted: bool = True
    is_stopped: bool = False


@dataclass(slots=True)
class Crew:
    """Starts, kills, stops and replaces processes; what ends by itself is noted and started again."""

    deployment: Deployment
    harms: Harms
    exits: list[Exit] = field(default_factory=list)
    deaths_by_liveness: list[str] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def names(self, *, relays: bool = False) -> list[str]:
        """Return the members of one sort, in a fixed order."""
        return sorted(
            slot.name for slot in self._slots.values() if slot.is_wanted and (slot.stream is None) == relays
        )

    def start(self, name: str, stream: str | None, environment: Mapping[str, str] | None = None) -> None:
        """Start a member; an old process of that name is left to itself."""
        with self._lock:
            self._slots[name] = _Slot(
                name=name, stream=stream, process=self._launch(stream, environment or {})
            )

    def _launch(self, stream: str | None, environment: Mapping[str, str]) -> Process:
        if stream is None:
            return self.deployment.start_relay()
        return self.deployment.start_worker(stream, environment=environment)

    def kill(self, name: str) -> None:
        """SIGKILL a member, and have it started again as a cluster would: at once."""
        with self._lock, self.harms.of(Harm.CRASH):
            slot = self._slots[name]
            slot.process.kill()
            self.start(name, slot.stream)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Stop a member without its knowledge; on leaving it goes on where it was."""
        slot = self._slots[name]
        with self.harms.of(Harm.CRASH):
            slot.is_stopped = True
            slot.process.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            slot.process.process.send_signal(signal.SIGCONT)
            slot.is_stopped = False

    def replace(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a successor, wait until it is ready, then let the old one go: one step of a roll-out."""
        with self._lock:
            old = self._slots[name]
            self.start(name, old.stream, environment)
        self.wait_ready(name)
        self._terminate(old)

    def dismiss(self, name: str) -> None:
        """SIGTERM a member that is not to come back, and wait for it."""
        with self._lock:
            slot = self._slots.pop(name)
        self._terminate(slot)

    def restart(self, name: str) -> None:
        """SIGTERM a member, and start it again once it has ended."""
        slot = self._slots[name]
        with self._lock:
            slot.is_wanted = False
        self._terminate(slot)
        self.start(name, slot.stream)

    def _terminate(self, slot: _Slot) -> None:
        """A crash of its own just before counts as one; anything but 0 in time is noted."""
        slot.is_wanted = False
        try:
            code = slot.process.stop()
        except AssertionError:
            code = -signal.SIGKILL
        # One that had not begun is ended by the system, which costs nobody anything.
        had_begun = slot.process.log.stat().st_size > 0
        if code != 0 and (had_begun or code != -signal.SIGTERM):
            with self.harms.of(Harm.CRASH):
                self.exits.append(Exit(process=slot.process.log.name, code=code, wanted="0 on SIGTERM"))

    def dismiss_all(self) -> None:
        """SIGTERM everybody at once and wait for them."""
        threads = [threading.Thread(target=self.dismiss, args=[name]) for name in list(self._slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait_ready(self, name: str) -> None:
        """Return when a member is ready, or after 25 s: what it waits for may be away just now."""
        with suppress(AssertionError):
            wait_until_sync(
                lambda: self._ask(self._slots[name], "readyz") is not None, timeout_s=_READY_TIMEOUT_S
            )

    def watch(self) -> None:
        """Start again what ends by itself, and look at health and metrics, until closed."""
        looked_at_s = time.monotonic()
        while not self._closing.wait(_WATCHED_EVERY_S):
            for name, slot in list(self._slots.items()):
                with self._lock:
                    self._revive(name, slot)
            if time.monotonic() > looked_at_s + _LOOKED_AT_EVERY_S:
                looked_at_s = time.monotonic()
                self.look()

    def close(self) -> None:
        """End `watch`."""
        self._closing.set()

    def _revive(self, name: str, slot: _Slot) -> None:
        if slot.is_wanted and self._slots.get(name) is slot and not slot.process.is_running:
            code = slot.process.process.returncode
            with self.harms.of(Harm.CRASH):
                self.exits.append(Exit(process=slot.process.log.name, code=code, wanted="none"))
            self.start(name, slot.stream)

    def look(self) -> None:
        """Read everybody's metrics, and whether they say that they live."""
        for slot in list(self._slots.values()):
            if slot.is_stopped or not slot.is_wanted:
                continue
            log = slot.process.log.name
            if (text := self._ask(slot, "metrics")) is not None:
                self.metrics[f"metrics of {log}"] = text
            if (said := self._ask(slot, "livez", status=503)) is not None:
                self.deaths_by_liveness.append(f"{log}: {said}")

    def _ask(self, slot: _Slot, path: str, *, status: int = 200) -> str | None:
        """Return a health port's answer if it has this status."""
        port = _PORT.search(slot.process.log.read_text(errors="replace"))
        if port is None:
            return None
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port[1]}/{path}", timeout=_ANSWER_TIMEOUT_S, trust_env=False
            )
        except httpx.HTTPError:
            return None
        return answer.text if answer.status_code == status else None
