"""The topic table: every topic of a deployment, who writes and who reads it, and how it is configured.

Everything that makes, checks or documents topics takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sluicegate.settings import Settings, StreamSettings

# Kafka's own default of max.message.bytes, which an input keeps unless its events are allowed to be larger.
_KAFKA_MESSAGE_BYTES = 1_048_588
# Room for the headers and envelopes that we add to what an input may hold.
_HEADROOM_BYTES = 64 * 1024

_OTHERS, _WORKER, _RELAY = "other services", "worker", "relay"
_REPLAY, _CANCEL, _OPERATORS = "replay", "cancel", "operators"
_PAUSE, _RESUME, _FORGET = "pause", "resume", "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTopics:
    """The names of one stream's topics, and the consumer group of its workers. Tier n is `tiers[n - 1]`."""

    input: str
    due: str
    tiers: tuple[str, ...]
    results: str
    dlq: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """How a topic must be. `replication_factor` -1 is the broker's default; `config` has Kafka's names."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    writers: tuple[str, ...]
    readers: tuple[str, ...]


def stream_topics(settings: Settings, stream: str) -> StreamTopics:
    """Name the stream's topics; ConfigurationError when there is no such stream.

    Internal names carry the group's, so that two deployments on one input never share retry state.
    """
    own = settings.stream(stream)
    prefix = f"{settings.kafka.group}.{stream}"
    return StreamTopics(
        input=own.topic or stream,
        due=f"{prefix}.due",
        tiers=tuple(f"{prefix}.retry.{tier}" for tier in range(1, len(settings.retry.tiers_s) + 1)),
        results=own.results_topic or f"{stream}.results",
        dlq=f"{prefix}.dlq",
        group=prefix,
    )


def relay_group(settings: Settings) -> str:
    """Name the relay's consumer group."""
    return f"{settings.kafka.group}.relay"


def onlookers_group(settings: Settings) -> str:
    """Name the group of commands that look on: it has no members and no commits, but Kafka wants a name."""
    return f"{settings.kafka.group}.onlookers"


def audit_topic(settings: Settings) -> str:
    """Name the topic that keeps what operators did."""
    return f"{settings.kafka.group}.audit"


def input_message_bytes(stream: StreamSettings) -> int:
    """Return the input's max.message.bytes: Kafka's default, or what its largest event needs."""
    return max(_KAFKA_MESSAGE_BYTES, stream.max_event_bytes + _HEADROOM_BYTES)


def topic_table(settings: Settings) -> tuple[TopicSpec, ...]:
    """List every topic once, by stream in the order of the settings, the audit's last.

    A topic that several streams share (one's results are another's input) gets the union of their demands.
    """
    table: dict[str, TopicSpec] = {}
    for name in settings.streams:
        for spec in _of_stream(settings, name):
            table[spec.name] = _both(table[spec.name], spec) if spec.name in table else spec
    audit = _Maker(settings, _KAFKA_MESSAGE_BYTES).make(
        audit_topic(settings),
        (_REPLAY, _CANCEL, _PAUSE, _RESUME, _FORGET),
        (_OPERATORS,),
        {"retention.ms": _milliseconds(settings.topics.dlq_retention_s)},
    )
    # One partition: what operators did is read in the order in which they did it.
    return (*table.values(), replace(audit, partitions=1))


@dataclass(frozen=True, slots=True)
class _Maker:
    settings: Settings
    message_bytes: int

    def make(
        self, name: str, writers: tuple[str, ...], readers: tuple[str, ...], extra: Mapping[str, str]
    ) -> TopicSpec:
        topics = self.settings.topics
        return TopicSpec(
            name=name,
            partitions=topics.partitions,
            replication_factor=topics.replication_factor,
            config={"cleanup.policy": "delete", "max.message.bytes": str(self.message_bytes), **extra},
            writers=writers,
            readers=readers,
        )


def _of_stream(settings: Settings, stream: str) -> Iterator[TopicSpec]:
    names = stream_topics(settings, stream)
    message_bytes = input_message_bytes(settings.streams[stream])
    public, internal = _Maker(settings, message_bytes), _Maker(settings, message_bytes + _HEADROOM_BYTES)
    # A tier's reader rests on append time: a record appended at A is not due before A + the tier's minimum.
    waiting = {
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": _milliseconds(settings.topics.retry_retention_s),
    }
    kept = {"retention.ms": _milliseconds(settings.topics.dlq_retention_s)}
    yield public.make(names.input, (_OTHERS,), (_WORKER,), {})
    yield internal.make(names.due, (_RELAY, _REPLAY, _CANCEL), (_WORKER,), waiting)
    for tier in names.tiers:
        yield internal.make(tier, (_WORKER, _RELAY), (_RELAY, _REPLAY), waiting)
    yield public.make(names.results, (_WORKER,), (_OTHERS,), {})
    yield internal.make(names.dlq, (_WORKER, _RELAY), (_OPERATORS, _REPLAY), kept)


def _both(one: TopicSpec, other: TopicSpec) -> TopicSpec:
    key = "max.message.bytes"
    return replace(
        one,
        config={**one.config, key: str(max(int(one.config[key]), int(other.config[key])))},
        writers=tuple(dict.fromkeys(one.writers + other.writers)),
        readers=tuple(dict.fromkeys(one.readers + other.readers)),
    )


def _milliseconds(seconds: int) -> str:
    return str(seconds * 1000)
