"""Redis's, the socket's and the timer's errors as the one error that the rest of the code knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError, ResponseError

from sluicegate.errors import StateUnavailableError


@contextmanager
def redis_errors_translated() -> Iterator[None]:
    """Raise StateUnavailableError for every way in which Redis can fail to do what it was asked."""
    try:
        yield
    except (RedisError, OSError) as exc:  # TimeoutError is an OSError
        # An error reply begins with its code (BUSY, MISCONF), which redis-py takes off where it has a class
        # for it (ReadOnlyError); the rest may quote.
        code = str(exc).partition(" ")[0] if type(exc) is ResponseError else ""
        raise StateUnavailableError(
            f"Redis did not do what it was asked ({type(exc).__name__}{code and ' ' + code}): "
            "see `sluicegate doctor`"
        ) from exc
