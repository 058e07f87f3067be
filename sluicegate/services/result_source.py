"""One member of a group that reads a results topic: what it is given, what is a repeat, what is committed.

`poll` and `close` belong to one thread at a time; the callbacks of a rebalance run inside them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from sluicegate.errors import BrokerError
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.reading import record_of
from sluicegate.records import Record
from sluicegate.services.received import result_id
from sluicegate.services.recent_ids import RecentIds
from sluicegate.services.security import checked_security, configured

_log = logging.getLogger("sluicegate.services")

REPEAT_SPAN: Final = 1000
_ASK_TIMEOUT_S = 15.0
_COMMIT_INTERVAL_MS = 1000
_PREFETCH_RECORDS = 1000
_PREFETCH_KBYTES = 4096

_PERMANENT: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.INVALID_GROUP_ID,
    }
)


class StartAt(StrEnum):
    """Where a group begins in a partition that it has never committed."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(slots=True, kw_only=True)
class _Partition:
    """`given_from` is the first offset that is not only looked at."""

    given_from: int
    recent: RecentIds


class ResultSource:
    """Gives each record of a results topic that is no repeat, and commits what is said to be handled."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic: str,
        group: str,
        client_id: str,
        start_at: StartAt,
        repeat_span: int,
        session_timeout_s: float,
        max_handling_s: float,
        security: Mapping[str, str] | None,
    ) -> None:
        self._topic = topic
        self._start_at = start_at
        self._repeat_span = repeat_span
        self._partitions: dict[int, _Partition] = {}
        self._failure: BrokerError | None = None
        config = {
            **consumer_config(
                bootstrap_servers,
                client_id=client_id,
                group=group,
                session_timeout_s=session_timeout_s,
                prefetch_records=_PREFETCH_RECORDS,
                prefetch_kbytes=_PREFETCH_KBYTES,
                security=checked_security(security),
            ),
            # Only what is stored as handled is committed: in the background, at a rebalance, at the end.
            "enable.auto.commit": True,
            "auto.commit.interval.ms": _COMMIT_INTERVAL_MS,
            "auto.offset.reset": start_at.value,
            "max.poll.interval.ms": round(max(max_handling_s, session_timeout_s) * 1000),
            "on_commit": self._on_commit,
        }
        self._consumer = configured(lambda: Consumer(config))
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self, timeout_s: float) -> Record | None:
        """Return the next record that is no repeat; None when there was none within about `timeout_s`.

        Raises BrokerError for what waiting does not cure, such as a missing authorisation.
        """
        message = self._consumer.poll(timeout_s)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if message is None:
            return None
        if (error := message.error()) is not None:
            self._raise_unless_passing(error)
            return None
        record = record_of(message)
        return record if self._is_given(record) else None

    def handled(self, record: Record) -> None:
        """Let the group go on after the record; a partition that has moved on is another member's."""
        self._store(record)

    def close(self) -> None:
        """Commit what was handled and leave the group."""
        self._consumer.close()

    def _is_given(self, record: Record) -> bool:
        partition = self._partitions.get(record.partition)
        if partition is None:
            return False  # revoked while the record was on its way here
        id = result_id(record)
        is_repeat = id is not None and partition.recent.is_repeat(id, record.offset)
        if record.offset < partition.given_from:
            return False
        if is_repeat:
            self._store(record)
        return not is_repeat

    def _store(self, record: Record) -> None:
        try:
            self._consumer.store_offsets(
                offsets=[TopicPartition(record.topic, record.partition, record.offset + 1)]
            )
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError._STATE:
                raise BrokerError(f"{self._topic}: {exc.args[0].str()}") from exc

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # An exception must not pass through the client's callback: `poll` raises it.
        try:
            known = consumer.committed(places, _ASK_TIMEOUT_S)
            consumer.assign([self._start(consumer, place) for place in known])
            self._keep_first_places(consumer, [place.partition for place in known if place.offset < 0])
        except KafkaException as exc:
            self._failure = BrokerError(
                f"{self._topic}: Kafka did not say where to begin: {exc.args[0].str()}"
            )

    def _start(self, consumer: Consumer, place: TopicPartition) -> TopicPartition:
        """Begin before what the group has committed, so as to know which ids came last."""
        if place.error is not None:
            raise KafkaException(place.error)
        low, high = consumer.get_watermark_offsets(place, timeout=_ASK_TIMEOUT_S)
        fresh = low if self._start_at is StartAt.EARLIEST else high
        # A place beyond the end is one of an earlier topic of this name: what is there now is all new.
        given_from = place.offset if 0 <= place.offset <= high else fresh
        self._partitions[place.partition] = _Partition(
            given_from=given_from, recent=RecentIds(self._repeat_span)
        )
        return TopicPartition(place.topic, place.partition, max(low, given_from - self._repeat_span))

    def _keep_first_places(self, consumer: Consumer, numbers: list[int]) -> None:
        """Commit where a new group began, or one that begins with the latest would lose what comes next."""
        firsts = [TopicPartition(self._topic, n, self._partitions[n].given_from) for n in numbers]
        if firsts:
            consumer.store_offsets(offsets=firsts)

    def _on_revoke(self, _: Consumer, places: list[TopicPartition]) -> None:
        for place in places:
            self._partitions.pop(place.partition, None)

    def _on_commit(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            _log.warning("%s: the group's place was not committed: %s", self._topic, error.str())

    def _raise_unless_passing(self, error: KafkaError) -> None:
        if error.code() in _PERMANENT:
            raise BrokerError(f"{self._topic}: {error.str()}")
        _log.warning("%s: %s", self._topic, error.str())
