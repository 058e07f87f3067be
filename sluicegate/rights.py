"""Who may do what: the least rights in Kafka and in Redis with which each role does its whole work.

The topics come from the topic table; everything that grants or documents rights takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sluicegate.settings import Settings
from sluicegate.topics import onlookers_group, relay_group, stream_topics, topic_table


class Role(StrEnum):
    """One kind of process or person with an account of its own."""

    WORKER = "worker"
    RELAY = "relay"
    PUBLISHER = "publisher"  # services that publish events
    READER = "reader"  # services that read results
    CALLER = "caller"  # services that share the limits through `sluicegate.LlmClient`
    OPERATOR = "operator"  # who runs the commands that look, replay, cancel, pause and forget
    TOPICS = "topics"  # the job of `sluicegate topics --create`, --check and --grow


class Resource(StrEnum):
    """What Kafka grants rights on, by its own names."""

    TOPIC = "topic"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class KafkaRight:
    """Operations on one name, or on every name that begins with it. Describe is implied by the others."""

    role: Role
    resource: Resource
    name: str
    is_prefix: bool = False
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUser:
    """The key patterns and commands of one role; scripts may run no command that is not listed."""

    role: Role
    keys: tuple[str, ...]
    commands: tuple[str, ...]


# The topic table's words for who writes and who reads; all others there are commands of operators.
_PROCESSES = {"worker": Role.WORKER, "relay": Role.RELAY}
_WRITERS = {**_PROCESSES, "other services": Role.PUBLISHER}
_READERS = {**_PROCESSES, "other services": Role.READER}
_READ, _WRITE, _DESCRIBE = "Read", "Write", "Describe"

_ENTER = ("hello", "ping", "select")
_CLOCK = ("info", "time")
_LIMITER_SCRIPT = (
    "get",
    "hdel",
    "hgetall",
    "hlen",
    "hset",
    "pexpire",
    "set",
    "zadd",
    "zcard",
    "zcount",
    "zrem",
    "zremrangebyscore",
)
_STATE_SCRIPTS = ("del", "hget", "hmget", "lrange", "ltrim", "pttl", "rpush", "unlink", "zrevrangebyscore")
_RUN_SCRIPTS = ("eval", "evalsha")


def account(settings: Settings, role: Role) -> str:
    """Name the role's user, in Kafka and in Redis alike."""
    return f"{settings.kafka.group}-{role}"


def kafka_rights(settings: Settings) -> tuple[KafkaRight, ...]:
    """List every right in Kafka, by role."""
    return tuple(sorted((*_topic_rights(settings), *_group_rights(settings))))


def _topic_rights(settings: Settings) -> Iterator[KafkaRight]:
    for spec in topic_table(settings):
        operations: dict[Role, set[str]] = {
            # It waits for the topics of all streams before it begins.
            Role.RELAY: {_DESCRIBE},
            # `status`, `parked` and `cancel` read what waits, `replay` prices by the newest results.
            Role.OPERATOR: {_DESCRIBE} if "other services" in spec.writers else {_READ},
            Role.TOPICS: {"Alter", "Create", _DESCRIBE, "DescribeConfigs"},
        }
        for writer in spec.writers:
            operations.setdefault(_WRITERS.get(writer, Role.OPERATOR), set()).add(_WRITE)
        for reader in spec.readers:
            operations.setdefault(_READERS.get(reader, Role.OPERATOR), set()).add(_READ)
        for role, allowed in operations.items():
            yield KafkaRight(
                role=role,
                resource=Resource.TOPIC,
                name=spec.name,
                operations=tuple(sorted(allowed - {_DESCRIBE} if allowed & {_READ, _WRITE} else allowed)),
            )


def _group_rights(settings: Settings) -> Iterator[KafkaRight]:
    def of(role: Role, name: str, *operations: str, is_prefix: bool = False) -> KafkaRight:
        return KafkaRight(
            role=role, resource=Resource.GROUP, name=name, is_prefix=is_prefix, operations=operations
        )

    yield of(Role.RELAY, relay_group(settings), _READ)
    yield of(Role.OPERATOR, relay_group(settings), _DESCRIBE)
    yield of(Role.OPERATOR, onlookers_group(settings), _DESCRIBE)
    yield of(Role.TOPICS, relay_group(settings), _DESCRIBE)
    for stream in settings.streams:
        group = stream_topics(settings, stream).group
        yield of(Role.WORKER, group, _READ)
        yield of(Role.OPERATOR, group, _DESCRIBE)
        yield of(Role.TOPICS, group, _DESCRIBE)
        yield of(Role.OPERATOR, f"{group}.replay.", _READ, is_prefix=True)
        # A service may read results under any group whose name begins with the topic's.
        yield of(Role.READER, stream_topics(settings, stream).results, _READ, is_prefix=True)


def redis_users(settings: Settings) -> tuple[RedisUser, ...]:
    """List the users in Redis; who has nothing to do there has none."""
    state = (f"{settings.kafka.group}:*",)
    limits = tuple(f"lim:{{{name}{end}" for name in sorted(settings.providers) for end in ("}*", "/*"))
    limiter = {*_ENTER, *_CLOCK, *_RUN_SCRIPTS, *_LIMITER_SCRIPT}
    commands: Mapping[Role, tuple[tuple[str, ...], set[str]]] = {
        Role.WORKER: ((*state, *limits), {*limiter, *_STATE_SCRIPTS}),
        Role.RELAY: ((), {*_ENTER, "time"}),
        Role.CALLER: (limits, limiter),
        Role.OPERATOR: (
            (*state, *limits),
            {*limiter, *_STATE_SCRIPTS, "getdel", "scan", "zrange"},
        ),
    }
    return tuple(
        RedisUser(role=role, keys=keys, commands=tuple(sorted(allowed)))
        for role, (keys, allowed) in commands.items()
    )
