"""`sluicegate doctor`: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import redis

from sluicegate.cli.configuration import command_settings
from sluicegate.errors import BrokerError, ConfigurationError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.topic_check import missing_topics, uneven_topics
from sluicegate.llm.prices import required_price
from sluicegate.processing.handlers import load_handler
from sluicegate.settings import ProviderSettings, Settings
from sluicegate.state.connecting import connect_sync

_TIMEOUT_S = 5.0
_OLDEST_REDIS = (6, 2)


class Verdict(StrEnum):
    """How a check went. A warning fails nothing."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `advice` says what to do unless it is well."""

    name: str
    verdict: Verdict
    detail: str
    advice: str = ""


def doctor(*, json: bool = False, config: Path | None = None) -> int:
    """Check the configuration, Kafka, topics, Redis and providers, and say what to do.

    Exits 1 when a check failed. Providers are only connected to: no call is made and nothing is paid.

    Parameters
    ----------
    json
        Print the checks as JSON.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    checks = tuple(_all_checks(config))
    if json:
        sys.stdout.write(orjson.dumps({"checks": [asdict(check) for check in checks]}).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for check in checks for line in _lines(check)))
    return 1 if any(check.verdict is Verdict.FAILED for check in checks) else 0


def _all_checks(config: Path | None) -> Iterator[Check]:
    try:
        settings = command_settings(config)
    except ConfigurationError as exc:
        yield Check(
            name="configuration",
            verdict=Verdict.FAILED,
            detail=str(exc),
            advice="mend it; nothing else was checked",
        )
        return
    yield Check(name="configuration", verdict=Verdict.OK, detail=f"{len(settings.streams)} streams")
    yield from check_streams(settings)
    yield from check_prices(settings)
    yield from check_kafka(settings)
    yield from check_redis(settings)
    for name, provider in settings.providers.items():
        yield check_provider(name, provider, settings)


def check_streams(settings: Settings) -> Iterator[Check]:
    """Check that each stream's handler can be imported."""
    for name, stream in settings.streams.items():
        try:
            handler = load_handler(stream.agent)
        except ConfigurationError as exc:
            yield Check(
                name=f"stream {name}",
                verdict=Verdict.FAILED,
                detail=str(exc),
                advice=f"mend [streams.{name}] agent, or the handler",
            )
            continue
        yield Check(
            name=f"stream {name}", verdict=Verdict.OK, detail=f"{handler.argument.__name__} to {stream.agent}"
        )


def check_prices(settings: Settings) -> Iterator[Check]:
    """Name each model whose limits count dollars that nobody knows; without one there is nothing to say."""
    for route in dict.fromkeys(route for name in settings.streams for route in settings.routes(name)):
        try:
            required_price(settings, route)
        except ConfigurationError as exc:
            yield Check(
                name=f"price of {route.provider}/{route.model}",
                verdict=Verdict.FAILED,
                detail=str(exc),
                advice=f'write it, or take dollars_per_day out of [limits."{route.scope}"]',
            )


def check_kafka(settings: Settings) -> Iterator[Check]:
    """Check that the brokers answer and have every topic, as wide as it must be."""
    servers = settings.kafka.bootstrap_servers
    try:
        counts = KafkaAdmin.of(settings.kafka, timeout_s=_TIMEOUT_S).partition_counts()
    except (BrokerError, ConfigurationError) as exc:
        yield Check(
            name="kafka",
            verdict=Verdict.FAILED,
            detail=str(exc),
            advice=f"start Kafka at {servers}, or mend [kafka]: its address, and how it lets us in",
        )
        yield Check(name="topics", verdict=Verdict.SKIPPED, detail="Kafka does not answer")
        return
    yield Check(name="kafka", verdict=Verdict.OK, detail=servers)
    missing, uneven = missing_topics(settings, counts), uneven_topics(settings, counts)
    if missing:
        yield Check(
            name="topics",
            verdict=Verdict.FAILED,
            detail=f"{len(missing)} are missing: {', '.join(missing)}",
            advice="run `sluicegate topics --create`",
        )
    for sentence in uneven:
        yield Check(
            name="topics",
            verdict=Verdict.FAILED,
            detail=sentence,
            advice="the worker refuses to start until then",
        )
    if not missing and not uneven:
        yield Check(name="topics", verdict=Verdict.OK, detail="all there, as wide as their inputs")


