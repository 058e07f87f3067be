"""The tutorial can be followed: its files and its commands, as they are printed, give what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
# What only shows something, takes its time, and changes nothing of what follows.
LEFT_OUT = ("Install", "When the provider refuses")
LEFT_OUT_COMMANDS = ("sluicegate doctor", "sluicegate status", "curl ")
# The embedded broker lets a restarted worker in only when the one before it has timed out.
QUICK = {"SLUICEGATE_KAFKA__SESSION_TIMEOUT_S": "2"}

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(page: str) -> str:
    """Return what the page has its reader do, file by file and command by command."""
    lines = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if title in LEFT_OUT:
            continue
        for block in _BLOCK.finditer(text):
            kind, body = block[1], block[2]
            lines.append(commands(body) if kind == "sh" else written(file_before(text, block.start()), body))
    return "\n".join(lines)


def file_before(text: str, start: int) -> str:
    """Return the file that the paragraph before a block names first."""
    paragraph = text[:start].strip().rpartition("\n\n")[2]
    named = re.search(r"`(\w+\.\w+)`", paragraph)
    assert named is not None, paragraph
    return named[1]


def written(file: str, body: str) -> str:
    """Return the commands that write a file, or its end where the block begins within a function."""
    cut = f"sed -i.old '/^    return /,$d' {file}\n" if body.startswith(" ") else f": > {file}\n"
    return f"{cut}cat >> {file} <<'EOF'\n{body}EOF"


def commands(body: str) -> str:
    """Return a block of commands without those that only show something."""
    return "\n".join(line for line in body.splitlines() if not line.startswith(LEFT_OUT_COMMANDS))


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Who copies its files and commands gets its results, its dead letter and that one's result."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, arguments in (("sluicegate", "-m sluicegate"), ("python", "")):
        command = binaries / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
    text = script(PAGE).replace("PYTHONPATH=$PWD", f"PYTHONPATH=$PWD:{Path(__file__).parents[2]}")

    with subprocess.Popen(
        ["timeout", "80", "bash", "-c", text],  # whose end ends what it started, see the trap
        cwd=tmp_path,
        env={**os.environ, **QUICK, "PATH": f"{binaries}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shell:
        shown, _ = shell.communicate()

    assert shell.returncode == 0, shown
    results = [json.loads(line) for line in shown.splitlines() if line.startswith('{"ticket_id"')]
    assert {result["ticket_id"]: result.get("urgency") for result in results} == {
        "t-1": None,
        "t-2": None,
        "t-4": "high",
    }
    assert re.search(r"^handler-error +1 ", shown, re.MULTILINE)
