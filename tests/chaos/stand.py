"""What a run runs on: a real broker and a real Redis, each behind a proxy, and a deployment of processes."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import httpx

from sluicegate.local.redis_server import RedisServer
from tests.chaos.crew import Crew, Harms
from tests.chaos.history import History, Limit, Sample, Stream
from tests.chaos.proxies import Proxies
from tests.chaos.reading import CommitReader, read_calls, read_records
from tests.fixtures.kafka import create_real_topics
from tests.fixtures.kafka_jars import JarKafka
from tests.fixtures.tcp_proxy import TcpProxy
from tests.integration.deployment import Deployment

PARTITIONS = 4
MAX_RUNNING = 20
REQUESTS_PER_MINUTE = 900.0
BURST_S = 0.05
TIERS_S = (1.0, 3.0, 10.0)
STREAMS = ("support-chat", "documents")
# Everything stands in Kafka with the broker's clock: the checker compares commits with it.
_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}


class Broker:
    """A real broker for several runs; the product comes to it through a proxy, the checker does not."""

    def __init__(self) -> None:
        self.kafka = JarKafka()
        self.proxies = Proxies()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.kafka)
        self._stack.enter_context(self.proxies)
        self.proxy: TcpProxy = self.proxies.open(self.kafka.behind_port, listen_port=self.kafka.proxy_port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """What the product connects to."""
        return f"127.0.0.1:{self.kafka.proxy_port}"

    @property
    def direct_address(self) -> str:
        """What publishers and the checker connect to."""
        return self.kafka.address


class ChaosDeployment(Deployment):
    """A deployment whose Redis stands behind a proxy."""

    def __init__(self, broker: Broker, folder: Path, redis: RedisServer, redis_port: int) -> None:
        key_file = folder / "key"
        self.key_canary = f"key-{secrets.token_hex(8)}"
        key_file.write_text(self.key_canary)
        super().__init__(
            kafka=broker.address,
            prefix=f"c{secrets.token_hex(4)}",
            folder=folder,
            partitions=PARTITIONS,
            limits={
                "requests_per_minute": REQUESTS_PER_MINUTE,
                "tokens_per_minute": 10_000_000,
                "burst_s": BURST_S,
            },
            stream={"max_running": MAX_RUNNING, "max_attempts": 8},
            documents={"chunk_tokens": 60},
            # Short waits, so that a run ends, and soon out of the slot, so that much is parked: what takes
            # longer in production is no other code.
            retry={"in_place_max_s": 0.5, "base_s": 0.5, "cap_s": 6, "tiers_s": TIERS_S},
            provider={"api_key_file": str(key_file), "timeout_s": 6},
            provider_arguments=("--latency-ms", "150", "--jitter-ms", "100"),
            redis_url=f"redis://127.0.0.1:{redis_port}/0",
        )
        self.redis = redis

    def of(self, name: str) -> Stream:
        """Name a stream's topics for the checker."""
        tiers = tuple(self.internal(name, f"retry.{number}") for number in range(1, len(TIERS_S) + 1))
        return Stream(
            name=name,
            input=self.input(name),
            due=self.internal(name, "due"),
            tiers=tiers,
            results=self.results(name),
            dlq=self.internal(name, "dlq"),
            group=f"{self.group}.{name}",
            is_ordered=name == "support-chat",
        )


@dataclass(slots=True)
class Stand:
    """One run's Redis, deployment and crew on a broker that outlives it."""

    broker: Broker
    redis: RedisServer
    proxies: Proxies
    redis_proxy: TcpProxy
    deployment: ChaosDeployment
    crew: Crew
    harms: Harms
    canary: str

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The topics of both streams."""
        return tuple(self.deployment.of(name) for name in STREAMS)

    @property
    def relay_group(self) -> str:
        """The relays' consumer group."""
        return f"{self.deployment.group}.relay"

    def commit_reader(self) -> CommitReader:
        """Return what asks the broker for every group's commits."""
        groups = {
            stream.group: dict.fromkeys((stream.input, stream.due), PARTITIONS) for stream in self.streams
        }
        tiers = [tier for stream in self.streams for tier in stream.tiers]
        return CommitReader(
            self.broker.direct_address, {**groups, self.relay_group: dict.fromkeys(tiers, PARTITIONS)}
        )

    def history(self, committed: tuple[Sample, ...], samples: tuple[Sample, ...] = ()) -> History:
        """Return all that is known now, as plain facts."""
        topics = {topic: PARTITIONS for stream in self.streams for topic in stream.topics}
        logs = {
            process.log.name: process.log.read_text(errors="replace")
            for process in self.deployment.processes
            if not process.name.startswith("provider")
        }
        return History(
            streams=self.streams,
            relay_group=self.relay_group,
            records=read_records(self.broker.direct_address, topics),
            committed=committed,
            samples=samples,
            calls=read_calls(self.deployment.provider_url),
            limit=Limit(per_s=REQUESTS_PER_MINUTE / 60, burst=max(1.0, REQUESTS_PER_MINUTE / 60 * BURST_S)),
            disruptions=self.harms.all,
            exits=tuple(self.crew.exits),
            texts={**logs, **self.crew.metrics},
            canaries=(self.canary, self.deployment.key_canary),
        )

    def clear_provider(self) -> None:
        """End every fault of the provider."""
        httpx.delete(f"{self.deployment.provider_url}/faults", timeout=20, trust_env=False)

    def restart_redis(self, data: Path | None, down_s: float) -> None:
        """Kill Redis and start it again: with other data if a folder is given, an empty one for none."""
        self.redis.kill()
        if data is not None:
            shutil.rmtree(self.redis.folder)
            shutil.copytree(data, self.redis.folder)
        time.sleep(down_s)
        self.redis.start()


@contextmanager
def standing(broker: Broker, folder: Path, seed: int) -> Iterator[Stand]:
    """Set up all of a run but its processes; everything ends with the block."""
    letters = Random(seed)
    # One word of letters: the simulator quotes it in its answers, so replies carry it, too.
    canary = "zq" + "".join(letters.choice("bcdfghjklmnpqrstvwxz") for _ in range(12))
    harms = Harms()
    with ExitStack() as stack:
        redis = RedisServer(appendonly=True)
        proxies = stack.enter_context(Proxies())
        redis_proxy = proxies.open(redis.port)
        deployment = ChaosDeployment(broker, folder, redis, redis_proxy.port)
        stack.enter_context(deployment)
        create_real_topics(broker.direct_address, deployment.topics, _APPEND_TIME)
        crew = Crew(deployment, harms)
        stack.callback(crew.close)
        yield Stand(
            broker=broker,
            redis=redis,
            proxies=proxies,
            redis_proxy=redis_proxy,
            deployment=deployment,
            crew=crew,
            harms=harms,
            canary=canary,
        )
