"""What one LLM call can give: a closed union, so that every caller says what it does with each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a call gave no answer. A closed set: it becomes `retry-reason`, a DLQ reason and a metric label."""

    RATE_LIMITED = "rate-limited"
    RAMP_LIMITED = "ramp-limited"
    OVERLOADED = "overloaded"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server-error"
    MALFORMED_ANSWER = "malformed-answer"
    ANSWER_TOO_LARGE = "answer-too-large"
    REDIRECTED = "redirected"
    CREDENTIALS = "credentials"
    MONEY = "money"
    NOT_FOUND = "not-found"
    BAD_REQUEST = "bad-request"
    PROMPT_TOO_LARGE = "prompt-too-large"
    CONTENT_REFUSED = "content-refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that the provider says a call took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
        )


class QuotaKind(StrEnum):
    """What a rate-limit header counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input-tokens"
    OUTPUT_TOKENS = "output-tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaReport:
    """What a provider's headers said of one of its limits; None where they said nothing that makes sense.

    `reset_s` is the time until nothing is used, not until the next call may go; it is right to within
    `resolution_s`, the unit in which the provider writes it.
    """

    kind: QuotaKind
    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None
    resolution_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The provider answered. `model` is the one it names, which may be more exact than the one asked for.

    `quotas` is, here and below, what the answer's headers say of the account's limits.
    """

    text: str
    model: str
    usage: Usage
    finish_reason: str = "stop"
    quotas: tuple[QuotaReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """The provider has no room now (429, 503, 529, overload inside a 200): waiting cures it, for all callers.

    `retry_after_s` is what the provider asked for, already bounded; None when it did not say.
    """

    reason: Reason
    http_status: int
    retry_after_s: float | None = None
    quotas: tuple[QuotaReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The provider will never take this call: the event ends unless its handler catches the error."""

    reason: Reason
    http_status: int | None = None
    quotas: tuple[QuotaReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The call failed in a way that may pass. `counts` is False for connection errors, which end no event.

    `on_the_wire` is False when the request certainly never reached the provider.
    """

    reason: Reason
    counts: bool
    on_the_wire: bool
    http_status: int | None = None
    retry_after_s: float | None = None
    quotas: tuple[QuotaReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """Something that concerns every call of the scope (credentials, money) and that waiting does not cure."""

    reason: Reason
    http_status: int
    quotas: tuple[QuotaReport, ...] = ()


Outcome = Completed | Throttled | Rejected | Failed | Halted
