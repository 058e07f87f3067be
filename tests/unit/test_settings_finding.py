"""Where a process finds its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.settings.finding import find_config, process_settings


def test_the_option_wins_then_the_variable_then_the_file_here(tmp_path: Path) -> None:
    """Each place is asked only when the one before it names nothing."""
    here = tmp_path / "sluicegate.toml"
    here.write_text("")
    environ = {"SLUICEGATE_CONFIG": "/etc/named.toml"}

    assert find_config(Path("given.toml"), environ, tmp_path) == Path("given.toml")
    assert find_config(None, environ, tmp_path) == Path("/etc/named.toml")
    assert find_config(None, {}, tmp_path) == here


def test_without_any_file_the_defaults_apply(tmp_path: Path) -> None:
    """No file is not an error."""
    assert find_config(None, {}, tmp_path) is None
    assert find_config(None, {"SLUICEGATE_CONFIG": ""}, tmp_path) is None


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the variable never falls back to the defaults in silence."""
    monkeypatch.setenv("SLUICEGATE_CONFIG", "/nowhere/sluicegate.toml")

    with pytest.raises(ConfigurationError, match=r"/nowhere/sluicegate\.toml"):
        process_settings()
