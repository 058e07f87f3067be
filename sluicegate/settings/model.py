"""The settings as frozen, strict models: what is written here is all there is to configure.

Values are strict (a quoted number is no number), sections refuse keys they do not know, and nothing
that may hold a credential shows in a repr. Docstrings and descriptions are the text of docs/settings.md,
which `make pages` writes; `sluicegate.settings.catalogue` says how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, PrivateAttr, field_validator, model_validator
from pydantic.fields import FieldInfo

from sluicegate.errors import ConfigurationError
from sluicegate.limiter.api import Lane, Learn
from sluicegate.limiter.profiles import Profile
from sluicegate.settings.nearest import hint
from sluicegate.settings.routes import Route, read_fallback
from sluicegate.settings.section import OptionalFile, PositiveSeconds, Section
from sluicegate.settings.servers import KafkaSettings, RedisSettings
from sluicegate.settings.texts import checked_topic_name, split_url

_AGENT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)
_LIMIT_KEYS = (
    "requests_per_minute",
    "tokens_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "requests_per_day",
    "tokens_per_day",
    "dollars_per_day",
    "concurrency",
)
_LANES = {"interactive": Lane.INTERACTIVE, "bulk": Lane.BULK}

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ProviderFormat(StrEnum):
    """The wire format that a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class TopicsSettings(Section):
    """`[topics]`: what new topics look like.

    They count when a topic is made; `sluicegate topics --check` compares, and docs/operations.md#topics
    lists all.
    """

    partitions: int = Field(
        default=12, ge=1, description="of each topic that `topics --create` makes (the audit topic has one)"
    )
    replication_factor: int = Field(
        default=-1, ge=-1, description="copies of each partition; -1 is the broker's default, 0 is refused"
    )
    retry_retention_s: int = Field(
        default=2_592_000, ge=1, description="how long tiers and `due` keep a record; not below `horizon_s`"
    )
    dlq_retention_s: int = Field(
        default=2_592_000,
        ge=1,
        description="how long dead letters and audit records are kept, and in Redis the paid steps of the "
        "dead",
    )

    @field_validator("replication_factor")
    @classmethod
    def _copies(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be -1 (the broker's default) or at least 1")
        return value


class ProviderSettings(Section):
    """`[providers.NAME]`: one account at one LLM provider.

    The provider `main` exists without a section, at `http://127.0.0.1:8089/v1`.
    """

    format: ProviderFormat = Field(
        default=ProviderFormat.OPENAI,
        strict=False,
        description="wire format: chat completions (openai) or messages (anthropic)",
    )
    base_url: str = Field(
        description="http:// or https:// address with the version part, without the endpoint; no "
        "credential in it",
    )
    api_key_file: OptionalFile = Field(
        default=None,
        description="file that holds the API key; read again when it changes, so keys rotate without a "
        "restart",
    )
    profile: Profile = Field(
        default=Profile.OPENAI,
        strict=False,
        description="how tokens are charged, see docs/limits.md#what-a-call-costs; by default as `format`",
    )
    timeout_s: PositiveSeconds = Field(
        default=60.0, description="for one whole call, from the first byte sent to the last one read"
    )

    @model_validator(mode="before")
    @classmethod
    def _profile_follows_format(cls, data: Any) -> Any:
        if isinstance(data, dict) and "profile" not in data and "format" in data:
            return {**data, "profile": data["format"]}
        return data

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        parts = split_url(value)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("must hold neither a credential nor a query: keys come from api_key_file")
        return value.rstrip("/")


class LimitSettings(Section):
    """`[limits.NAME]`: what all processes together may use of one provider, or of one model.

    `[limits.PROVIDER]` is for all models of a provider, `[limits."PROVIDER/MODEL"]` for one; the most
    specific section applies alone. Without a section a provider is unlimited until it answers 429. At least
    one of the first eight is needed; docs/limits.md#what-a-section-may-limit explains each.
    """

    requests_per_minute: Rate | None = Field(default=None, description="calls started")
    tokens_per_minute: Rate | None = Field(default=None, description="tokens, as the provider charges them")
    input_tokens_per_minute: Rate | None = Field(
        default=None, description="tokens of prompts, as the provider charges them"
    )
    output_tokens_per_minute: Rate | None = Field(default=None, description="tokens of answers, as produced")
    requests_per_day: Rate | None = Field(default=None, description="calls started in 24 hours")
    tokens_per_day: Rate | None = Field(
        default=None, description="tokens in 24 hours, as the provider charges them"
    )
    dollars_per_day: Rate | None = Field(
        default=None, description="cost in 24 hours; no worker starts while a model's price is unknown"
    )
    concurrency: int | None = Field(default=None, ge=1, description="calls on the wire at once")
    burst_s: Seconds = Field(
        default=0.05,
        description="how far ahead of an even pace calls may go, in seconds of the limit's rate; at least "
        "one request and the largest call may",
    )
    strict_window_s: Seconds = Field(
        default=0.0, description="no window of this length holds more than the limit; 0 is off"
    )
    largest_call_tokens: int | None = Field(
        default=None,
        ge=1,
        description="the largest call expected; only with `strict_window_s`; by default the largest seen",
    )
    learn: Learn = Field(
        default=Learn.FOLLOW,
        strict=False,
        description="what the provider's rate-limit headers may do to the limits: move them both ways "
        "(follow), only down (lower), nothing (off)",
    )

    @model_validator(mode="after")
    def _says_something(self) -> LimitSettings:
        if all(getattr(self, key) is None for key in _LIMIT_KEYS):
            raise ValueError(f"sets no limit: give at least one of {', '.join(_LIMIT_KEYS)}")
        if self.largest_call_tokens is not None and self.strict_window_s == 0:
            raise ValueError("largest_call_tokens has no effect without strict_window_s")
        return self


class LimiterSettings(Section):
    """`[limiter]`: how waiting calls share the quota, see docs/limits.md#lanes-and-tenants."""

    bulk_share: float = Field(
        default=0.1, ge=0, lt=1, description="part that bulk work is sure of while interactive work waits"
    )


class StreamSettings(Section):
    """`[streams.NAME]`: one kind of event, its handler and its limits.

    The shipped streams need no section: `support-chat` (`streams.support_chat:reply`, ordered) and
    `documents` (`streams.documents:index`, lane bulk), both on the provider `main` with `gpt-4o-mini`. A
    section of that name changes only the keys it has.
    """

    agent: str = Field(description="the handler, as `package.module:function`, see docs/handlers.md")
    provider: str = Field(description="name of the `[providers.NAME]` section to call")
    model: str = Field(min_length=1, description="the provider's name of the model")
    fallback: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="where calls go, in order, when the own provider cannot take them: `PROVIDER` (same "
        "model) or `PROVIDER/MODEL`",
    )
    fallback_after_s: Seconds = Field(
        default=5.0, description="wait for a provider above which the next one is asked"
    )
    lane: Lane = Field(default=Lane.INTERACTIVE, strict=False, description="priority class of its calls")
    ordered: bool = Field(
        default=False,
        description="whether events of one key run one after the other, in the order of publishing",
    )
    max_running: int = Field(
        default=200,
        ge=1,
        description="events at work in one worker; a quarter of the slots is kept for `due`",
    )
    max_attempts: int = Field(
        default=8,
        ge=1,
        description="failed calls (5xx, time-outs, malformed answers) after which an event is a dead letter",
    )
    deadline_s: PositiveSeconds = Field(
        default=86_400.0,
        description="from the first refused or failed call to the last retry; looked at after each such call",
    )
    expires_after_s: Seconds = Field(
        default=0.0, description="from `ce_time`; after that an answer is of no use; 0 is never"
    )
    max_output_tokens: int = Field(default=512, ge=1, description="longest answer asked for")
    chunk_tokens: int = Field(
        default=1000, ge=1, description="largest piece of a document; 4 characters are taken for a token"
    )
    max_event_bytes: int = Field(
        default=900_000,
        ge=1,
        le=64 * 1024 * 1024,
        description="largest value of an event; larger ones are dead letters",
    )
    topic: str | None = Field(default=None, description="the input topic; by default the stream's name")
    results_topic: str | None = Field(
        default=None, description="the topic of results; by default the stream's name with `.results`"
    )

    @field_validator("lane", mode="before")
    @classmethod
    def _lane(cls, value: Any) -> Any:
        if isinstance(value, Lane):
            return value
        if not isinstance(value, str) or value not in _LANES:
            raise ValueError("must be 'interactive' or 'bulk'")
        return _LANES[value]

    @field_validator("agent")
    @classmethod
    def _agent(cls, value: str) -> str:
        if not _AGENT.fullmatch(value):
            raise ValueError("must look like package.module:function")
        return value

    @field_validator("topic", "results_topic")
    @classmethod
    def _topic(cls, value: str | None) -> str | None:
        return value if value is None else checked_topic_name(value)


class RetrySettings(Section):
    """`[retry]`: how long an event waits before it is tried again, and where."""

    in_place_max_s: Seconds = Field(
        default=5.0,
        description="from a delivery's first refused or failed call; so long it is retried without parking",
    )
    base_s: PositiveSeconds = Field(
        default=1.0, description="ceiling of the first backoff; it doubles with each attempt"
    )
    cap_s: PositiveSeconds = Field(
        default=3600.0, description="ceiling of every backoff; from `base_s` to `horizon_s`"
    )
    tiers_s: tuple[PositiveSeconds, ...] = Field(
        default=(5.0, 30.0, 120.0, 600.0, 3600.0),
        strict=False,
        min_length=1,
        max_length=20,
        description="upper bounds of the delay tiers, ascending: one topic each; longer waits go round in "
        "the last",
    )
    horizon_s: PositiveSeconds = Field(default=604_800.0, description="longest wait that is believed")

    @model_validator(mode="after")
    def _agree(self) -> RetrySettings:
        if any(low >= high for low, high in zip(self.tiers_s, self.tiers_s[1:], strict=False)):
            raise ValueError("tiers_s must ascend")
        if self.base_s > self.cap_s:
            raise ValueError("base_s must not be above cap_s")
        if self.cap_s > self.horizon_s:
            raise ValueError("cap_s must not be above horizon_s")
        return self


class ReplaySettings(Section):
    """`[replay]`: what operators may send back, see docs/replay.md."""

    max_replays: int = Field(
        default=5, ge=1, description="how often one event may be sent back; more is refused"
    )


class PriceSettings(Section):
    """`[prices.NAME]`: what a model costs, for `dollars_per_day` and the plans of replays.

    NAME is `"PROVIDER/MODEL"`. Without a section the price is that of the installed table, see
    docs/limits.md#prices.
    """

    input_dollars_per_million: Dollars = Field(description="price of what goes in")
    output_dollars_per_million: Dollars = Field(description="price of what comes out")


class HttpSettings(Section):
    """`[http]`: where health and metrics are served.

    A taken port is one warning, and the process takes a free one and logs it (`health.listening`). If the
    environment set the port, it is an error.
    """

    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; `0.0.0.0` in a container"
    )
    port: int = Field(default=9464, ge=0, le=65_535, description="port to listen on; 0 takes a free one")


