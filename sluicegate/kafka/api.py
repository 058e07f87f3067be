"""What the processing of events needs of Kafka."""

from __future__ import annotations

from typing import Protocol

from sluicegate.records import OutgoingRecord


class ConfirmedPublisher(Protocol):
    """Publishes a record and returns only when the broker has it on all in-sync replicas."""

    async def publish(self, record: OutgoingRecord) -> None:
        """Return once the record is stored.

        Raises RecordTooLargeError when its topic takes no record of this size, PublishRefusedError when it
        never will be stored for another reason, PublishError when that is not known.
        """
