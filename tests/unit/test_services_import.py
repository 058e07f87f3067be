"""What other services import stays light, and is found under the names that the docs use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sluicegate

NAMES = ("Publisher", "AsyncPublisher", "Envelope", "ResultReader", "AsyncResultReader")


def python(program: str) -> str:
    """Run a program in an interpreter of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_neither_faust_nor_redis_nor_http_is_loaded() -> None:
    """A service that publishes and reads results carries no framework and no client but Kafka's."""
    program = f"""
import sys
from sluicegate import {", ".join(NAMES)}
from sluicegate.events.models import SupportChat
publisher = Publisher("127.0.0.1:1", topic="t", model=SupportChat, source="/s")
publisher.close()
forbidden = {{"faust", "mode", "aiokafka", "redis", "httpx", "aiohttp", "rich", "cyclopts", "streams"}}
print(sorted(forbidden & set(sys.modules)))
"""
    assert python(program) == "[]"


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """`import sluicegate` alone is free: every command of ours begins with it."""
    program = (
        "import sys, sluicegate\nprint([name for name in sys.modules if name.startswith('sluicegate.')])"
    )
    assert python(program) == "[]"


def test_the_names_are_the_ones_documented() -> None:
    """All are listed, all are found, and another name is an AttributeError that says which."""
    assert set(NAMES) <= set(sluicegate.__all__)
    for name in sluicegate.__all__:
        assert getattr(sluicegate, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Publishr'"):
        sluicegate.Publishr  # type: ignore[attr-defined]  # noqa: B018 - asking is the point
