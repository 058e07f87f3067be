"""Reading a stream's results in a thread: typed, once for each id, committed when handled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from sluicegate.events.models import ResultT
from sluicegate.services.inlet import Inlet
from sluicegate.services.received import Received

_POLL_S: Final = 0.5


class ResultReader(Inlet[ResultT]):
    """Gives a stream's results one by one; members of a group share the partitions.

    A result is handled when the next one is asked for, or when the context is left without an exception;
    only then is it committed. One that was in hand at a crash, or when an exception left the context, is
    given again to the partition's next reader: at least once. A *repeat*, a record whose `ce_id` another
    one carried at most `repeat_span` offsets before it in its partition, is never given, by no member in
    no life: at a start those offsets are read again. To make the rest exact, write `Received.id` in the
    transaction that handles the result. One reader belongs to one thread.
    """

    def next_result(self, timeout_s: float) -> Received[ResultT] | None:
        """Call the result in hand handled and return the next one; None when there was none in time.

        Raises BadResultError (see `on_bad`), which comes again until the record is passed, and BrokerError
        when Kafka refuses the reader or does not say where its group stands: make the reader anew then.
        """
        self._handled()
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            record = self._source.poll(min(left_s, _POLL_S))
            received = None if record is None else self._take(record)
            if received is not None or (record is None and time.monotonic() >= deadline):
                return received

    def __iter__(self) -> Iterator[Received[ResultT]]:
        while not self._is_closed:
            received = self.next_result(_POLL_S)
            if received is not None:
                yield received

    def close(self) -> None:
        """Commit what was handled and leave the group; what is in hand is left to the next reader."""
        if not self._is_closed:
            self._is_closed = True
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._handled()
        finally:
            self.close()
