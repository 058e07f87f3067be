"""The settings as frozen, strict models: what is written here is all there is to configure.

Values are strict (a quoted number is no number), sections refuse keys they do not know, and nothing
that may hold a credential shows in a repr.
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
    """`[topics]`: what new topics look like."""

    partitions: int = Field(
        default=12, ge=1, description="partitions of every topic made but the audit's (count)"
    )
    replication_factor: int = Field(
        default=-1, ge=-1, description="copies of each partition (count); -1 is the broker's default"
    )
    retry_retention_s: int = Field(
        default=2_592_000, ge=1, description="seconds that retry tiers and `due` keep a record"
    )
    dlq_retention_s: int = Field(
        default=2_592_000, ge=1, description="seconds that dead letters and audit records are kept"
    )

    @field_validator("replication_factor")
    @classmethod
    def _copies(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be -1 (the broker's default) or at least 1")
        return value


class ProviderSettings(Section):
    """`[providers.NAME]`: one account at one LLM provider."""

    format: ProviderFormat = Field(
        default=ProviderFormat.OPENAI, strict=False, description="wire format: openai or anthropic"
    )
    base_url: str = Field(description="http(s) address with the version part, without the endpoint")
    api_key_file: OptionalFile = Field(
        default=None, description="file that holds the API key; read again when it changes"
    )
    profile: Profile = Field(
        default=Profile.OPENAI,
        strict=False,
        description="what is charged: openai, azure, anthropic or generic; by default as the format",
    )
    timeout_s: PositiveSeconds = Field(default=60.0, description="seconds that one whole call may take")

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
    """`[limits.PROVIDER]` or `[limits."PROVIDER/MODEL"]`: what may be used; the most exact one counts."""

    requests_per_minute: Rate | None = Field(default=None, description="calls per minute")
    tokens_per_minute: Rate | None = Field(default=None, description="tokens per minute, as charged")
    input_tokens_per_minute: Rate | None = Field(
        default=None, description="tokens of prompts per minute, as charged"
    )
    output_tokens_per_minute: Rate | None = Field(
        default=None, description="tokens of answers per minute, as produced"
    )
    requests_per_day: Rate | None = Field(default=None, description="calls per day")
    tokens_per_day: Rate | None = Field(default=None, description="tokens per day, as charged")
    dollars_per_day: Rate | None = Field(
        default=None, description="dollars per day; every model that is called needs a known price"
    )
    concurrency: int | None = Field(default=None, ge=1, description="calls on the wire at once (count)")
    burst_s: Seconds = Field(
        default=0.05,
        description="how far ahead of an even pace calls may go, in seconds of the limit's rate "
        "(at least one request and the largest call)",
    )
    strict_window_s: Seconds = Field(
        default=0.0,
        description="seconds; in no window of this length is more than the limit used; 0 is off",
    )
    largest_call_tokens: int | None = Field(
        default=None,
        ge=1,
        description="largest call expected (tokens), for strict_window_s; by default the largest seen",
    )
    learn: Learn = Field(
        default=Learn.FOLLOW,
        strict=False,
        description="what the provider's headers may do to the limit: follow, lower or off",
    )

    @model_validator(mode="after")
    def _says_something(self) -> LimitSettings:
        if all(getattr(self, key) is None for key in _LIMIT_KEYS):
            raise ValueError(f"sets no limit: give at least one of {', '.join(_LIMIT_KEYS)}")
        if self.largest_call_tokens is not None and self.strict_window_s == 0:
            raise ValueError("largest_call_tokens has no effect without strict_window_s")
        return self


class LimiterSettings(Section):
    """`[limiter]`: how waiting calls share the quota."""

    bulk_share: float = Field(
        default=0.1, ge=0, lt=1, description="part of the quota that bulk work is sure of (0 to 1)"
    )


class StreamSettings(Section):
    """`[streams.NAME]`: one kind of event, its handler and its limits."""

    agent: str = Field(description="the handler, as `package.module:function`")
    provider: str = Field(description="name of the [providers.*] section to call")
    model: str = Field(min_length=1, description="the provider's name of the model")
    fallback: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="where calls go when the own provider cannot take them: PROVIDER or PROVIDER/MODEL",
    )
    fallback_after_s: Seconds = Field(
        default=5.0, description="wait for the own provider (seconds) above which the next one is asked"
    )
    lane: Lane = Field(
        default=Lane.INTERACTIVE, strict=False, description="priority class: interactive or bulk"
    )
    ordered: bool = Field(default=False, description="whether events of one key run one after the other")
    max_running: int = Field(default=200, ge=1, description="events at work in one worker (count)")
    max_attempts: int = Field(
        default=8, ge=1, description="calls that may fail before the event ends (count)"
    )
    deadline_s: PositiveSeconds = Field(
        default=86_400.0, description="seconds from the first refused or failed call to the last retry"
    )
    expires_after_s: Seconds = Field(
        default=0.0, description="seconds from ce_time after which an answer is of no use; 0 is never"
    )
    max_output_tokens: int = Field(default=512, ge=1, description="longest answer asked for (tokens)")
    chunk_tokens: int = Field(default=1000, ge=1, description="largest piece of a document (tokens)")
    max_event_bytes: int = Field(
        default=900_000, ge=1, le=64 * 1024 * 1024, description="largest value of an event (bytes)"
    )
    topic: str | None = Field(default=None, description="input topic; by default the stream's name")
    results_topic: str | None = Field(
        default=None, description="topic of the results; by default the stream's name with `.results`"
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
        default=5.0, description="seconds from a delivery's first refused call in which retries stay in place"
    )
    base_s: PositiveSeconds = Field(default=1.0, description="ceiling of the first backoff (seconds)")
    cap_s: PositiveSeconds = Field(default=3600.0, description="ceiling of every backoff (seconds)")
    tiers_s: tuple[PositiveSeconds, ...] = Field(
        default=(5.0, 30.0, 120.0, 600.0, 3600.0),
        strict=False,
        min_length=1,
        max_length=20,
        description="upper bounds of the delay tiers, ascending (seconds)",
    )
    horizon_s: PositiveSeconds = Field(default=604_800.0, description="longest wait allowed (seconds)")

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
    """`[replay]`: what operators may send back."""

    max_replays: int = Field(
        default=5, ge=1, description="how often one event may be replayed (count); more is refused"
    )


class PriceSettings(Section):
    """`[prices."PROVIDER/MODEL"]`: what a model costs."""

    input_dollars_per_million: Dollars = Field(description="dollars per million input tokens")
    output_dollars_per_million: Dollars = Field(description="dollars per million output tokens")


class HttpSettings(Section):
    """`[http]`: where health and metrics are served."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=9464, ge=0, le=65_535, description="port to listen on; 0 takes a free one")


class WorkerSettings(Section):
    """`[worker]`: how a worker stops."""

    drain_s: Seconds = Field(
        default=20.0, le=300, description="seconds that running events get to finish after SIGTERM"
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