class WorkerSettings(Section):
    """`[worker]`: how a worker stops."""

    drain_s: Seconds = Field(
        default=20.0, le=300, description="time that running events get to finish after SIGTERM"
    )


class Settings(Section):
    """All settings of one process, checked against each other."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    redis: RedisSettings = RedisSettings()
    providers: dict[str, ProviderSettings]
    limits: dict[str, LimitSettings] = Field(default_factory=dict)
    limiter: LimiterSettings = LimiterSettings()
    streams: dict[str, StreamSettings]
    retry: RetrySettings = RetrySettings()
    replay: ReplaySettings = ReplaySettings()
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    http: HttpSettings = HttpSettings()
    worker: WorkerSettings = WorkerSettings()

    _from_environment: frozenset[str] = PrivateAttr(default=frozenset())

    @property
    def http_port_from_environment(self) -> bool:
        """Whether the environment named the port: then a taken one is an error, not a warning."""
        return "http.port" in self._from_environment

    def with_environment_paths(self, paths: frozenset[str]) -> Settings:
        """Return the same settings, knowing which keys (`http.port`) the environment set."""
        copy = self.model_copy()
        copy._from_environment = paths
        return copy

    def stream(self, name: str) -> StreamSettings:
        """Return the named stream's settings; ConfigurationError names the nearest when there is none."""
        try:
            return self.streams[name]
        except KeyError:
            raise ConfigurationError(f"there is no such stream{hint(name, self.streams)}") from None

    def scope_for(self, provider: str, model: str) -> str:
        """Name the limits section that applies alone to the model, or the provider where there is none."""
        specific = f"{provider}/{model}"
        return specific if specific in self.limits else provider

    def limits_for(self, provider: str, model: str) -> LimitSettings | None:
        """Return the most specific limits of the model; None means unlimited until the provider objects."""
        return self.limits.get(self.scope_for(provider, model))

    def routes(self, name: str) -> tuple[Route, ...]:
        """Return the ways that the named stream's calls may take: its own first, then its fallbacks."""
        own = self.stream(name)
        return self.routes_of(own.provider, own.model, own.fallback)

    def routes_of(self, provider: str, model: str, fallback: Sequence[str]) -> tuple[Route, ...]:
        """Return the ways of calls to that provider and model, then those of `fallback`, as in a stream."""
        ways = [(provider, model), *(read_fallback(text, model) for text in fallback)]
        return tuple(
            Route(provider=provider, model=model, scope=self.scope_for(provider, model))
            for provider, model in ways
        )


def section_fields(section: str) -> Mapping[str, FieldInfo]:
    """Return the keys of `[section]`, or of `[section.NAME]`; none for a section that is unknown."""
    field = Settings.model_fields.get(section)
    annotation = field.annotation if field else None
    model = (get_args(annotation) or (annotation,))[-1]
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
