"""How each fault is done, and undone."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.faults import Fault, FaultKind
from tests.chaos.history import Harm
from tests.chaos.load import Load
from tests.chaos.stand import Stand

_ADMIN_TIMEOUT_S = 30.0
_SMALLEST_BYTES = "100"
_KAFKA_MESSAGE_BYTES = "1048588"
_PASSWORD = "nobody-knows"
_POISON_RECORDS = 8
_SKEW_S = 30
_SKEW = Path(__file__).parent / "skew"

Injector = Callable[["Injection"], None]


def can_inject(kind: FaultKind) -> bool:
    """Whether there is code for this fault."""
    return kind in _STRIKES or kind in _INJECTORS


class Injection:
    """One fault being done to a stand."""

    def __init__(self, stand: Stand, load: Load, fault: Fault) -> None:
        self.stand = stand
        self.load = load
        self.fault = fault

    def run(self) -> None:
        """Do it, hold it for as long as it is meant to last, and undo it."""
        kind = self.fault.kind
        if kind in _STRIKES:
            self._strike(_STRIKES[kind])
        else:
            _INJECTORS[kind](self)

    def hold(self) -> None:
        """Let the fault last."""
        time.sleep(self.fault.for_s)

    # --- processes --------------------------------------------------------------------------------

    def member(self, *, relays: bool = False) -> str:
        """Return who is struck."""
        names = self.stand.crew.names(relays=relays)
        return names[self.fault.choose(len(names))]

    def kill_member(self, *, relays: bool = False) -> None:
        """SIGKILL one; it is started again at once."""
        self.stand.crew.kill(self.member(relays=relays))

    def stop_member(self, *, relays: bool = False) -> None:
        """SIGSTOP one for longer than its session, then let it go on."""
        with self.stand.crew.stopped(self.member(relays=relays)):
            self.hold()

    def add_member(self, *, relays: bool = False) -> None:
        """Let one more join for a while, and leave again."""
        stream = None if relays else ("support-chat", "documents")[self.fault.choose(2)]
        name = f"{stream or 'relay'}-extra"
        self.stand.crew.start(name, stream)
        self.stand.crew.wait_ready(name)
        self.hold()
        self.stand.crew.dismiss(name)

    def terminate_member(self) -> None:
        """SIGTERM one; it is started again when it has ended."""
        self.stand.crew.restart(self.member())

    def roll_members(self) -> None:
        """Replace every worker, one after the other."""
        for name in self.stand.crew.names():
            self.stand.crew.replace(name)

    def skew_member(self) -> None:
        """Let one work with a clock that is 30 s fast or slow."""
        name, ahead_s = self.member(), _SKEW_S * (1 if self.fault.choose(100) % 2 else -1)
        path = os.pathsep.join([str(_SKEW), os.environ.get("PYTHONPATH", "")])
        skewed = {"PYTHONPATH": path, "CHAOS_CLOCK_AHEAD_S": str(ahead_s)}
        self.stand.crew.replace(name, skewed)
        self.hold()
        self.stand.crew.replace(name)

    # --- the broker -------------------------------------------------------------------------------

    def restart_broker(self, end: Callable[[], None]) -> None:
        """End the broker in some way, and start it again."""
        with self.stand.harms.of(Harm.BROKER_AWAY):
            end()
            self.hold()
            self.stand.broker.kafka.start()

    def silence_broker(self) -> None:
        """Keep every connection to the broker, and every byte on it."""
        with self.stand.harms.of(Harm.BROKER_AWAY):
            proxy, proxies = self.stand.broker.proxy, self.stand.broker.proxies
            proxies.do(proxy.silence)
            try:
                self.hold()
            finally:
                proxies.do(proxy.speak)

    def cut_broker(self) -> None:
        """Reset every connection to the broker, three times."""
        with self.stand.harms.of(Harm.BROKER_AWAY):
            for _ in range(3):
                self.stand.broker.proxies.do(self.stand.broker.proxy.cut)
                time.sleep(self.fault.for_s / 3)

    def refuse(self, topics: tuple[str, ...]) -> None:
        """Let topics take no record of more than 100 bytes for a while."""
        self._set_largest(topics, _SMALLEST_BYTES)
        try:
            self.hold()
        finally:
            self._set_largest(topics, _KAFKA_MESSAGE_BYTES)

    def refuse_results(self) -> None:
        """Refuse results, not dead letters."""
        self.refuse(tuple(stream.results for stream in self.stand.streams))

    def refuse_copies(self) -> None:
        """Refuse what is parked."""
        self.refuse(tuple(tier for stream in self.stand.streams for tier in stream.tiers))

    def _set_largest(self, topics: tuple[str, ...], size_bytes: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.stand.broker.direct_address, "log_level": 0})
        entry = ConfigEntry("max.message.bytes", size_bytes, incremental_operation=AlterConfigOpType.SET)
        resources = [
            ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics
        ]
        deadline = time.monotonic() + 2 * _ADMIN_TIMEOUT_S
        while True:
            try:
                for future in admin.incremental_alter_configs(resources).values():
                    future.result(_ADMIN_TIMEOUT_S)
            except Exception:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    # --- Redis ------------------------------------------------------------------------------------

    @contextmanager
    def redis_client(self) -> Iterator[redis.Redis]:
        """Return one connection past the proxy that outlives a change of the password."""
        client = redis.Redis(
            port=self.stand.redis.port,
            socket_timeout=_ADMIN_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
        try:
            yield client
        finally:
            client.close()

    def kill_redis(self) -> None:
        """SIGKILL Redis; it comes back with its data."""
        with self.stand.harms.of(Harm.STATE_AWAY):
            self.stand.restart_redis(None, self.fault.for_s)

    def empty_redis(self) -> None:
        """SIGKILL Redis; it comes back with nothing."""
        with tempfile.TemporaryDirectory() as empty:
            self._restart_with(Path(empty))

    def age_redis(self) -> None:
        """SIGKILL Redis; it comes back with what it knew two seconds earlier, as a replica might."""
        with tempfile.TemporaryDirectory() as copied:
            data = Path(copied) / "data"
            # From here on it may forget.
            with self.stand.harms.of(Harm.STATE_LOST):
                _copy_live(self.stand.redis.folder, data)
                time.sleep(2.0)
                self._restart_with(data)

    def _restart_with(self, data: Path) -> None:
        with self.stand.harms.of(Harm.STATE_AWAY), self.stand.harms.of(Harm.STATE_LOST):
            self.stand.restart_redis(data, self.fault.for_s)

    def flush_redis(self) -> None:
        """Delete everything, without a restart."""
        with self.stand.harms.of(Harm.STATE_LOST), self.redis_client() as client:
            client.flushall()

    def flush_scripts(self) -> None:
        """Make Redis forget the scripts, which takes nothing from anybody."""
        with self.redis_client() as client:
            client.script_flush()

    def stop_redis(self) -> None:
        """SIGSTOP Redis for a while."""
        with self.stand.harms.of(Harm.STATE_AWAY):
            pid = self.stand.redis.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                self.hold()
            finally:
                os.kill(pid, signal.SIGCONT)

    def pause_redis(self) -> None:
        """CLIENT PAUSE."""
        with self.stand.harms.of(Harm.STATE_AWAY), self.redis_client() as client:
            client.client_pause(int(self.fault.for_s * 1000))
            self.hold()

    def slow_redis(self) -> None:
        """Delay every answer by 50 to 300 ms."""
        with self.stand.harms.of(Harm.STATE_AWAY):
            self.stand.redis_proxy.latency_s = 0.05 + self.fault.pick / 4
            try:
                self.hold()
            finally:
                self.stand.redis_proxy.latency_s = 0.0

    def silence_redis(self) -> None:
        """Keep every connection to Redis, and every byte on it."""
        with self.stand.harms.of(Harm.STATE_AWAY):
            self.stand.proxies.do(self.stand.redis_proxy.silence)
            try:
                self.hold()
            finally:
                self.stand.proxies.do(self.stand.redis_proxy.speak)

    def cut_redis(self) -> None:
        """Reset every connection to Redis, three times."""
        with self.stand.harms.of(Harm.STATE_AWAY):
            for _ in range(3):
                self.stand.proxies.do(self.stand.redis_proxy.cut)
                time.sleep(self.fault.for_s / 3)

    def lock_redis(self) -> None:
        """Make Redis a replica of nobody: it reads and does not write."""
        with self.stand.harms.of(Harm.STATE_AWAY), self.redis_client() as client:
            client.replicaof("127.0.0.1", 1)
            try:
                self.hold()
            finally:
                client.replicaof("NO", "ONE")

    def fill_redis(self) -> None:
        """Leave Redis no memory to write to."""
        with self.stand.harms.of(Harm.STATE_AWAY), self.redis_client() as client:
            client.config_set("maxmemory", "1mb")
            try:
                self.hold()
            finally:
                client.config_set("maxmemory", "0")

    def busy_redis(self) -> None:
        """Run an endless script, which blocks every other command."""
        with self.stand.harms.of(Harm.STATE_AWAY), self.redis_client() as client:
            client.config_set("lua-time-limit", "300")
            endless = threading.Thread(target=self._run_endless_script)
            endless.start()
            try:
                self.hold()
            finally:
                client.script_kill()
                endless.join()

    def _run_endless_script(self) -> None:
        with self.redis_client() as client, suppress(redis.RedisError):
            client.eval("while true do end", 0)

    def lock_out_redis(self) -> None:
        """Want a password that nobody knows, and drop everybody who is there without."""
        with self.stand.harms.of(Harm.STATE_AWAY), self.redis_client() as client:
            client.config_set("requirepass", _PASSWORD)
            client.client_kill_filter(_type="normal", skipme=True)
            try:
                self.hold()
            finally:
                client.config_set("requirepass", "")

    # --- the provider and the input ---------------------------------------------------------------

    def _strike(self, strike: Mapping[str, Any]) -> None:
        """Let the provider fail for some seconds, some or all of the calls."""
        shares = (0.3, 0.6, 1.0)
        share = {"share": shares[self.fault.choose(3)]} if strike["kind"] not in _WHOLE else {}
        self.stand.deployment.faults({**strike, **share, "for_s": self.fault.for_s})
        self.hold()

    def poison_input(self) -> None:
        """Publish bad records among the good ones."""
        count = _POISON_RECORDS
        self.load.publish_poison(count, self.fault.for_s, Random(self.fault.pick).random())


_WHOLE = frozenset({"cut", "strangers", "capacity"})
_K = FaultKind
_STRIKES: Mapping[FaultKind, Mapping[str, Any]] = {
    _K.QUOTA_CUT: {"kind": "cut"},
    _K.QUOTA_SHARED: {"kind": "strangers", "share": 0.4},
    _K.THROTTLED_S: {"kind": "status", "status": 429, "retry_after_s": 3},
    _K.THROTTLED_MS: {"kind": "status", "status": 429, "retry_after_s": 1.5, "retry_after_as": "ms"},
    _K.THROTTLED_DATE: {"kind": "status", "status": 429, "retry_after_s": 4, "retry_after_as": "date"},
    _K.THROTTLED_BARE: {"kind": "status", "status": 429, "headers": False},
    _K.THROTTLED_ZERO: {"kind": "status", "status": 429, "retry_after_s": 0},
    _K.ERROR_500: {"kind": "status", "status": 500},
    _K.UNAVAILABLE_503: {"kind": "status", "status": 503, "retry_after_s": 2},
    _K.OVERLOADED_529: {"kind": "status", "status": 529},
    _K.OVERLOADED_IN_200: {"kind": "overload"},
    _K.CROWDED: {"kind": "capacity", "concurrency": 2},
    _K.HANG: {"kind": "hang"},
    _K.SLOW_HEADERS: {"kind": "slow", "delay_s": 3},
    _K.SLOW_BODY: {"kind": "slow", "delay_s": 12, "where": "body"},
    _K.EMPTY: {"kind": "empty"},
    _K.HTML: {"kind": "html"},
    _K.MALFORMED: {"kind": "malformed"},
    _K.TRUNCATED: {"kind": "truncated"},
    _K.RESET: {"kind": "reset"},
    _K.HUGE: {"kind": "huge"},
    _K.REDIRECT: {"kind": "redirect"},
}
_INJECTORS: Mapping[FaultKind, Injector] = {
    _K.WORKER_KILLED: Injection.kill_member,
    _K.WORKER_TERMINATED: Injection.terminate_member,
    _K.WORKER_STOPPED: Injection.stop_member,
    _K.WORKER_JOINS: Injection.add_member,
    _K.WORKERS_ROLLED: Injection.roll_members,
    _K.WORKER_CLOCK_WRONG: Injection.skew_member,
    _K.RELAY_KILLED: lambda injection: injection.kill_member(relays=True),
    _K.RELAY_STOPPED: lambda injection: injection.stop_member(relays=True),
    _K.RELAY_JOINS: lambda injection: injection.add_member(relays=True),
    _K.BROKER_RESTARTED: lambda injection: injection.restart_broker(injection.stand.broker.kafka.stop),
    _K.BROKER_KILLED: lambda injection: injection.restart_broker(injection.stand.broker.kafka.kill),
    _K.BROKER_SILENT: Injection.silence_broker,
    _K.BROKER_CUT_OFF: Injection.cut_broker,
    _K.RESULTS_REFUSED: Injection.refuse_results,
    _K.COPIES_REFUSED: Injection.refuse_copies,
    _K.REDIS_KILLED: Injection.kill_redis,
    _K.REDIS_EMPTY: Injection.empty_redis,
    _K.REDIS_STALE: Injection.age_redis,
    _K.REDIS_FLUSHED: Injection.flush_redis,
    _K.REDIS_SCRIPTS_FLUSHED: Injection.flush_scripts,
    _K.REDIS_STOPPED: Injection.stop_redis,
    _K.REDIS_PAUSED: Injection.pause_redis,
    _K.REDIS_SLOW: Injection.slow_redis,
    _K.REDIS_SILENT: Injection.silence_redis,
    _K.REDIS_CUT_OFF: Injection.cut_redis,
    _K.REDIS_READ_ONLY: Injection.lock_redis,
    _K.REDIS_FULL: Injection.fill_redis,
    _K.REDIS_BUSY: Injection.busy_redis,
    _K.REDIS_PASSWORD: Injection.lock_out_redis,
    _K.POISON: Injection.poison_input,
}


def _copy_live(source: Path, target: Path) -> None:
    """Copy an append-only file that is being written: what is cut off at its end is left out on loading."""
    for path in sorted(source.rglob("*"), reverse=True):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                copy.write_bytes(path.read_bytes())
