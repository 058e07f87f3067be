"""API keys from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.llm.api_key import ApiKeyFile


def test_the_key_is_the_files_text_without_the_line_end(tmp_path: Path) -> None:
    """Editors end a file with a line break; keys have none."""
    path = tmp_path / "key"
    path.write_text("sk-secret\n")
    assert ApiKeyFile(path)() == "sk-secret"


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """Keys are rotated without a restart, by writing the file or by moving another one over it."""
    path = tmp_path / "key"
    path.write_text("first")
    key = ApiKeyFile(path)
    path.write_text("second-key")
    assert key() == "second-key"
    (tmp_path / "new").write_text("third--key")
    (tmp_path / "new").rename(path)
    assert key() == "third--key"


@pytest.mark.parametrize("content", [None, "", "two\nlines", "umläut"])
def test_the_last_key_is_kept_while_a_rotation_is_under_way(tmp_path: Path, content: str | None) -> None:
    """A file that is gone, empty or half written for a moment stops no call."""
    path = tmp_path / "key"
    path.write_text("first")
    key = ApiKeyFile(path)
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert key() == "first"


@pytest.mark.parametrize("content", [None, "", " \n", "sk-secret\nmore", "sk-sécret"])
def test_no_usable_key_at_the_start_is_an_error_that_shows_none_of_it(
    tmp_path: Path, content: str | None
) -> None:
    """The message names the file and never what is in it."""
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="key") as caught:
        ApiKeyFile(path)
    assert "sk-" not in str(caught.value)


def test_a_repr_names_the_file_only(tmp_path: Path) -> None:
    """A key never reaches a log by way of a repr."""
    path = tmp_path / "key"
    path.write_text("sk-secret")
    assert "sk-secret" not in repr(ApiKeyFile(path))
