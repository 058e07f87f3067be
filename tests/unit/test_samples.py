"""The input of a first run: ours, real, and readable from files."""

from __future__ import annotations

from collections import defaultdict
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import orjson
import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.events.models import Speaker
from sluicegate.local.samples import (
    bundled_chats,
    chats_of,
    documents_of,
    event_json,
    installed_documents,
)


class FakePackage(Distribution):
    """An installed package with the given metadata."""

    def __init__(self, name: str, description: str, **headers: str) -> None:
        message = Message()
        message["Name"], message["Version"] = name, "1.0"
        for header, value in headers.items():
            message[header.replace("_", "-")] = value
        message["Description"] = description
        self._message = message

    @property
    def metadata(self) -> Any:
        """Return the metadata as an e-mail message, which is what the standard library gives."""
        return self._message

    def read_text(self, filename: str) -> str | None:
        """There are no files."""
        return None

    def locate_file(self, path: Any) -> Any:
        """There are no files."""
        return Path(path)


def test_the_bundled_chats_are_whole_conversations() -> None:
    """Turns count from 0 without a gap, and each conversation begins with the customer."""
    turns: dict[str, list[int]] = defaultdict(list)
    for chat in bundled_chats():
        if not turns[chat.conversation_id]:
            assert chat.speaker is Speaker.CUSTOMER
        turns[chat.conversation_id].append(chat.turn)

    assert len(turns) >= 40
    assert all(4 <= len(each) <= 10 and each == list(range(len(each))) for each in turns.values())


def test_installed_packages_are_documents() -> None:
    """Every installation of this package has some descriptions long enough to index."""
    documents = installed_documents()

    assert len(documents) >= 20
    assert all(500 <= len(document.text) <= 12_000 for document in documents)


def test_a_description_is_cut_between_paragraphs_and_keeps_its_type() -> None:
    """What is left reads as a text, and a parameter of the content type is no part of the media type."""
    paragraph = "word " * 200
    package = FakePackage(
        "Big", "\n\n".join([paragraph] * 30), Description_Content_Type="text/markdown; charset=UTF-8"
    )

    (document,) = installed_documents([package, FakePackage("Small", "too short")])

    assert document.document_id == "Big-1.0"
    assert document.media_type == "text/markdown"
    assert len(document.text) <= 12_000
    assert document.text.endswith("word")


def test_chats_are_read_from_json_lines(tmp_path: Path) -> None:
    """What one writes the other reads; empty lines are none."""
    chats = bundled_chats()[:3]
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\n\n".join(event_json(chat) for chat in chats))

    assert chats_of(path) == chats


def test_a_line_that_is_no_chat_is_named_without_its_content(tmp_path: Path) -> None:
    """The message says where to look and never what it says there."""
    path = tmp_path / "chats.jsonl"
    path.write_bytes(event_json(bundled_chats()[0]) + b'\n{"conversation_id": "secret", "turn": "x"}\n')

    with pytest.raises(ConfigurationError, match="line 2: wrong-schema at turn") as caught:
        chats_of(path)

    assert "secret" not in str(caught.value)


def test_documents_are_read_from_a_folder(tmp_path: Path) -> None:
    """Text files become documents by their path; other files are left alone."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "notes.md").write_text("# Notes")
    (tmp_path / "page.html").write_text("<p>Page</p>")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")

    documents = documents_of(tmp_path)

    assert [(each.document_id, each.media_type) for each in documents] == [
        ("deep/notes.md", "text/markdown"),
        ("page.html", "text/html"),
    ]


def test_a_folder_without_texts_is_an_error(tmp_path: Path) -> None:
    """Nothing to do is not what was asked for."""
    with pytest.raises(ConfigurationError, match="holds no documents"):
        documents_of(tmp_path)


def test_json_leaves_out_what_is_not_set() -> None:
    """An absent tenant is absent."""
    assert orjson.loads(event_json(bundled_chats()[0])).keys() == {
        "conversation_id",
        "turn",
        "speaker",
        "text",
    }
