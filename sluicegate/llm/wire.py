"""What the client needs of a provider's wire format, and what it hands to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Outcome, Usage
from sluicegate.llm.quota_headers import QuotaFamily

JsonObject = Mapping[str, Any]

_LARGEST_TOKENS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is an error: what it means as a status, what its body says, how long it asks to wait.

    `http_status` is what came over the wire; `status` differs from it only for an error inside a 200.
    `type`, `code` and `message` (lower case) are "" where the body has none or is no JSON.
    `has_quota_headers` says whether the provider described a bucket beside it.
    """

    status: int
    http_status: int
    type: str = ""
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None
    has_quota_headers: bool = False


class WireFormat(Protocol):
    """One provider's way of writing a call and reading an answer. No state, no I/O."""

    path: str
    quota_family: QuotaFamily

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Return the headers of every call; without a key none that would carry it."""

    def body(self, request: CallRequest) -> dict[str, Any]:
        """Return the JSON object of one call."""

    def read_answer(self, answer: JsonObject, request: CallRequest) -> Outcome | None:
        """Return the outcome of a 200 with this body; None when it is no answer of this format."""

    def own_meaning(self, refusal: Refusal) -> Outcome | None:
        """Return what only this provider means by an error; None leaves it to the status."""


def read_tokens(value: object) -> int:
    """Return a provider's token count; 0 for anything that cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_TOKENS:
        return 0
    return value


def read_usage(input_tokens: object, output_tokens: object, cached: object = 0, apart: object = 0) -> Usage:
    """Return a usage whose input counts all of the prompt; `apart` is what the provider counts beside it."""
    return Usage(
        input_tokens=read_tokens(input_tokens) + read_tokens(apart),
        output_tokens=read_tokens(output_tokens),
        cached_input_tokens=read_tokens(cached),
    )
