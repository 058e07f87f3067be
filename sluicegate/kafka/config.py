"""How our confluent-kafka clients are configured, and why. Names are librdkafka's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

# Values of several types, one of them a logger: the client checks them, no type can.
ClientConfig = dict[str, Any]

# One record may be as large as the broker takes it; the topics' own `max.message.bytes` decides.
_LARGEST_RECORD_BYTES = 70_000_000
_LINGER_MS = 5
_FETCH_BACKOFF_MS = 20
_FETCH_WAIT_MS = 100
_SOCKET_TIMEOUT_MS = 10_000
_RECONNECT_MAX_MS = 2_000


def common_config(
    bootstrap_servers: str, *, client_id: str, security: Mapping[str, Any] | None = None
) -> ClientConfig:
    """Return what every client shares: bounded requests, quick reconnection, no line per connection.

    `security` holds librdkafka's own `security.*`, `sasl.*` and `ssl.*` settings.
    """
    return {
        **(security or {}),
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
        "socket.timeout.ms": _SOCKET_TIMEOUT_MS,
        "reconnect.backoff.max.ms": _RECONNECT_MAX_MS,
        "socket.keepalive.enable": True,
        "log.connection.close": False,
    }


def asking_config(
    bootstrap_servers: str, *, client_id: str, security: Mapping[str, Any] | None = None
) -> ClientConfig:
    """Return a client that only asks questions: what goes wrong is raised, so it logs nothing."""
    return {**common_config(bootstrap_servers, client_id=client_id, security=security), "log_level": 2}


def producer_config(
    bootstrap_servers: str,
    *,
    client_id: str,
    timeout_s: float,
    linger_ms: int = _LINGER_MS,
    security: Mapping[str, Any] | None = None,
) -> ClientConfig:
    """Return a producer that stores each record once, on all in-sync replicas, or says within `timeout_s`.

    `murmur2_random` puts a key on the partition that Java's and aiokafka's producers choose.
    """
    return {
        **common_config(bootstrap_servers, client_id=client_id, security=security),
        "logger": _logger(),
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": linger_ms,
        "partitioner": "murmur2_random",
        "message.max.bytes": _LARGEST_RECORD_BYTES,
        "message.timeout.ms": round(timeout_s * 1000),
        # How soon a request is sent again while a leader moves; the default of 100 doubles each time.
        "retry.backoff.ms": 50,
    }


def consumer_config(
    bootstrap_servers: str,
    *,
    client_id: str,
    group: str,
    session_timeout_s: float,
    prefetch_records: int,
    prefetch_kbytes: int,
    security: Mapping[str, Any] | None = None,
) -> ClientConfig:
    """Return a consumer that commits only what it is told to, and reads no aborted records.

    `prefetch_records` and `prefetch_kbytes` are per partition and bound what lies in memory unseen.
    """
    session_ms = round(session_timeout_s * 1000)
    return {
        **common_config(bootstrap_servers, client_id=client_id, security=security),
        "logger": _logger(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": max(session_ms // 3, 1),
        # The default of 1000 makes a record up to a second late.
        "fetch.queue.backoff.ms": _FETCH_BACKOFF_MS,
        "fetch.wait.max.ms": _FETCH_WAIT_MS,
        "queued.min.messages": max(prefetch_records, 1),
        "queued.max.messages.kbytes": max(prefetch_kbytes, 1),
        "topic.metadata.refresh.interval.ms": 30_000,
    }


def _logger() -> logging.Logger:
    # librdkafka's lines come out where the client is polled, through the program's own logging.
    return logging.getLogger("sluicegate.librdkafka")
