"""What was sent without waiting for it, and what became of it: the account that a flush settles. Pure."""

from __future__ import annotations

from itertools import count

from sluicegate.errors import PublishError, Unconfirmed, UnconfirmedError

# Failures that are kept with their ids between two flushes; the others are only counted.
_MOST_KEPT = 1000


class Sendings:
    """Not safe in several threads."""

    def __init__(self) -> None:
        self._tokens = count()
        self._under_way: dict[int, str] = {}
        self._failed: list[Unconfirmed] = []
        self._failures = 0

    @property
    def under_way(self) -> int:
        """How many are neither confirmed nor failed."""
        return len(self._under_way)

    def start(self, id: str) -> int:
        """Note an event that goes; the token names this sending of it."""
        token = next(self._tokens)
        self._under_way[token] = id
        return token

    def end(self, token: int, error: PublishError | None) -> None:
        """Note what became of it. One that a flush has given up already is known as failed."""
        id = self._under_way.pop(token, None)
        if id is not None and error is not None:
            self._fail(id, error)

    def settle(self) -> UnconfirmedError | None:
        """Return what failed since the last time; what is still under way counts as failed, too."""
        late, self._under_way = self._under_way, {}
        for id in late.values():
            self._fail(id, PublishError("no confirmation in time"))
        failed, failures = self._failed, self._failures
        self._failed, self._failures = [], 0
        return UnconfirmedError(failed, failures) if failures else None

    def _fail(self, id: str, error: PublishError) -> None:
        self._failures += 1
        if len(self._failed) < _MOST_KEPT:
            self._failed.append(Unconfirmed(id=id, error=error))
