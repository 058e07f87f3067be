"""A Kafka broker inside this process: librdkafka's mock cluster, which every confluent-kafka wheel holds.

It speaks the real protocol on loopback to any client, keeps its records in memory and forgets them with
the process. It knows consumer groups, commits with metadata and idempotent producers. It does not know
CreateTopics (topics are made here), `LogAppendTime` (records keep the producer's timestamp), offsets sent
in a transaction, SASL or TLS. Its C functions are documented in librdkafka's `rdkafka_mock.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_int64, c_size_t, c_void_p
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

from confluent_kafka import cimpl

from sluicegate.errors import StackError

_PRODUCER = 0
_ERROR_TEXT_BYTES = 512
_SIGNATURES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "rd_kafka_conf_new": (c_void_p, ()),
    "rd_kafka_conf_set": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "rd_kafka_conf_destroy": (None, (c_void_p,)),
    "rd_kafka_new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    "rd_kafka_destroy": (None, (c_void_p,)),
    "rd_kafka_mock_cluster_new": (c_void_p, (c_void_p, c_int)),
    "rd_kafka_mock_cluster_destroy": (None, (c_void_p,)),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, (c_void_p,)),
    "rd_kafka_mock_topic_create": (c_int, (c_void_p, c_char_p, c_int, c_int)),
    "rd_kafka_mock_push_request_errors_array": (None, (c_void_p, c_int16, c_size_t, POINTER(c_int))),
    "rd_kafka_mock_clear_request_errors": (None, (c_void_p, c_int16)),
    "rd_kafka_mock_broker_set_down": (c_int, (c_void_p, c_int32)),
    "rd_kafka_mock_broker_set_up": (c_int, (c_void_p, c_int32)),
    "rd_kafka_mock_broker_set_rtt": (c_int, (c_void_p, c_int32, c_int)),
    "rd_kafka_mock_partition_set_leader": (c_int, (c_void_p, c_char_p, c_int32, c_int32)),
    "rd_kafka_mock_coordinator_set": (c_int, (c_void_p, c_char_p, c_char_p, c_int32)),
    "rd_kafka_mock_partition_delete_records": (c_int, (c_void_p, c_char_p, c_int32, c_int64)),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, (c_void_p, c_int32)),
    "rd_kafka_mock_set_controller_id": (None, (c_void_p, c_int32)),
}


class Request(IntEnum):
    """The Kafka requests for which `EmbeddedBroker.fail` can inject errors, by their protocol number."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22


def _load_librdkafka() -> ctypes.CDLL:
    # A symbol is looked up in the extension module and then in what that links to, so this finds the
    # wheel's own librdkafka on Linux and on macOS, and the system's where confluent-kafka was built on it.
    library = ctypes.CDLL(cimpl.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError as exc:
            raise StackError(
                f"this build of confluent-kafka has no {name}: use a real Kafka (--kafka ADDRESS)"
            ) from exc
        function.restype = result
        function.argtypes = list(arguments)
    return library


class EmbeddedBroker:
    """A cluster on loopback that lives as long as its `with` block. Safe to use from several threads.

    `topics` maps names to partition counts. An unknown topic that a client asks for is made by the
    mock itself, with 4 partitions: create every topic before the first client starts.
    """

    def __init__(self, topics: Mapping[str, int] | None = None, *, brokers: int = 1) -> None:
        self._topics = dict(topics or {})
        self._brokers = brokers
        self._library: Any = None
        self._client: int | None = None
        self._cluster: int | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """What to set as `bootstrap_servers`. Raises StackError when the broker is not running."""
        self._running()
        return self._address

    @property
    def topics(self) -> Mapping[str, int]:
        """Every topic made here, with its partition count."""
        return self._topics

    def start(self) -> None:
        """Start listening and make the topics. Raises StackError when the library refuses."""
        self._library = library = _load_librdkafka()
        error = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        configuration = library.rd_kafka_conf_new()
        # The client that owns the cluster has no servers of its own and would say so on stderr.
        library.rd_kafka_conf_set(configuration, b"log_level", b"2", error, _ERROR_TEXT_BYTES)
        self._client = library.rd_kafka_new(_PRODUCER, configuration, error, _ERROR_TEXT_BYTES)
        if not self._client:
            library.rd_kafka_conf_destroy(configuration)
            raise StackError(f"librdkafka did not start: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, self._brokers)
        if not self._cluster:
            self.stop()
            raise StackError("librdkafka's mock cluster did not start")
        self._address = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._call("group_initial_rebalance_delay_ms", 0)
        # With a controller that exists, administrative requests are refused at once and not waited for.
        self._call("set_controller_id", 1)
        for name, partitions in self._topics.items():
            self._create(name, partitions)

    def stop(self) -> None:
        """Stop listening and forget every record."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
        if self._client:
            self._library.rd_kafka_destroy(self._client)
            self._client = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def create_topics(self, topics: Mapping[str, int]) -> None:
        """Make the topics that are missing; those made here before are left as they are."""
        for name, partitions in topics.items():
            if name not in self._topics:
                self._create(name, partitions)
                self._topics[name] = partitions

    def fail(self, request: Request, errors: Sequence[int]) -> None:
        """Answer the next requests of this kind with these Kafka error codes, one each."""
        self._call("push_request_errors_array", int(request), len(errors), (c_int * len(errors))(*errors))

    def heal(self, request: Request) -> None:
        """Drop the injected errors that were not answered yet."""
        self._call("clear_request_errors", int(request))

    def down(self, broker: int | None = None) -> None:
        """Close every connection and take no new ones, on one broker (numbered from 1) or on all."""
        for each in self._each(broker):
            self._call("broker_set_down", each)

    def up(self, broker: int | None = None) -> None:
        """Undo `down`; the records are still there."""
        for each in self._each(broker):
            self._call("broker_set_up", each)

    def round_trip(self, milliseconds: int) -> None:
        """Delay every answer of every broker by this many milliseconds; 0 undoes it."""
        for each in self._each(None):
            self._call("broker_set_rtt", each, milliseconds)

    def move_leader(self, topic: str, partition: int, broker: int) -> None:
        """Make another broker the partition's leader."""
        self._call("partition_set_leader", topic.encode(), partition, broker)

    def move_coordinator(self, group: str, broker: int) -> None:
        """Make another broker the consumer group's coordinator."""
        self._call("coordinator_set", b"group", group.encode(), broker)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete the partition's records below the offset, as retention would."""
        self._call("partition_delete_records", topic.encode(), partition, before)

    def _create(self, name: str, partitions: int) -> None:
        self._call("topic_create", name.encode(), partitions, self._brokers)

    def _each(self, broker: int | None) -> Iterable[int]:
        return range(1, self._brokers + 1) if broker is None else (broker,)

    def _running(self) -> int:
        if self._cluster is None:
            raise StackError("the embedded broker is not running")
        return self._cluster

    def _call(self, action: str, *arguments: int | bytes | ctypes.Array[c_int]) -> None:
        cluster = self._running()
        # The functions without a result answer None, those with one answer 0 for success.
        if code := getattr(self._library, f"rd_kafka_mock_{action}")(cluster, *arguments):
            raise StackError(f"the embedded broker refused {action}: librdkafka error {code}")
