"""`[kafka]` and `[redis]`: the servers that everything rests on, and how they let us in."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator

from sluicegate.settings.section import OptionalFile, PositiveSeconds, TlsFiles
from sluicegate.settings.texts import checked_topic_name, split_url


class SecurityProtocol(StrEnum):
    """How a connection to Kafka is protected, by Kafka's own names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted and the broker proves who it is."""
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        """Whether we log in with a name and a password."""
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class SaslMechanism(StrEnum):
    """How a password is proved to Kafka. PLAIN hands it over; the others never do."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class KafkaSettings(TlsFiles):
    """`[kafka]`: where the brokers are, how they let us in, and under which name we work.

    The brokers' certificates and names are always checked. The files are read at the start, see
    docs/security.md#rotating-secrets.
    """

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="brokers to start from: `host:port`, with commas between"
    )
    group: str = Field(
        default="sluicegate",
        description="prefix of consumer groups, internal topics and the Redis keys of events, but not of "
        "limits",
    )
    session_timeout_s: PositiveSeconds = Field(
        default=6.0,
        description="time without a heartbeat after which a dead worker's partitions move to others",
    )
    instance_id: str | None = Field(
        default=None,
        description="this worker's own lasting name in its group, see docs/deploy.md#static-membership: "
        "back within `session_timeout_s` it gets its partitions again and the others notice "
        "nothing",
    )
    security_protocol: SecurityProtocol = Field(
        default=SecurityProtocol.PLAINTEXT,
        strict=False,
        description="that of the brokers' listener",
    )
    sasl_mechanism: SaslMechanism = Field(
        default=SaslMechanism.SCRAM_SHA_512,
        strict=False,
        description="with SASL: how the password is proved; PLAIN only inside TLS",
    )
    sasl_username: str | None = Field(default=None, min_length=1, description="with SASL: our user")
    sasl_password_file: OptionalFile = Field(
        default=None, description="with SASL: file with that user's password"
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        addresses = [part.strip() for part in value.split(",")]
        if not all(addresses) or any("/" in part or " " in part or "@" in part for part in addresses):
            raise ValueError("must be host:port, several with commas between, without a scheme")
        return ",".join(addresses)

    @field_validator("group")
    @classmethod
    def _group(cls, value: str) -> str:
        return checked_topic_name(value)

    @model_validator(mode="after")
    def _lets_us_in(self) -> KafkaSettings:
        protocol, login = self.security_protocol, (self.sasl_username, self.sasl_password_file)
        if protocol.has_sasl and None in login:
            raise ValueError(f"security_protocol {protocol} needs sasl_username and sasl_password_file")
        if not protocol.has_sasl and login != (None, None):
            raise ValueError(
                "sasl_username and sasl_password_file need security_protocol SASL_SSL or SASL_PLAINTEXT"
            )
        if protocol is SecurityProtocol.SASL_PLAINTEXT and self.sasl_mechanism is SaslMechanism.PLAIN:
            raise ValueError("sasl_mechanism PLAIN sends the password unencrypted: take SASL_SSL or SCRAM")
        if self.names_tls_files and not protocol.has_tls:
            raise ValueError("ca_file and certificate_file need security_protocol SSL or SASL_SSL")
        return self

    @field_validator("instance_id")
    @classmethod
    def _instance_id(cls, value: str | None) -> str | None:
        return value if value is None else checked_topic_name(value)  # Kafka's rule for both is one


class RedisSettings(TlsFiles):
    """`[redis]`: where the shared state is, and how it lets us in.

    Redis's certificate and the name in it are always checked; `ssl_` options in the URL are refused.
    """

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,
        description="`redis://`, `rediss://` (TLS) or `unix://` address; may hold user and password",
    )
    username: str | None = Field(
        default=None, min_length=1, description="our ACL user; by default Redis's `default`"
    )
    password_file: OptionalFile = Field(
        default=None, description="file with that user's password; read again for every new connection"
    )

    @field_validator("url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        parts = split_url(value)
        if parts is None or parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must be an address like redis://host:6379/0")
        if parts.scheme != "unix" and not parts.hostname:
            raise ValueError("must name a host")
        return value

    @model_validator(mode="after")
    def _lets_us_in(self) -> RedisSettings:
        parts = urlsplit(self.url)
        if self.username is not None and self.password_file is None:
            raise ValueError("username needs password_file")
        if self.password_file is not None and "@" in parts.netloc:
            raise ValueError("url holds a user or password already: take it out, or password_file")
        if "ssl_" in parts.query:
            raise ValueError("url must hold no ssl_ options: write ca_file, certificate_file and key_file")
        if self.names_tls_files and parts.scheme != "rediss":
            raise ValueError("ca_file and certificate_file need a rediss:// url")
        return self

    @property
    def public_url(self) -> str:
        """The address without user, password and options: fit for logs and screens."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
