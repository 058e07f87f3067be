"""The wire formats by the names that the setting `format` gives them."""

from __future__ import annotations

from sluicegate.errors import ConfigurationError
from sluicegate.llm.anthropic_format import AnthropicFormat
from sluicegate.llm.openai_format import OpenAIFormat
from sluicegate.llm.wire import WireFormat


def wire_format(name: str) -> WireFormat:
    """Return the named format. Raises ConfigurationError for another name."""
    match name:
        case "openai":
            return OpenAIFormat()
        case "anthropic":
            return AnthropicFormat()
        case _:
            raise ConfigurationError(f"providers: format is openai or anthropic, not {name}")
