"""The embedded stack starts as a whole, says why it cannot, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from sluicegate.errors import StackError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.local.processes import CommandProcess, stop_all
from sluicegate.local.stack import LocalStack, StackPlan


def test_a_stack_has_topics_and_a_provider_and_ends_with_its_context(tmp_path: Path) -> None:
    """What it started answers inside and is gone outside."""
    plan = StackPlan(topics={"chats": 3}, provider_options=("--requests-per-minute", "90"))

    with LocalStack(plan, folder=tmp_path) as stack:
        counts = KafkaAdmin(stack.kafka).partition_counts()
        stats = httpx.get(f"{stack.provider}/stats", trust_env=False).json()
        process = stack.provider_process

    assert counts["chats"] == 3
    assert stats["configuration"]["requests_per_minute"] == 90
    assert stack.provider_base_url == f"{stack.provider}/v1"
    assert process is not None
    assert process.exit_code == 0


def test_a_provider_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The end of its log is in the message."""
    plan = StackPlan(topics={}, provider_options=("--no-such-option",))

    with pytest.raises(StackError, match="no-such-option"), LocalStack(plan, folder=tmp_path):
        pass


def test_what_is_given_is_not_started(tmp_path: Path) -> None:
    """Addresses of somebody else's services are passed on; a version part is not doubled."""
    plan = StackPlan(topics={}, kafka="k:9092", redis="redis://r/0", provider="http://p/v1/")

    with LocalStack(plan, folder=tmp_path) as stack:
        assert (stack.kafka, stack.redis, stack.provider_base_url) == ("k:9092", "redis://r/0", "http://p/v1")
        assert (stack.broker, stack.provider_process) == (None, None)


def test_a_child_does_not_inherit_settings_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a configuration file of its own; a stray variable must not outrank it."""
    monkeypatch.setenv("SLUICEGATE_KAFKA__NO_SUCH_KEY", "1")
    config = tmp_path / "sluicegate.toml"
    config.write_text("")
    process = CommandProcess("topics", ("topics", "--config", str(config)), folder=tmp_path)

    process.start()

    assert process.wait(30) == 0
    assert "support-chat" in process.tail()


def test_processes_that_have_ended_are_stopped_without_ado(tmp_path: Path) -> None:
    """Stopping is safe whatever has happened before."""
    process = CommandProcess("help", ("--help",), folder=tmp_path)
    process.start()
    process.wait(30)

    assert stop_all([process], timeout_s=1) == {"help": 0}
