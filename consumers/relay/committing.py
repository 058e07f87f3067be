"""What is told to Kafka of a relay's progress: one commit under way at a time, offsets with their maps."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.relay.held_partition import HeldPartition
from sluicegate.delivery.offsets import Commit
from sluicegate.kafka.admin import Partition

_log = structlog.get_logger(__name__)


class Committing:
    """Commits what is new. `on_done` is the client's `on_commit` callback.

    A commit that is refused is nothing to repair: the next one says everything, and what is never
    committed is released once more by the next owner and recognised where it is taken.
    """

    def __init__(self) -> None:
        self._under_way: dict[Partition, tuple[HeldPartition, Commit]] = {}

    def begin(self, consumer: Consumer, owners: Iterable[HeldPartition]) -> None:
        """Send a commit of what changed, unless one is under way."""
        if self._under_way:
            return
        offsets = self._offsets(owners)
        if not offsets:
            return
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exc:
            self.on_done(exc.args[0], offsets)

    def finish(self, consumer: Consumer, owners: Iterable[HeldPartition]) -> None:
        """Commit what changed and wait for the answer; before partitions are given back."""
        self.forget()
        offsets = self._offsets(owners)
        if not offsets:
            return
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            _log.warning("relay.commit.refused", error=exc.args[0].str())
        self.forget()

    def forget(self) -> None:
        """Expect no answer any more: the partitions are somebody else's."""
        self._under_way.clear()

    def on_done(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Note the answer to a commit."""
        under_way, self._under_way = self._under_way, {}
        if error is not None:
            # While the group changes hands, or the coordinator is away.
            _log.info("relay.commit.refused", error=error.str())
            return
        for offset in offsets:
            found = under_way.get(Partition(topic=offset.topic, number=offset.partition))
            if found is None or offset.error is not None:
                continue
            owner, commit = found
            if (offset.offset, offset.metadata or "") == (commit.offset, commit.metadata):
                owner.tracker.confirm(commit)

    def _offsets(self, owners: Iterable[HeldPartition]) -> list[TopicPartition]:
        offsets = []
        for owner in owners:
            commit = owner.tracker.snapshot() if owner.tracker.dirty else None
            if commit is not None:
                place = owner.place
                self._under_way[place] = (owner, commit)
                offsets.append(TopicPartition(place.topic, place.number, commit.offset, commit.metadata))
        return offsets
