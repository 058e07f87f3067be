"""Prices: whose counts, what is not known, and what a limit in dollars asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from sluicegate.errors import ConfigurationError
from sluicegate.llm.prices import Price, price_of, required_price
from sluicegate.settings import Route, Settings, load_settings

OWN = '[prices."main/gpt-4o-mini"]\ninput_dollars_per_million = 1\noutput_dollars_per_million = 2'
UNKNOWN = "[streams.documents]\nmodel = 'our-own-model'"
DOLLARS = "[limits.main]\ndollars_per_day = 5"


def load(tmp_path: Path, *parts: str) -> Settings:
    """Load settings from a file of these parts."""
    path = tmp_path / "sluicegate.toml"
    path.write_text("\n".join(parts), encoding="utf-8")
    return load_settings(path, {})


def own_route(settings: Settings) -> Route:
    """Return the first route of the stream `documents`."""
    return settings.routes("documents")[0]


def at(base_url: str, wire_format: str, model: str, tmp_path: Path) -> Price | None:
    """Return the price of a model at an address."""
    provider = f"[providers.there]\nbase_url = '{base_url}'\nformat = '{wire_format}'"
    settings = load(tmp_path, provider)
    return price_of(settings, Route(provider="there", model=model, scope="there"))


def test_a_price_in_the_settings_is_the_price(tmp_path: Path) -> None:
    """What the operator wrote is never overruled by a table."""
    settings = load(tmp_path, OWN)
    assert price_of(settings, own_route(settings)) == Price(
        input_dollars_per_million=1, output_dollars_per_million=2
    )


@pytest.mark.parametrize(
    ("base_url", "wire_format", "model"),
    [
        ("https://api.openai.com/v1", "openai", "gpt-4o-mini"),
        ("https://ours.openai.azure.com/openai/v1", "openai", "gpt-4o-mini"),
        ("http://127.0.0.1:8089/v1", "openai", "gpt-4o-mini-2024-07-18"),
        ("http://127.0.0.1:8089/v1", "anthropic", "claude-3-5-haiku-latest"),
        ("https://api.groq.com/openai/v1", "openai", "llama-3.3-70b-versatile"),
    ],
)
def test_a_known_model_has_the_tables_price(
    base_url: str, wire_format: str, model: str, tmp_path: Path
) -> None:
    """The vendor is known by its address; an address that nobody knows is taken for its format's vendor."""
    price = at(base_url, wire_format, model, tmp_path)
    assert price is not None
    assert 0 < price.input_dollars_per_million < price.output_dollars_per_million < 100


@pytest.mark.parametrize("model", ["our-own-model", "whisper-1", ""])
def test_a_model_that_is_not_in_the_table_has_no_price(model: str, tmp_path: Path) -> None:
    """Unknown is not free, and neither is what is charged by another unit than tokens."""
    assert at("http://127.0.0.1:8089/v1", "openai", model, tmp_path) is None


def test_prices_that_rise_with_the_prompt_start_at_the_lowest_step(tmp_path: Path) -> None:
    """A model with steps has a price, and it is that of ordinary prompts."""
    address = "https://generativelanguage.googleapis.com/v1beta/openai"
    price = at(address, "openai", "gemini-2.5-pro", tmp_path)
    million = calc_price(Usage(input_tokens=1_000_000), "gemini-2.5-pro", provider_api_url=address)
    assert price is not None
    assert price.input_dollars_per_million < million.total_price


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "micro_dollars"),
    [(0, 0, 0), (1, 0, 2), (50, 0, 55), (51, 0, 57), (50, 100, 115), (10_000_000, 10_000_000, 17_000_000)],
)
def test_part_of_a_micro_dollar_is_a_whole_one(
    input_tokens: int, output_tokens: int, micro_dollars: int
) -> None:
    """A call is never counted as less than it costs, nor as more by the binary form of its price."""
    price = Price(input_dollars_per_million=1.1, output_dollars_per_million=0.60)
    assert price.micro_dollars(input_tokens, output_tokens) == micro_dollars


def test_a_limit_in_dollars_without_a_price_says_what_to_write(tmp_path: Path) -> None:
    """Money that nobody can count is not limited in silence."""
    settings = load(tmp_path, UNKNOWN, DOLLARS)
    with pytest.raises(ConfigurationError) as caught:
        required_price(settings, own_route(settings))
    assert 'limits."main".dollars_per_day: nobody knows what main/our-own-model costs' in str(caught.value)
    assert '[prices."main/our-own-model"]' in str(caught.value)


def test_a_limit_in_dollars_takes_the_known_price(tmp_path: Path) -> None:
    """A price from the settings is enough for a limit in dollars."""
    settings = load(tmp_path, OWN, DOLLARS)
    assert required_price(settings, own_route(settings)) == price_of(settings, own_route(settings))


@pytest.mark.parametrize("limits", ["", "[limits.main]\nrequests_per_minute = 5"])
def test_without_a_limit_in_dollars_no_price_is_needed(tmp_path: Path, limits: str) -> None:
    """A model that nobody knows runs as before."""
    settings = load(tmp_path, UNKNOWN, limits)
    assert required_price(settings, own_route(settings)) is None


def test_the_table_is_loaded_only_when_it_is_asked() -> None:
    """A process that counts no dollars does not pay for the table's memory."""
    program = "import sys, sluicegate.limiter.costs; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
