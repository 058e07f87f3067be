"""Topics and committed offsets: what operators, the status and the ledger ask of a cluster."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from sluicegate.errors import BrokerError
from sluicegate.kafka.config import ClientConfig, asking_config
from sluicegate.kafka.security import librdkafka_security
from sluicegate.settings import KafkaSettings
from sluicegate.topics import TopicSpec

_LIST_AGAIN_S = 0.05
_CLIENT_ID = "sluicegate-admin"
_TURNED_AWAY = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Partition:
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A group's place in a partition: the next offset, and what was done above it as commit metadata."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The offsets that a partition holds: from `low` up to, and without, `high`."""

    low: int
    high: int


class KafkaAdmin:
    """Asks and changes a cluster; every call is bounded by `timeout_s` and raises BrokerError beyond it."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        timeout_s: float = 15.0,
        security: Mapping[str, Any] | None = None,
    ) -> None:
        """`security` holds librdkafka's own `security.*`, `sasl.*` and `ssl.*` settings."""
        self._config = asking_config(bootstrap_servers, client_id=_CLIENT_ID, security=security)
        self._timeout_s = timeout_s
        self._turned_away: str | None = None
        config: ClientConfig = {**self._config, "error_cb": self._on_error}
        self._client = AdminClient(config)

    @classmethod
    def of(cls, kafka: KafkaSettings, *, timeout_s: float = 15.0) -> KafkaAdmin:
        """Return one for the cluster in the settings. Raises ConfigurationError for a file of no use."""
        return cls(kafka.bootstrap_servers, timeout_s=timeout_s, security=librdkafka_security(kafka))

    def partition_counts(self) -> Mapping[str, int]:
        """Return the partition count of every topic there is."""
        try:
            topics = self._client.list_topics(timeout=self._timeout_s).topics
        except KafkaException as exc:
            self._client.poll(0)
            if self._turned_away is not None:
                raise BrokerError(f"Kafka turns us away: {self._turned_away}") from exc
            raise _broker_error("list the topics", exc) from exc
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def create(self, topics: Iterable[TopicSpec]) -> tuple[str, ...]:
        """Make the topics that are missing, leave the others as they are, and return the new names.

        The embedded broker cannot be asked for topics: there BrokerError says so.
        """
        there = self.partition_counts()
        missing = [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, config=dict(topic.config))
            for topic in topics
            if topic.name not in there
        ]
        if not missing:
            return ()
        futures = self._client.create_topics(missing, operation_timeout=self._timeout_s)
        made = tuple(name for name, future in futures.items() if self._made(name, future))
        self._await_topics(made)
        return made

    def grow(self, name: str, partitions: int) -> None:
        """Give a topic more partitions, and return when clients see them. Records stay where they are."""
        futures = self._client.create_partitions(
            [NewPartitions(name, partitions)], operation_timeout=self._timeout_s
        )
        self._result(futures[name], f"give {name} {partitions} partitions")
        deadline_s = time.monotonic() + self._timeout_s
        while self.partition_counts().get(name, 0) < partitions:
            if time.monotonic() > deadline_s:
                raise BrokerError(f"Kafka gave {name} more partitions but does not list them")
            time.sleep(_LIST_AGAIN_S)

    def members(self, group: str) -> int:
        """Return how many consumers are in a group now; 0 when there is no such group."""
        futures = self._client.describe_consumer_groups([group], request_timeout=self._timeout_s)
        try:
            return len(futures[group].result(2 * self._timeout_s).members)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise _broker_error(f"describe the group {group}", exc) from exc
        except TimeoutError as exc:
            raise _broker_error(f"describe the group {group}", exc) from exc

    def delete(self, names: Collection[str]) -> None:
        """Delete topics; one that is not there is an error."""
        if not names:
            return
        futures = self._client.delete_topics(list(names), operation_timeout=self._timeout_s)
        for name, future in futures.items():
            self._result(future, f"delete the topic {name}")

    def topic_configs(self, names: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        """Return each topic's configuration as it applies."""
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = self._client.describe_configs(resources, request_timeout=self._timeout_s)
        return {
            resource.name: {
                name: str(entry.value)
                for name, entry in self._result(future, f"read the settings of {resource.name}").items()
            }
            for resource, future in futures.items()
        }

    def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        """Return the first and the next offset of each partition."""
        with _Reader(self._config, "sluicegate-bounds") as reader:
            return {each: reader.bounds(each, self._timeout_s) for each in partitions}

    def ends(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the next offset of each partition; one request a broker, however many there are."""
        if not partitions:
            return {}
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # shipped without its types
        return {place: found.offset for place, found in self._listed(partitions, latest)}

    def oldest_ms(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the Unix time of the first record of each partition that holds any, by its timestamp.

        It is asked for without reading the record; the embedded broker does not say it.
        """
        if not partitions:
            return {}
        first = OffsetSpec.for_timestamp(0)
        return {
            place: found.timestamp for place, found in self._listed(partitions, first) if found.offset >= 0
        }

    def _listed(self, partitions: Sequence[Partition], which: OffsetSpec) -> Iterator[tuple[Partition, Any]]:
        futures = self._client.list_offsets(
            {TopicPartition(each.topic, each.number): which for each in partitions},
            request_timeout=self._timeout_s,
        )
        for place, future in futures.items():
            found = self._result(future, f"list the offsets of {place.topic}")
            yield Partition(topic=place.topic, number=place.partition), found

    def committed(self, group: str, partitions: Sequence[Partition]) -> Mapping[Partition, Committed | None]:
        """Return where the group stands in each partition, None where it never committed; joins nothing."""
        with _Reader(self._config, group) as reader:
            return reader.committed(partitions, self._timeout_s)

    def _on_error(self, error: KafkaError) -> None:
        # A request that was never sent fails for no better reason than time: why is only told here.
        if error.code() in _TURNED_AWAY:
            self._turned_away = error.str()

    def _await_topics(self, names: Collection[str]) -> None:
        # A topic is made before every client's metadata knows it: who came at once would not find it.
        deadline_s = time.monotonic() + self._timeout_s
        while not self.partition_counts().keys() >= set(names):
            if time.monotonic() > deadline_s:
                raise BrokerError("Kafka made the topics but does not list them")
            time.sleep(_LIST_AGAIN_S)

    def _made(self, name: str, future: Future[None]) -> bool:
        try:
            future.result(2 * self._timeout_s)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False  # somebody else was quicker
            raise _broker_error(f"create the topic {name}", exc) from exc
        except TimeoutError as exc:
            raise _broker_error(f"create the topic {name}", exc) from exc
        return True

    def _result(self, future: Future[_T], action: str) -> _T:
        try:
            return future.result(2 * self._timeout_s)
        except (KafkaException, TimeoutError) as exc:
            raise _broker_error(action, exc) from exc


class _Reader:
    """A consumer that never subscribes: only such a client may ask for bounds and commits."""

    def __init__(self, config: ClientConfig, group: str) -> None:
        self._consumer = Consumer({**config, "group.id": group, "enable.auto.commit": False})

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def bounds(self, partition: Partition, timeout_s: float) -> Bounds:
        place = TopicPartition(partition.topic, partition.number)
        try:
            found = self._consumer.get_watermark_offsets(place, timeout=timeout_s)
        except KafkaException as exc:
            raise _broker_error(f"read the offsets of {partition.topic}", exc) from exc
        if found is None:
            raise BrokerError(f"Kafka did not say in time which offsets {partition.topic} holds")
        return Bounds(low=found[0], high=found[1])

    def committed(
        self, partitions: Sequence[Partition], timeout_s: float
    ) -> Mapping[Partition, Committed | None]:
        places = [TopicPartition(each.topic, each.number) for each in partitions]
        try:
            found = self._consumer.committed(places, timeout=timeout_s)
        except KafkaException as exc:
            raise _broker_error("read the committed offsets", exc) from exc
        result: dict[Partition, Committed | None] = {}
        for place in found:
            if place.error is not None:
                raise _broker_error("read the committed offsets", KafkaException(place.error))
            result[Partition(topic=place.topic, number=place.partition)] = (
                Committed(offset=place.offset, metadata=place.metadata or "") if place.offset >= 0 else None
            )
        return result


def _broker_error(action: str, cause: Exception) -> BrokerError:
    if isinstance(cause, KafkaException):
        return BrokerError(f"Kafka did not {action}: {cause.args[0].str()}")
    return BrokerError(f"Kafka did not {action} in time")
