"""What the doctor finds, and what it advises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from sluicegate.cli.doctor import (
    Verdict,
    check_kafka,
    check_prices,
    check_provider,
    check_redis,
    check_streams,
    doctor,
    judge_redis,
)
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.local.redis_server import RedisServer, free_port
from sluicegate.settings import Settings, load_settings
from sluicegate.topics import topic_table

GOOD_REDIS = {"redis_version": "7.0.15", "maxmemory_policy": "noeviction", "aof_enabled": 1}


def settings_of(tmp_path: Path, text: str) -> Settings:
    """Load settings from a text."""
    path = tmp_path / "sluicegate.toml"
    path.write_text(text)
    return load_settings(path, {})


@contextmanager
def broker(topics: dict[str, int]) -> Iterator[str]:
    """Run a broker with these topics."""
    with EmbeddedBroker(topics) as running:
        yield running.address


def test_a_wrong_configuration_ends_the_examination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else can be judged, and the exit code says so."""
    path = tmp_path / "sluicegate.toml"
    path.write_text("[kafka]\nboostrap_servers = 'x'\n")

    code = doctor(json=True, config=path)

    (check,) = orjson.loads(capsys.readouterr().out)["checks"]
    assert code == 1
    assert (check["name"], check["verdict"]) == ("configuration", "failed")
    assert "bootstrap_servers" in check["detail"]


def test_a_handler_that_is_not_there_is_found(tmp_path: Path) -> None:
    """Before a worker is deployed to find it."""
    settings = settings_of(tmp_path, '[streams.documents]\nagent = "streams.documents:nothing"\n')

    verdicts = {check.name: check.verdict for check in check_streams(settings)}

    assert verdicts == {"stream support-chat": Verdict.OK, "stream documents": Verdict.FAILED}


def test_a_price_that_a_limit_needs_and_nobody_knows_is_found(tmp_path: Path) -> None:
    """Once for each model, fallbacks included; a model in the table is well."""
    text = """
    [limits.main]
    dollars_per_day = 5
    [streams.documents]
    fallback = ["main/ours"]
    [streams.support-chat]
    fallback = ["main/ours"]
    """
    (check,) = check_prices(settings_of(tmp_path, text))

    assert (check.name, check.verdict) == ("price of main/ours", Verdict.FAILED)
    assert '[prices."main/ours"]' in check.detail


def test_missing_topics_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    """All at once."""
    with broker({"support-chat": 12}) as address:
        settings = settings_of(tmp_path, f'[kafka]\nbootstrap_servers = "{address}"\n')
        kafka, topics = check_kafka(settings)

    assert (kafka.verdict, topics.verdict) == (Verdict.OK, Verdict.FAILED)
    assert "sluicegate.support-chat.dlq" in topics.detail
    assert topics.advice == "run `sluicegate topics --create`"


def test_topics_of_differing_width_are_found(tmp_path: Path) -> None:
    """A copy keeps its origin's partition number, so every tier needs the input's width."""
    table = {topic.name: topic.partitions for topic in topic_table(load_settings(None, {}))}
    with broker({**table, "sluicegate.documents.due": 3}) as address:
        settings = settings_of(tmp_path, f'[kafka]\nbootstrap_servers = "{address}"\n')
        _, topics = check_kafka(settings)

    assert topics.verdict is Verdict.FAILED
    assert "sluicegate.documents.due has 3 partitions" in topics.detail


def test_redis_as_it_must_be_is_well(tmp_path: Path) -> None:
    """A real server with an append-only file and no eviction."""
    with RedisServer(appendonly=True) as server:
        checks = list(check_redis(settings_of(tmp_path, f'[redis]\nurl = "{server.url}"\n')))

    assert {check.verdict for check in checks} == {Verdict.OK}


def test_a_redis_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    """Credentials stay out of what is printed."""
    settings = settings_of(tmp_path, f'[redis]\nurl = "redis://me:secret@127.0.0.1:{free_port()}/0"\n')

    (check,) = check_redis(settings)

    assert check.verdict is Verdict.FAILED
    assert "secret" not in f"{check.detail}{check.advice}"


@pytest.mark.parametrize(
    ("fact", "name"),
    [
        ({"redis_version": "6.0.20"}, "redis"),
        ({"maxmemory_policy": "allkeys-lru"}, "redis eviction"),
        ({"aof_enabled": 0}, "redis persistence"),
    ],
)
def test_each_fault_of_redis_fails_its_own_check(fact: dict[str, object], name: str) -> None:
    """And each comes with what to do."""
    failed = [check for check in judge_redis({**GOOD_REDIS, **fact}) if check.verdict is Verdict.FAILED]

    assert [check.name for check in failed] == [name]
    assert all(check.advice for check in failed)


def test_a_provider_that_does_not_answer_is_found(tmp_path: Path) -> None:
    """Only the way there is checked."""
    settings = settings_of(tmp_path, f'[providers.main]\nbase_url = "http://127.0.0.1:{free_port()}/v1"\n')

    assert check_provider("main", settings.providers["main"], settings).verdict is Verdict.FAILED


def test_a_key_file_that_is_not_there_is_found(tmp_path: Path) -> None:
    """Before the first call is refused."""
    settings = settings_of(
        tmp_path, '[providers.main]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_file = "/nowhere/key"\n'
    )

    check = check_provider("main", settings.providers["main"], settings)

    assert check.verdict is Verdict.FAILED
    assert "/nowhere/key" in check.detail
