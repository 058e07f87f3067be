"""Publishing until the broker has confirmed, however long it is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sluicegate.errors import PublishError, PublishRefusedError
from sluicegate.kafka.api import ConfirmedPublisher
from sluicegate.records import OutgoingRecord
from sluicegate.telemetry.messaging import sending
from sluicegate.telemetry.traces import NO_TRACES, Traces

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentPublisher:
    """Repeats what was not confirmed; `sleep` waits seconds, `random` gives numbers in [0, 1).

    A repeated record may be stored twice: copies and ends are recognised by their ids.
    """

    publisher: ConfirmedPublisher
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
    traces: Traces = NO_TRACES

    async def publish(self, record: OutgoingRecord) -> None:
        """Return once the record is stored; raise PublishRefusedError when it never will be."""
        with sending(self.traces, record.topic):
            await self._until_confirmed(record)

    async def _until_confirmed(self, record: OutgoingRecord) -> None:
        ceiling_s = _FIRST_DELAY_S
        while True:
            try:
                return await self.publisher.publish(record)
            except PublishRefusedError:
                raise
            except PublishError:
                await self.sleep(ceiling_s * (0.5 + self.random() / 2))
                ceiling_s = min(2 * ceiling_s, _LONGEST_DELAY_S)
