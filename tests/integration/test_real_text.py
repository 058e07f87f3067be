"""The main job on text that was not written for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sluicegate.events.models import Document, SupportChat, read_model
from sluicegate.local.samples import event_json
from streams.splitting import split

_MUST_BE_ZERO = (
    *("lost", "waiting", "duplicate_results", "out_of_order", "released_early", "limit_exceeded"),
    "dead_lettered",
)
_CHARACTERS = 4000
_MOST_RUNNING = 400  # two workers of 200


def test_every_chat_survives_the_way_through_json_unchanged(chats: tuple[SupportChat, ...]) -> None:
    """What a publisher sends is what a handler gets."""
    assert len(chats) > 100
    for chat in chats:
        assert read_model(SupportChat, json.loads(event_json(chat))) == chat


def test_the_pieces_of_every_document_hold_all_of_its_text(documents: tuple[Document, ...]) -> None:
    """Pieces lie in order, do not overlap, are bounded, and leave out nothing but white space."""
    assert documents
    for document in documents:
        pieces = split(document.text, "text/plain", _CHARACTERS)
        end = 0
        for piece in pieces:
            assert document.text[piece.start : piece.end] == piece.text
            assert not document.text[end : piece.start].strip()
            assert 0 < len(piece.text) <= _CHARACTERS
            end = piece.end
        assert not document.text[end:].strip()


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(240)
def test_the_demo_on_real_kafka_survives_a_killed_worker(
    real_kafka: str, text_folder: Path | None, tmp_path: Path
) -> None:
    """The whole main job, counted from outside: nothing lost, early, out of order or over the limit."""
    ledger = tmp_path / "ledger.json"
    command = [sys.executable, "-m", "sluicegate", "demo", "--plain", "--kill-worker", "--kafka", real_kafka]
    command += ["--limit", "150", "--json", str(ledger), "--seed", "7"]
    if text_folder is not None:
        command += ["--chats", str(text_folder / "support_chats.jsonl")]
        command += ["--documents", str(text_folder / "documents.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(ledger.read_text())
    assert {key: counted[key] for key in _MUST_BE_ZERO} == dict.fromkeys(_MUST_BE_ZERO, 0)
    assert counted["parked"] > 0
    assert counted["published"] == counted["completed"] + counted["recorded"] == 150
    assert counted["repeated_results"] <= _MOST_RUNNING
    assert counted["paid_twice"] <= _MOST_RUNNING
