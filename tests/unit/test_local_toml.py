"""What is written as settings is read back as the same settings."""

from __future__ import annotations

from pathlib import Path

from sluicegate.local.toml import Value, write_environment, write_toml
from sluicegate.settings import load_settings

TABLES: dict[str, dict[str, Value]] = {
    "kafka": {"bootstrap_servers": "127.0.0.1:1234", "session_timeout_s": 9.5},
    "providers.main": {"base_url": "http://127.0.0.1:1/v1"},
    "limits.main/gpt-4o-mini": {"requests_per_minute": 60},
    "retry": {"tiers_s": [2.0, 20.0]},
    "streams.support-chat": {"ordered": False, "topic": "chats"},
}


def test_the_toml_is_read_back_as_it_was_meant(tmp_path: Path) -> None:
    """Names with slashes are quoted, numbers and booleans keep their type."""
    path = tmp_path / "sluicegate.toml"
    path.write_text(write_toml(TABLES))

    settings = load_settings(path, {})

    assert settings.kafka.session_timeout_s == 9.5
    assert settings.limits["main/gpt-4o-mini"].requests_per_minute == 60
    assert settings.retry.tiers_s == (2.0, 20.0)
    assert (settings.streams["support-chat"].ordered, settings.streams["support-chat"].topic) == (
        False,
        "chats",
    )


def test_the_environment_says_the_same_as_the_file(tmp_path: Path) -> None:
    """Both forms are printed, so both must work."""
    path = tmp_path / "sluicegate.toml"
    path.write_text(write_toml(TABLES))

    environ = dict(line.split("=", 1) for line in write_environment(TABLES))

    assert load_settings(None, environ).model_dump() == load_settings(path, {}).model_dump()
