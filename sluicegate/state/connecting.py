"""The one way in which we reach Redis: by the settings, or by a plain address."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from sluicegate.errors import ConfigurationError
from sluicegate.secret_files import read_secret
from sluicegate.settings import RedisSettings
from sluicegate.tls import tls_context

_TLS = "rediss:"


def connect(where: RedisSettings | str, *, max_connections: int, timeout_s: float) -> redis.asyncio.Redis:
    """Return a client that hears every cancellation and repeats nothing by itself.

    It waits `timeout_s` at most for a free connection and for a new one to open. Commands have no limit
    of their own: each caller bounds its whole call. A `socket_timeout` would have redis-py write through
    `asyncio.wait_for`, which on Python 3.11 loses a cancellation that arrives as the write ends; and
    what may be repeated after a failure is known to the caller alone.

    Raises ConfigurationError when a file that the settings name is of no use.
    """
    settings = _settings(where)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        **_login(settings),
    )
    if settings.url.startswith(_TLS):
        pool.connection_class = _TlsConnection
        pool.connection_kwargs["tls"] = tls_context(settings, section="redis")
    return redis.asyncio.Redis.from_pool(pool)


def connect_sync(where: RedisSettings | str, *, timeout_s: float) -> redis.Redis:
    """Return a client for programs without an event loop; every command is bounded by `timeout_s`.

    Raises ConfigurationError when a file that the settings name is of no use.
    """
    settings = _settings(where)
    pool = redis.ConnectionPool.from_url(
        settings.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, **_login(settings)
    )
    if settings.url.startswith(_TLS):
        pool.connection_class = _SyncTlsConnection
        pool.connection_kwargs["tls"] = tls_context(settings, section="redis")
    return redis.Redis.from_pool(pool)


class PasswordFile(CredentialProvider):
    """Gives user and password as the file has them now: redis-py asks at every new connection.

    Connections that are open stay logged in, so that a password is rotated without a restart.
    """

    def __init__(self, path: Path, username: str | None) -> None:
        self._path = path
        self._username = username
        self._password = self._read()

    def get_credentials(self) -> tuple[str, str] | tuple[str]:
        """Return what AUTH takes. While the file is away or empty the last password is tried."""
        with contextlib.suppress(ConfigurationError):
            self._password = self._read()
        return (self._password,) if self._username is None else (self._username, self._password)

    async def get_credentials_async(self) -> tuple[str, str] | tuple[str]:
        """Return the same; the file is local and small, and read when a connection opens."""
        return self.get_credentials()

    def _read(self) -> str:
        return read_secret(self._path, setting="redis.password_file")


class _TlsConnection(redis.asyncio.SSLConnection):
    """A connection with our own context: redis-py's would trust the system's authorities beside ours."""

    def __init__(self, *, tls: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context.context = tls


class _SyncTlsConnection(redis.SSLConnection):
    """The same for programs without an event loop."""

    def __init__(self, *, tls: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tls = tls

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._tls.wrap_socket(sock, server_hostname=self.host)


def _settings(where: RedisSettings | str) -> RedisSettings:
    return RedisSettings(url=where) if isinstance(where, str) else where


def _login(settings: RedisSettings) -> dict[str, Any]:
    if settings.password_file is None:
        return {}
    return {"credential_provider": PasswordFile(settings.password_file, settings.username)}
