"""Checks what no section sees alone: names that must exist, times that must fit, topics that must differ."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sluicegate.errors import ConfigurationError
from sluicegate.settings.model import Settings
from sluicegate.settings.nearest import hint
from sluicegate.settings.routes import read_fallback

_STREAM_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?")
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_LONGEST_TOPIC_NAME = 249  # Kafka's own limit


def check_agreement(settings: Settings) -> None:
    """Raise ConfigurationError with one line per contradiction."""
    faults = [
        *_names(settings),
        *_fallbacks(settings),
        *_limits_and_prices(settings),
        *_times(settings),
        *_topics(settings),
    ]
    if faults:
        raise ConfigurationError("\n".join(faults))


def _names(settings: Settings) -> Iterator[str]:
    for name, stream in settings.streams.items():
        if not _STREAM_NAME.fullmatch(name):
            yield f'streams."{name}": names are lower-case letters, digits and dashes, at most 100'
        if name == "relay":
            yield "streams.relay: this name belongs to the relay's consumer group; choose another"
        if stream.provider not in settings.providers:
            yield (
                f"streams.{name}.provider: there is no such [providers.*] section"
                f"{hint(stream.provider, settings.providers)}"
            )
    for name in settings.providers:
        if not _PROVIDER_NAME.fullmatch(name):
            yield f'providers."{name}": names are letters, digits, dots, underscores and dashes, at most 100'


def _fallbacks(settings: Settings) -> Iterator[str]:
    for name, stream in settings.streams.items():
        ways = {(stream.provider, stream.model)}
        for place, text in enumerate(stream.fallback):
            key = f"streams.{name}.fallback.{place}"
            provider, model = way = read_fallback(text, stream.model)
            if provider not in settings.providers:
                known = hint(provider, settings.providers)
                yield f"{key}: there is no such [providers.*] section{known}"
            elif not model:
                yield f'{key}: write it as "PROVIDER" or "PROVIDER/MODEL"'
            elif way in ways:
                yield f"{key}: the stream's calls go there already; remove it"
            ways.add(way)


def _limits_and_prices(settings: Settings) -> Iterator[str]:
    for section, names in (("limits", settings.limits), ("prices", settings.prices)):
        for name in names:
            provider, slash, model = name.partition("/")
            if provider not in settings.providers:
                yield (
                    f'{section}."{name}": there is no such [providers.*] section'
                    f"{hint(provider, settings.providers)}"
                )
            if (slash and not model) or (section == "prices" and not slash):
                yield f'{section}."{name}": write it as "PROVIDER/MODEL"'


def _times(settings: Settings) -> Iterator[str]:
    if settings.retry.horizon_s > settings.topics.retry_retention_s:
        yield (
            "retry.horizon_s: must not be above topics.retry_retention_s, "
            "else Kafka drops parked events before they are due"
        )


def _topics(settings: Settings) -> Iterator[str]:
    prefix = f"{settings.kafka.group}."
    for name, stream in settings.streams.items():
        for key, topic in (("topic", stream.topic), ("results_topic", stream.results_topic)):
            if (topic or "").startswith(prefix):
                yield f"streams.{name}.{key}: names that begin with kafka.group are for internal topics"
        if (stream.topic or name) == (stream.results_topic or f"{name}.results"):
            yield f"streams.{name}.results_topic: must differ from the input topic"
        if len(f"{prefix}{name}.retry.{len(settings.retry.tiers_s)}") > _LONGEST_TOPIC_NAME:
            yield f"streams.{name}: with kafka.group its topic names are longer than {_LONGEST_TOPIC_NAME}"
