"""Kafka and Redis with every door locked, and accounts that have exactly the rights we ship."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType
from confluent_kafka.admin._resource import ResourceType as KafkaResource
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from sluicegate.cli.rights import as_redis_acl
from sluicegate.rights import KafkaRight, Role, account, kafka_rights
from sluicegate.settings import Settings, load_settings
from tests.fixtures.certificates import Authority, Pair
from tests.fixtures.kafka_jars import Doors, JarKafka
from tests.fixtures.secure_redis import SecureRedis

_TIMEOUT_S = 20.0


def password_of(role: Role) -> str:
    """Return the password that a role has in Kafka and Redis; a canary, too."""
    return f"canary-password-of-{role}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One way into Kafka. `address` is what to set as `bootstrap_servers`."""

    name: str
    address: str


class SecureKafka:
    """One broker with a SCRAM and an mTLS listener, shared by the tests; each grants rights of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = Authority(folder)
        keys = folder / "broker-keys.pem"
        pair = self.authority.server("broker")
        keys.write_text(pair.key.read_text() + pair.certificate.read_text())
        self._broker = JarKafka(Doors(keys=keys, authorities=self.authority.certificate))
        self._pairs: dict[str, Pair] = {}
        self.scram = Door(name="scram", address=f"127.0.0.1:{self._broker.sasl_port}")
        self.mtls = Door(name="mtls", address=f"127.0.0.1:{self._broker.tls_port}")

    @property
    def address(self) -> str:
        """The door without a lock, for the test itself."""
        return self._broker.address

    @property
    def admin(self) -> AdminClient:
        """Return a client that may do everything."""
        return AdminClient({"bootstrap.servers": self.address})

    def __enter__(self) -> Self:
        self._broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broker.__exit__(kind, error, trace)

    def settings_of(self, name: str, role: Role, door: Door) -> dict[str, Any]:
        """Return the keys of `[kafka]` with which the account comes in; makes its files."""
        keys = {"bootstrap_servers": door.address, "ca_file": str(self.authority.certificate)}
        if door is self.scram:
            return {
                **keys,
                "security_protocol": "SASL_SSL",
                "sasl_username": name,
                "sasl_password_file": str(self.password_file(role)),
            }
        pair = self.certificate_of(name)
        files = {"certificate_file": str(pair.certificate), "key_file": str(pair.key)}
        return {**keys, "security_protocol": "SSL", **files}

    def password_file(self, role: Role) -> Path:
        """Return a file with the role's password, as an editor leaves it."""
        path = self._folder / f"password-of-{role}"
        path.write_text(f"{password_of(role)}\n")
        return path

    def certificate_of(self, name: str) -> Pair:
        """Return the client certificate of an account."""
        if name not in self._pairs:
            self._pairs[name] = self.authority.client(name)
        return self._pairs[name]

    def let_in(self, settings: Settings) -> None:
        """Make the deployment's SCRAM users, and grant every role its rights, as certificate and as user."""
        users: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(
                account(settings, role),
                ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096),
                password_of(role).encode(),
            )
            for role in Role
        ]
        admin = self.admin  # it must live until the answers are here
        _all_done(admin.alter_user_scram_credentials(users))
        bindings = [binding for right in kafka_rights(settings) for binding in _bindings(settings, right)]
        _all_done(admin.create_acls(bindings))

    def take_away(self, settings: Settings, right: KafkaRight) -> None:
        """Take one right away again."""
        filters = [
            AclBindingFilter(
                each.restype,
                each.name,
                each.resource_pattern_type,
                each.principal,
                each.host,
                each.operation,
                each.permission_type,
            )
            for each in _bindings(settings, right)
        ]
        admin = self.admin
        _all_done(admin.delete_acls(filters))


def _bindings(settings: Settings, right: KafkaRight) -> Iterable[AclBinding]:
    name = account(settings, right.role)
    for principal in (f"User:{name}", f"User:CN={name}"):
        for operation in right.operations:
            yield AclBinding(
                KafkaResource[right.resource.upper()],
                right.name,
                ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL,
                principal,
                "*",
                AclOperation[_UNDERSCORED.get(operation, operation.upper())],
                AclPermissionType.ALLOW,
            )


_UNDERSCORED = {"DescribeConfigs": "DESCRIBE_CONFIGS"}


def _all_done(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result(_TIMEOUT_S)


def redis_lines(settings: Settings) -> list[str]:
    """Return the shipped ACL file with the passwords put in, as its reader is told to."""
    lines = []
    for line in as_redis_acl(settings):
        text = line
        for role in Role:
            digest = hashlib.sha256(password_of(role).encode()).hexdigest()
            text = text.replace(f"#SHA256_OF_{role.upper()}_PASSWORD", f"#{digest}")
        lines.append(text)
    return lines


def redis_keys(redis: SecureRedis, kafka: SecureKafka, settings: Settings, role: Role) -> dict[str, str]:
    """Return the keys of `[redis]` with which the role comes in."""
    pair = kafka.certificate_of(account(settings, role))
    return {
        "url": redis.url,
        "username": account(settings, role),
        "password_file": str(kafka.password_file(role)),
        "ca_file": str(kafka.authority.certificate),
        "certificate_file": str(pair.certificate),
        "key_file": str(pair.key),
    }


def environment(section: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Write keys of a section as the environment has them."""
    return {f"SLUICEGATE_{section.upper()}__{key.upper()}": value for key, value in keys.items()}


class SecureDeploymentPlan:
    """What a deployment behind locked doors is told: its Redis, and who each process is."""

    def __init__(self, kafka: SecureKafka, prefix: str, folder: Path) -> None:
        self.kafka = kafka
        topics = {
            f"SLUICEGATE_STREAMS__{stream.upper().replace('-', '_')}__{key}": f"{prefix}.{stream}{end}"
            for stream in ("support-chat", "documents")
            for key, end in (("TOPIC", ""), ("RESULTS_TOPIC", ".results"))
        }
        self.settings = load_settings(None, {**topics, "SLUICEGATE_KAFKA__GROUP": f"{prefix}-group"})
        self.redis = SecureRedis(folder, kafka.authority, redis_lines(self.settings))
        kafka.let_in(self.settings)

    def name(self, role: Role) -> str:
        """Name the role's account."""
        return account(self.settings, role)

    def environment(self, role: Role, door: Door) -> dict[str, str]:
        """Return the environment that makes a process the role, and lets it in by that door."""
        return {
            **environment("kafka", self.kafka.settings_of(self.name(role), role, door)),
            **environment("redis", redis_keys(self.redis, self.kafka, self.settings, role)),
        }

    def environments(self) -> dict[str, dict[str, str]]:
        """Return the environment of each process; between them both kinds of client use both doors."""
        scram, mtls = self.kafka.scram, self.kafka.mtls
        return {
            "worker support-chat": self.environment(Role.WORKER, scram),
            "worker documents": self.environment(Role.WORKER, mtls),
            "relay": self.environment(Role.RELAY, scram),
        }
