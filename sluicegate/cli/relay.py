"""`sluicegate relay`: hand parked events back when they are due."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import structlog

from consumers.inspection.reading import partitions_of
from consumers.relay.letter_ages import LetterAges
from consumers.relay.plan import tiers_of
from consumers.relay.relay import Relay, RelayLimits
from sluicegate.cli.configuration import command_settings
from sluicegate.errors import BrokerError, ConfigurationError, StateUnavailableError
from sluicegate.kafka.admin import KafkaAdmin, Partition
from sluicegate.kafka.config import consumer_config
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.security import librdkafka_security
from sluicegate.kafka.topic_check import missing_topics, uneven_topics
from sluicegate.settings import Settings
from sluicegate.state.connecting import connect_sync
from sluicegate.state.redis_clock import REFRESH_EVERY_S, SyncRedisClock
from sluicegate.telemetry.health import HealthServer, HealthThread
from sluicegate.telemetry.logs import configure_logs
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.pulse import STUCK_S, Pulse, Vital
from sluicegate.topics import relay_group

_log = structlog.get_logger(__name__)

_REDIS_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 1.0
_ENDS_EVERY_S = 15.0
_PREFETCH_RECORDS = 500
_PREFETCH_KBYTES = 1024
# One answer of the broker may overshoot the prefetch; with the client's default, by 50 MB.
_FETCH_BYTES = 4 * 1024 * 1024
_LINGER_MS = 1
_PUBLISH_TIMEOUT_S = 30.0


def relay(*, config: Path | None = None) -> int:
    """Hand parked events back when they are due, until SIGTERM.

    Parameters
    ----------
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    configure_logs("INFO", terminal=sys.stderr.isatty(), stream=sys.stderr)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return _Process(settings, stopping).run()


class _Process:
    """One relay and the threads beside its loop: Redis's clock, health and metrics."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._metrics = Metrics()
        self._redis_up = threading.Event()
        self._clock_pulse = Pulse("clock")
        self._relay: Relay | None = None
        self._ends: Mapping[Partition, int] = {}
        self._clock = SyncRedisClock(connect_sync(settings.redis, timeout_s=_REDIS_TIMEOUT_S))

    def run(self) -> int:
        """Wait for Redis and the topics, then relay until told to stop; returns the exit code."""
        http = self._settings.http
        health = HealthServer(
            host=http.host,
            port=http.port,
            port_is_fixed=self._settings.http_port_from_environment and http.port != 0,
            registry=self._metrics.registry,
            live=self._why_not_live,
            ready=self._why_not_ready,
        )
        with HealthThread(health):
            return self._run()

    def _why_not_live(self) -> list[str]:
        vitals: list[Vital] = [self._clock_pulse]
        if (relay := self._relay) is not None:
            vitals += [relay.loop, relay.publishes]
        return [complaint for vital in vitals if (complaint := vital.complaint()) is not None]

    def _why_not_ready(self) -> list[str]:
        reasons = [] if self._redis_up.is_set() else ["Redis does not answer"]
        relay = self._relay
        if relay is None:
            reasons.append("waits for Redis and its topics")
        elif not relay.ready:
            reasons.append("Kafka does not answer, or the relay is not in its group")
        return reasons

    def _run(self) -> int:
        threading.Thread(target=self._keep_clock, name="clock", daemon=True).start()
        kafka = self._settings.kafka
        admin, security = KafkaAdmin.of(kafka, timeout_s=5.0), librdkafka_security(kafka)
        if not (self._wait_for_redis() and self._wait_for_topics(admin)):
            return 0
        group = relay_group(self._settings)
        with ConfluentPublisher(
            kafka.bootstrap_servers,
            client_id=group,
            timeout_s=_PUBLISH_TIMEOUT_S,
            linger_ms=_LINGER_MS,
            security=security,
        ) as publisher:
            self._relay = Relay(
                tiers=tiers_of(self._settings),
                consumer_config={
                    **consumer_config(
                        kafka.bootstrap_servers,
                        client_id=group,
                        group=group,
                        session_timeout_s=kafka.session_timeout_s,
                        prefetch_records=_PREFETCH_RECORDS,
                        prefetch_kbytes=_PREFETCH_KBYTES,
                        security=security,
                    ),
                    "fetch.max.bytes": _FETCH_BYTES,
                },
                publisher=publisher,
                clock=self._clock,
                metrics=self._metrics,
                partition_counts=admin.partition_counts,
                ends=lambda: self._ends,
                limits=RelayLimits(publish_timeout_s=_PUBLISH_TIMEOUT_S),
            )
            threading.Thread(target=self._keep_ends, args=(admin,), name="ends", daemon=True).start()
            _log.info("relay.started", group=group)
            self._relay.run(self._stopping.is_set)
        _log.info("relay.stopped")
        return 0

    def _keep_clock(self) -> None:
        # In a thread of its own: a Redis that hangs must not hold up the loop, which has the time anyway.
        while not self._stopping.is_set():
            self._clock_pulse.beat(REFRESH_EVERY_S + STUCK_S)
            try:
                self._clock.refresh()
            except StateUnavailableError as exc:
                if self._redis_up.is_set() or self._relay is None:
                    _log.warning("relay.redis.away", error=str(exc))
                self._redis_up.clear()
                self._metrics.redis.went_away()
                self._stopping.wait(_ASK_AGAIN_S)
            else:
                self._redis_up.set()
                self._metrics.redis.answered()
                self._stopping.wait(REFRESH_EVERY_S)
        self._clock_pulse.rest()

    def _keep_ends(self, admin: KafkaAdmin) -> None:
        # Beside the loop: a broker that is away answers late, and the figures may be old meanwhile.
        topics = [tier.topic for tier in tiers_of(self._settings)]
        ages = LetterAges(self._settings, self._metrics)
        while not self._stopping.is_set():
            with contextlib.suppress(BrokerError):  # its own lines say that Kafka is away
                counts = admin.partition_counts()
                self._ends = admin.ends(partitions_of(topics, counts))
                ages.show(admin.oldest_ms(partitions_of(ages.topics, counts)), self._clock.now_ms())
            self._stopping.wait(_ENDS_EVERY_S)

    def _wait_for_redis(self) -> bool:
        while not self._stopping.is_set():
            if self._redis_up.wait(_ASK_AGAIN_S):
                return True
        return False

    def _wait_for_topics(self, admin: KafkaAdmin) -> bool:
        """Return when every topic is there; ConfigurationError when their widths differ; False to stop."""
        while not self._stopping.is_set():
            try:
                counts = admin.partition_counts()
            except BrokerError as exc:
                servers = self._settings.kafka.bootstrap_servers
                _log.warning("relay.kafka.away", servers=servers, error=str(exc))
            else:
                if uneven := uneven_topics(self._settings, counts):
                    raise ConfigurationError(uneven[0])
                missing = missing_topics(self._settings, counts)
                if not missing:
                    return True
                _log.warning("relay.topics.missing", first=missing[0], count=len(missing))
            self._stopping.wait(_ASK_AGAIN_S)
        return False
