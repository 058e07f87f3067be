"""Which ids a partition's last records carried: a memory that is bounded and the same in every life. Pure."""

from __future__ import annotations

from collections import OrderedDict


class RecentIds:
    """What one partition's records before an offset say; nothing else is remembered.

    A record is a repeat when one of the `span` offsets before it has the same id. That depends on the
    partition's records alone, so whoever reads those `span` offsets first decides alike, in any process.
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: OrderedDict[str, int] = OrderedDict()  # by offset, ascending

    def is_repeat(self, id: str, offset: int) -> bool:
        """Note the record; offsets must ascend. Return whether a record shortly before it had the same id."""
        while self._last and next(iter(self._last.values())) < offset - self._span:
            self._last.popitem(last=False)
        before = self._last.pop(id, None)
        self._last[id] = offset
        return before is not None