def check_redis(settings: Settings) -> Iterator[Check]:
    """Check that Redis answers, is new enough, evicts nothing and keeps what it is told."""
    address = settings.redis.public_url
    try:
        client = connect_sync(settings.redis, timeout_s=_TIMEOUT_S)
    except ConfigurationError as exc:
        yield Check(name="redis", verdict=Verdict.FAILED, detail=str(exc), advice="mend [redis]")
        return
    try:
        info = client.info()
    except (redis.RedisError, ValueError) as exc:
        yield Check(
            name="redis",
            verdict=Verdict.FAILED,
            detail=f"{address} does not answer ({type(exc).__name__})",
            advice="start Redis, or mend [redis]: its address, and how it lets us in",
        )
        return
    finally:
        client.close()
    yield from judge_redis(info)


def judge_redis(info: object) -> Iterator[Check]:
    """Judge the answer of INFO: version, eviction and persistence."""
    facts = info if isinstance(info, dict) else {}
    version = str(facts.get("redis_version", "0"))
    is_new_enough = _version(version) >= _OLDEST_REDIS
    yield Check(
        name="redis",
        verdict=Verdict.OK if is_new_enough else Verdict.FAILED,
        detail=f"{facts.get('server_name', 'redis')} {facts.get('valkey_version', version)}",
        advice="" if is_new_enough else "take Redis 6.2 or newer, or Valkey",
    )
    policy = str(facts.get("maxmemory_policy", "unknown"))
    yield Check(
        name="redis eviction",
        verdict=Verdict.OK if policy == "noeviction" else Verdict.FAILED,
        detail=f"maxmemory-policy {policy}",
        advice="" if policy == "noeviction" else "set maxmemory-policy noeviction: lost state repeats work",
    )
    keeps = str(facts.get("aof_enabled", "0")) == "1"
    yield Check(
        name="redis persistence",
        verdict=Verdict.OK if keeps else Verdict.FAILED,
        detail=f"append-only file is {'on' if keeps else 'off'}",
        advice="" if keeps else "set appendonly yes: after a restart order and paid calls are else forgotten",
    )


def check_provider(name: str, provider: ProviderSettings, settings: Settings) -> Check:
    """Check that the provider can be connected to, its key be read and its limits are set."""
    title = f"provider {name}"
    key_file = provider.api_key_file
    if key_file is not None and not _is_readable(key_file):
        return Check(
            name=title,
            verdict=Verdict.FAILED,
            detail=f"cannot read {key_file}",
            advice=f"put the key there, or mend [providers.{name}] api_key_file",
        )
    host = urlsplit(provider.base_url).netloc
    try:
        # Any answer will do, also a 404: only the way there is checked.
        httpx.get(provider.base_url, timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False)
    except httpx.HTTPError as exc:
        return Check(
            name=title,
            verdict=Verdict.FAILED,
            detail=f"{host} does not answer ({type(exc).__name__})",
            advice=f"mend [providers.{name}] base_url, or the way there",
        )
    scopes = [scope for scope in settings.limits if scope.partition("/")[0] == name]
    if not scopes:
        return Check(
            name=title,
            verdict=Verdict.WARNING,
            detail=f"{host} answers; no limits are set",
            advice=f"write [limits.{name}]: until then only its 429s slow calls down",
        )
    return Check(name=title, verdict=Verdict.OK, detail=f"{host} answers")


def _is_readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes().strip())
    except OSError:
        return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())


def _lines(check: Check) -> Sequence[str]:
    first = f"{check.verdict.value:8} {check.name}: {check.detail}"
    return (first, f"{'':8} {check.advice}") if check.advice else (first,)
