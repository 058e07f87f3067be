"""The one way in which our event loops reach Redis."""

from __future__ import annotations

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, max_connections: int, timeout_s: float) -> redis.asyncio.Redis:
    """Return a client that hears every cancellation and repeats nothing by itself.

    It waits `timeout_s` at most for a free connection and for a new one to open. Commands have no limit
    of their own: each caller bounds its whole call. A `socket_timeout` would have redis-py write through
    `asyncio.wait_for`, which on Python 3.11 loses a cancellation that arrives as the write ends; and
    what may be repeated after a failure is known to the caller alone.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.asyncio.Redis.from_pool(pool)
