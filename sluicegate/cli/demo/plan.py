"""What a demo run is to do, and the settings that its processes get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluicegate.local.stack import LocalStack
from sluicegate.local.toml import Value, write_toml
from sluicegate.settings import Settings, load_settings

CHAT, DOCUMENTS = "support-chat", "documents"
STREAMS = (CHAT, DOCUMENTS)

_PARTITIONS = 4
_SESSION_TIMEOUT_S = 6
_CALL_TIMEOUT_S = 30
_DRAIN_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The command's options, as they are documented there."""

    chats: Path | None
    documents: Path | None
    limit: int
    requests_per_minute: float
    tokens_per_minute: float
    workers: int
    kill_worker: bool
    kafka: str | None
    redis: str | None
    provider: str | None
    naive: bool
    cut: bool
    seed: int
    plain: bool
    json: Path | None

    @property
    def is_embedded(self) -> bool:
        """Whether the run has a broker of its own."""
        return self.kafka is None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoNames:
    """What the run's things are called: on somebody else's Kafka or Redis with a prefix of its own."""

    prefix: str

    @property
    def group(self) -> str:
        """The `[kafka] group`, which every internal topic and Redis key begins with."""
        return f"{self.prefix}sluicegate"

    @property
    def provider(self) -> str:
        """The provider's section: its name is in Redis, where it must not meet another deployment's."""
        return f"{self.prefix.rstrip('.')}" if self.prefix else "main"

    def input(self, stream: str) -> str:
        """The stream's input topic."""
        return f"{self.prefix}{stream}"

    def results(self, stream: str) -> str:
        """The stream's topic of results."""
        return f"{self.prefix}{stream}.results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where Kafka, Redis and the provider are."""

    kafka: str
    redis: str
    provider_base_url: str

    @classmethod
    def of(cls, stack: LocalStack) -> Addresses:
        """Return the addresses of a running stack."""
        return cls(kafka=stack.kafka, redis=stack.redis, provider_base_url=stack.provider_base_url)


NOWHERE = Addresses(
    kafka="127.0.0.1:1", redis="redis://127.0.0.1:1/0", provider_base_url="http://127.0.0.1:1/v1"
)
"""For settings that are asked for names only, before anything runs."""


def write_settings(
    path: Path, options: DemoOptions, names: DemoNames, addresses: Addresses, *, http_port: int = 0
) -> Settings:
    """Write the configuration file of one process and return what it says."""
    path.write_text(write_toml(_tables(options, names, addresses, http_port)), encoding="utf-8")
    return load_settings(path, {})


def _tables(
    options: DemoOptions, names: DemoNames, addresses: Addresses, http_port: int
) -> Mapping[str, Mapping[str, Value]]:
    return {
        "kafka": {
            "bootstrap_servers": addresses.kafka,
            "group": names.group,
            "session_timeout_s": _SESSION_TIMEOUT_S,
        },
        "topics": {"partitions": _PARTITIONS},
        "redis": {"url": addresses.redis},
        f"providers.{names.provider}": {
            "base_url": addresses.provider_base_url,
            "timeout_s": _CALL_TIMEOUT_S,
        },
        f"limits.{names.provider}": {
            "requests_per_minute": options.requests_per_minute,
            "tokens_per_minute": options.tokens_per_minute,
        },
        "http": {"port": http_port},
        "worker": {"drain_s": _DRAIN_S},
        **{
            f"streams.{stream}": {
                "provider": names.provider,
                "topic": names.input(stream),
                "results_topic": names.results(stream),
            }
            for stream in STREAMS
        },
    }
