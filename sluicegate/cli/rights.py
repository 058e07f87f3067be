"""`sluicegate rights`: the accounts and least rights of a deployment, as its servers take them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import orjson

from sluicegate.cli.configuration import command_settings
from sluicegate.rights import KafkaRight, Role, account, kafka_rights, redis_users
from sluicegate.settings import Settings

Format = Literal["kafka", "strimzi", "redis", "json"]


def rights(
    *, format: Format = "json", strimzi_cluster: str = "kafka", mtls: bool = False, config: Path | None = None
) -> int:
    """Print who may do what in Kafka and in Redis: each role with the least that its work needs.

    Parameters
    ----------
    format
        What to print: calls of kafka-acls.sh, KafkaUser resources for Strimzi, Redis's ACL file, or JSON.
    strimzi_cluster
        Name of the Kafka resource that the Strimzi resources belong to.
    mtls
        For Kafka and Strimzi: the users are certificates' (`CN=NAME`), not SCRAM's.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    write: dict[Format, Callable[[], Iterator[str]]] = {
        "kafka": lambda: as_kafka_acls(settings, mtls=mtls),
        "strimzi": lambda: as_strimzi(settings, strimzi_cluster, mtls=mtls),
        "redis": lambda: as_redis_acl(settings),
        "json": lambda: as_json(settings),
    }
    sys.stdout.write("".join(f"{line}\n" for line in write[format]()))
    return 0


def as_kafka_acls(settings: Settings, *, mtls: bool = False) -> Iterator[str]:
    """Write a shell script that grants the rights; to grant them again changes nothing."""
    yield "#!/bin/sh"
    yield "# Made by `sluicegate rights --format kafka`. BOOTSTRAP names the brokers, ADMIN a file of client"
    yield "# settings for an account that may alter ACLs, KAFKA_ACLS Kafka's own program."
    yield "set -eu"
    yield 'grant() { "${KAFKA_ACLS:-kafka-acls.sh}" --bootstrap-server "$BOOTSTRAP" \\'
    yield '    --command-config "$ADMIN" --add "$@"; }'
    for right in kafka_rights(settings):
        operations = " ".join(f"--operation {operation}" for operation in right.operations)
        pattern = "prefixed" if right.is_prefix else "literal"
        yield (
            f"grant --allow-principal {shlex.quote(principal(settings, right.role, mtls=mtls))} {operations}"
            f" --{right.resource} {shlex.quote(right.name)} --resource-pattern-type {pattern}"
        )


def principal(settings: Settings, role: Role, *, mtls: bool = False) -> str:
    """Name the role's account as Kafka's ACLs do; a certificate's has nothing but its common name."""
    return f"User:CN={account(settings, role)}" if mtls else f"User:{account(settings, role)}"


def as_strimzi(settings: Settings, cluster: str, *, mtls: bool = False) -> Iterator[str]:
    """Write a KafkaUser for each role; Strimzi makes its password or certificate as a secret of its name."""
    granted = kafka_rights(settings)
    for role in dict.fromkeys(right.role for right in granted):
        yield "---"
        yield "apiVersion: kafka.strimzi.io/v1"
        yield "kind: KafkaUser"
        yield "metadata:"
        yield f"  name: {_quoted(account(settings, role))}"
        yield "  labels:"
        yield f"    strimzi.io/cluster: {_quoted(cluster)}"
        yield "spec:"
        yield "  authentication:"
        yield f"    type: {'tls' if mtls else 'scram-sha-512'}"
        yield "  authorization:"
        yield "    type: simple"
        yield "    acls:"
        for right in granted:
            if right.role is role:
                yield from _strimzi_acl(right)


def _strimzi_acl(right: KafkaRight) -> Iterator[str]:
    yield "      - resource:"
    yield f"          type: {right.resource}"
    yield f"          name: {_quoted(right.name)}"
    yield f"          patternType: {'prefix' if right.is_prefix else 'literal'}"
    yield f"        operations: [{', '.join(right.operations)}]"


def as_redis_acl(settings: Settings) -> Iterator[str]:
    """Write the lines of an `aclfile`; each password is a SHA-256 that is still to be put in.

    Redis refuses to load the file as it stands, so nobody runs with a password from a repository.
    """
    yield "user default off resetpass resetkeys -@all"
    for user in redis_users(settings):
        name = account(settings, user.role)
        keys = " ".join(("resetkeys", *(f"~{pattern}" for pattern in user.keys)))
        commands = " ".join(f"+{command}" for command in user.commands)
        yield f"user {name} on #SHA256_OF_{user.role.upper()}_PASSWORD resetchannels {keys} -@all {commands}"


def as_json(settings: Settings) -> Iterator[str]:
    """Write everything as one JSON object."""
    yield orjson.dumps(
        {
            "accounts": {role.value: account(settings, role) for role in Role},
            "kafka": list(kafka_rights(settings)),
            "redis": list(redis_users(settings)),
        },
        option=orjson.OPT_INDENT_2,
    ).decode()


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()
