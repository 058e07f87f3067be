"""`sluicegate.LlmClient` before it calls anybody: what it loads, whom it will call, when it is open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sluicegate
from sluicegate import LlmClient
from sluicegate.direct.session import CallDefaults
from sluicegate.errors import ConfigurationError
from sluicegate.settings import Settings, load_settings

_KAFKA = {"faust", "mode", "aiokafka", "confluent_kafka"}
_OURS = {"redis", "httpx", "aiohttp", "pydantic", "structlog", "prometheus_client"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing() -> None:
    """Whoever imports one thing of it does not pay for the others."""
    assert not loaded_by("import sluicegate") & (_KAFKA | _OURS)


def test_the_client_loads_neither_kafka_nor_faust() -> None:
    """A web service needs no broker's client to call a model."""
    loaded = loaded_by("import sluicegate; sluicegate.LlmClient")
    assert not loaded & _KAFKA
    assert loaded >= _OURS


def test_a_name_that_the_package_does_not_have_is_no_attribute() -> None:
    """As of any module; `from sluicegate import ...` says the same."""
    with pytest.raises(AttributeError, match="LlmClints"):
        _ = getattr(sluicegate, "LlmClints")  # noqa: B009  # a checker of types would refuse the name
    assert "LlmClient" in sluicegate.__all__


@pytest.fixture
def settings() -> Settings:
    """Two providers, and a stream that falls back to the second."""
    return load_settings(
        None,
        {
            "SLUICEGATE_PROVIDERS__BACKUP__BASE_URL": "http://127.0.0.1:1/v1",
            "SLUICEGATE_STREAMS__SUPPORT_CHAT__FALLBACK": '["backup"]',
            "SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_OUTPUT_TOKENS": "99",
            "SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS": "3",
        },
    )


def test_a_stream_says_whom_to_call(settings: Settings) -> None:
    """Provider, model, fallback, length and attempts are the stream's."""
    assert LlmClient.from_settings(settings, stream="support-chat").defaults == CallDefaults(
        provider="main",
        model="gpt-4o-mini",
        fallback=("backup",),
        fallback_after_s=5.0,
        max_output_tokens=99,
        max_attempts=3,
    )


def test_what_is_given_takes_the_place_of_what_the_stream_says(settings: Settings) -> None:
    """Key by key; without a stream the rest is as in a stream that sets nothing."""
    mixed = LlmClient.from_settings(settings, stream="support-chat", fallback=(), fallback_after_s=0)
    assert (mixed.defaults.fallback, mixed.defaults.fallback_after_s) == ((), 0)
    assert mixed.defaults.max_output_tokens == 99

    own = LlmClient.from_settings(settings, provider="backup", model="large")
    assert own.defaults == CallDefaults(provider="backup", model="large")


def test_settings_are_found_as_commands_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file given, else the one that the environment names; a file that is not there is an error."""
    file = tmp_path / "sluicegate.toml"
    file.write_text('[streams.support-chat]\nmodel = "of-the-file"\n')
    assert LlmClient.from_settings(config=file, stream="support-chat").defaults.model == "of-the-file"

    monkeypatch.setenv("SLUICEGATE_CONFIG", str(file))
    assert LlmClient.from_settings(stream="support-chat").defaults.model == "of-the-file"
    with pytest.raises(ConfigurationError, match="nowhere"):
        LlmClient.from_settings(config="nowhere.toml", stream="support-chat")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give a stream, or both provider and model"),
        ({"provider": "main"}, "give a stream, or both provider and model"),
        ({"stream": "support-chta"}, "support-chat"),
        ({"provider": "mian", "model": "m"}, "main"),
        ({"stream": "support-chat", "fallback": ["bakcup/large"]}, "backup"),
        ({"stream": "support-chat", "fallback": ["backup/"]}, "PROVIDER/MODEL"),
    ],
)
def test_nobody_to_call_is_a_configuration_error(
    settings: Settings, given: dict[str, object], said: str
) -> None:
    """It names what is missing, or the nearest right name."""
    with pytest.raises(ConfigurationError, match=said):
        LlmClient.from_settings(settings, **given)  # type: ignore[arg-type]  # wrong on purpose


async def test_a_client_is_open_only_inside_its_block(settings: Settings) -> None:
    """Not before, not after, and not twice at once; afterwards it may be opened again."""
    client = LlmClient.from_settings(settings, stream="support-chat")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="async with"):
            await client.complete("Where is it?")
        async with client:
            with pytest.raises(RuntimeError, match="open already"):
                await client.__aenter__()


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
async def test_a_call_without_an_end_is_refused(settings: Settings, timeout_s: float) -> None:
    """Somebody waits for it."""
    with pytest.raises(ValueError, match="timeout_s"):
        LlmClient.from_settings(settings, stream="support-chat", timeout_s=timeout_s)
    async with LlmClient.from_settings(settings, stream="support-chat") as llm:
        with pytest.raises(ValueError, match="timeout_s"):
            await llm.complete("Where is it?", timeout_s=timeout_s)


async def test_a_call_that_asks_nothing_is_refused(settings: Settings) -> None:
    """Before it takes a place in any queue."""
    async with LlmClient.from_settings(settings, stream="support-chat") as llm:
        with pytest.raises(ValueError, match="user or messages"):
            await llm.complete(system="Be kind.")


async def test_an_error_of_the_block_comes_out_as_it_is(settings: Settings) -> None:
    """Not wrapped in a group: the limiters' tasks are nobody's business outside."""
    with pytest.raises(LookupError, match="the caller's own"):
        async with LlmClient.from_settings(settings, stream="support-chat"):
            raise LookupError("the caller's own")
