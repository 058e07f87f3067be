"""The rights we ship: each role's least, in step with the topics, the scripts and the committed files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluicegate.cli.rights import as_kafka_acls, as_redis_acl, as_strimzi
from sluicegate.rights import Resource, Role, account, kafka_rights, redis_users
from sluicegate.settings import load_settings
from sluicegate.topics import topic_table

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "rights"
SETTINGS = load_settings(None, {})
_CALLED = re.compile(r"redis\.call\(\s*'([A-Z]+)'")


def called_in(folder: str) -> set[str]:
    """Return the commands that the scripts of a package call."""
    texts = [path.read_text() for path in (ROOT / "sluicegate" / folder).rglob("*.lua")]
    return {command.lower() for text in texts for command in _CALLED.findall(text)}


def commands_of(role: Role) -> set[str]:
    """Return the commands that a role's user may run."""
    (user,) = (user for user in redis_users(SETTINGS) if user.role is role)
    return set(user.commands)


def test_a_redis_user_may_run_what_the_scripts_call_and_no_more() -> None:
    """A script that calls another command needs it granted; one that is called no more is taken back."""
    enter = {"hello", "ping", "select", "info", "time", "eval", "evalsha"}
    limiter, state = called_in("limiter"), called_in("state")
    assert commands_of(Role.CALLER) == enter | limiter
    assert commands_of(Role.WORKER) == enter | limiter | state
    assert commands_of(Role.OPERATOR) == commands_of(Role.WORKER) | {"getdel", "scan", "zrange"}
    assert commands_of(Role.RELAY) == {"hello", "ping", "select", "time"}


def test_no_user_may_change_the_server_or_empty_it() -> None:
    """None of the commands that stolen credentials would be used for."""
    for user in redis_users(SETTINGS):
        assert not {"flushall", "flushdb", "config", "keys", "acl", "shutdown", "debug"} & set(user.commands)
        assert "*" not in user.keys


def test_each_topic_has_writers_and_readers_with_rights() -> None:
    """Who the topic table says writes or reads a topic is granted just that."""
    rights = {
        (right.name, right.role): right.operations
        for right in kafka_rights(SETTINGS)
        if right.resource is Resource.TOPIC
    }
    for spec in topic_table(SETTINGS):
        assert ("worker" in spec.writers) == ("Write" in rights.get((spec.name, Role.WORKER), ()))
        assert ("worker" in spec.readers) == ("Read" in rights.get((spec.name, Role.WORKER), ()))
        assert ("relay" in spec.writers) == ("Write" in rights[spec.name, Role.RELAY])
        assert ("relay" in spec.readers) == ("Read" in rights[spec.name, Role.RELAY])
        assert "Read" not in rights.get((spec.name, Role.PUBLISHER), ())
        assert "Write" not in rights.get((spec.name, Role.READER), ())
    assert not any("Delete" in right.operations for right in kafka_rights(SETTINGS))


@pytest.mark.parametrize("role", Role)
def test_each_role_has_an_account_of_its_deployment(role: Role) -> None:
    """Two deployments on one cluster never share an account."""
    other = load_settings(None, {"SLUICEGATE_KAFKA__GROUP": "other"})
    assert account(SETTINGS, role) != account(other, role)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("kafka-acls.sh", lambda: as_kafka_acls(SETTINGS)),
        ("kafka-users.yaml", lambda: as_strimzi(SETTINGS, "kafka")),
        ("redis-users.acl", lambda: as_redis_acl(SETTINGS)),
    ],
)
def test_the_shipped_files_are_what_the_command_prints(name: str, lines: object) -> None:
    """`make rights` writes them anew after a change."""
    assert callable(lines)
    assert (SHIPPED / name).read_text() == "".join(f"{line}\n" for line in lines())
