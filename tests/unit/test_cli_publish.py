"""Publishing JSON lines: all or nothing, and never a word of what they hold."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from sluicegate.cli.event_lines import read_lines
from sluicegate.cli.main import build_app, run
from sluicegate.cli.publish import event_maker, publish
from sluicegate.errors import ConfigurationError
from sluicegate.events.making import EventMaker
from sluicegate.events.models import SupportChat
from sluicegate.settings import load_settings

MAKER = EventMaker(topic="support-chat", model=SupportChat, source="/test", max_event_bytes=1000)
CHAT = b'{"conversation_id": "c1", "turn": 0, "speaker": "customer", "text": "hello", "extra": 1}'


def test_a_line_becomes_a_cloud_event_keyed_by_its_id_field() -> None:
    """The value goes out as it came, with what a reader needs in the headers."""
    (record,) = read_lines([b"  " + CHAT + b" \n"], MAKER, time_ms=1_700_000_000_000).records

    headers = dict(record.headers)
    assert (record.topic, record.key, record.value) == ("support-chat", b"c1", CHAT)
    assert headers["ce_type"] == b"sluicegate.support-chat.message.v1"
    assert headers["ce_source"] == b"/test"
    assert headers["ce_time"].startswith(b"2023-11-14T22:13:20")
    assert "ce_causationid" not in headers


def test_the_same_line_is_the_same_event() -> None:
    """So that publishing a file again pays for no completed call again."""
    ids = [
        dict(record.headers)["ce_id"]
        for record in read_lines([CHAT, CHAT, CHAT.replace(b"0", b"1")], MAKER, time_ms=0).records
    ]

    assert ids[0] == ids[1] != ids[2]


def test_every_fault_is_named_by_line_and_field_and_none_is_quoted() -> None:
    """One run shows all there is to mend."""
    lines = [CHAT, b"", b"{secret", CHAT.replace(b"0", b'"secret"'), b'{"text": "secret"}', b"x" * 1001]

    faults = read_lines(lines, MAKER, time_ms=0).faults

    assert faults == (
        "line 3: not-json",
        "line 4: wrong-schema at turn",
        "line 5: wrong-schema at conversation_id",
        "line 6: too-large",
    )


def test_one_wrong_line_and_nothing_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No broker is asked before every line is right."""
    path = tmp_path / "chats.jsonl"
    path.write_bytes(CHAT + b"\n{}\n")
    config = tmp_path / "sluicegate.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')

    code = publish("support-chat", str(path), config=config)

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert "line 2: wrong-schema at conversation_id" in captured.err


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The message names it."""
    config = tmp_path / "sluicegate.toml"
    config.write_text("")

    with pytest.raises(ConfigurationError, match="nowhere"):
        publish("support-chat", str(tmp_path / "nowhere.jsonl"), config=config)


def test_the_model_is_the_one_that_the_streams_handler_takes() -> None:
    """Own streams need no second place that names their model."""
    maker = event_maker(load_settings(None, {}), "documents")

    assert (maker.topic, maker.model.id_field) == ("documents", "document_id")


def test_a_dash_reads_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`publish STREAM -` is a file name on the command line, not an option."""
    config = tmp_path / "sluicegate.toml"
    config.write_text("")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{}\n")))

    code = run(build_app(), ["publish", "support-chat", "-", "--config", str(config)])

    assert code == 1
    assert "-, line 1: wrong-schema at conversation_id" in capsys.readouterr().err
