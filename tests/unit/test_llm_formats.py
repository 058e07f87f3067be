"""The two wire formats: what is sent, and how an answer is read."""

from __future__ import annotations

import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.llm.api import CallRequest, Message
from sluicegate.llm.formats import wire_format
from sluicegate.llm.outcomes import Completed, Reason, Rejected, Usage

_REQUEST = CallRequest(
    model="small",
    messages=(
        Message(role="system", text="Be kind."),
        Message(role="user", text="Where is it?"),
        Message(role="assistant", text="On its way."),
        Message(role="user", text="Since when?"),
    ),
    max_output_tokens=10,
    request_id="e/reply/1",
    json_object=True,
)


def test_openai_gets_messages_a_bound_and_the_response_format() -> None:
    """Everything that a chat completion needs, and a bearer key."""
    wire = wire_format("openai")
    assert wire.body(_REQUEST) == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "On its way."},
            {"role": "user", "content": "Since when?"},
        ],
        "max_tokens": 10,
        "response_format": {"type": "json_object"},
    }
    assert wire.headers("k") == {"Authorization": "Bearer k"}


def test_anthropic_gets_the_system_text_apart_and_no_prefilled_answer() -> None:
    """`json_object` adds nothing: newer models refuse a last message of the assistant."""
    wire = wire_format("anthropic")
    assert wire.body(_REQUEST) == {
        "model": "small",
        "max_tokens": 10,
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "On its way."},
            {"role": "user", "content": "Since when?"},
        ],
    }
    assert wire.headers("k") == {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def test_without_a_key_no_header_could_carry_one() -> None:
    """A local server that wants no key gets none."""
    assert wire_format("openai").headers(None) == {}
    assert wire_format("anthropic").headers(None) == {"anthropic-version": "2023-06-01"}


def test_openai_usage_is_read_with_what_was_cached() -> None:
    """The first choice's text, the model that answered, and the provider's own count."""
    outcome = wire_format("openai").read_answer(
        {
            "model": "small-2026",
            "choices": [{"message": {"content": "Here."}, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        },
        _REQUEST,
    )
    usage = Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4)
    assert outcome == Completed(text="Here.", model="small-2026", usage=usage, finish_reason="length")


def test_anthropic_usage_counts_the_whole_prompt_as_input() -> None:
    """The format counts cached tokens beside the input; here they are part of it."""
    outcome = wire_format("anthropic").read_answer(
        {
            "model": "small-2026",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "He"},
                {"type": "text", "text": "re."},
            ],
            "stop_reason": "max_tokens",
            "usage": {
                "input_tokens": 3,
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 2,
                "output_tokens": 2,
            },
        },
        _REQUEST,
    )
    usage = Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4)
    assert outcome == Completed(text="Here.", model="small-2026", usage=usage, finish_reason="length")


@pytest.mark.parametrize("count", [-1, 2**40, True, "7", 1.5, None])
def test_a_token_count_that_cannot_be_one_is_zero(count: object) -> None:
    """What a provider says is charged and priced: nonsense must not get that far."""
    answer = {"choices": [{"message": {"content": "Here."}}], "usage": {"prompt_tokens": count}}
    outcome = wire_format("openai").read_answer(answer, _REQUEST)
    assert outcome == Completed(text="Here.", model="small", usage=Usage())


@pytest.mark.parametrize(
    ("format", "answer"),
    [
        ("openai", {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}),
        ("openai", {"choices": [{"message": {"content": None, "refusal": "I cannot."}}]}),
        ("anthropic", {"content": [], "stop_reason": "refusal"}),
    ],
)
def test_a_refusal_to_answer_is_rejected(format: str, answer: dict[str, object]) -> None:
    """No retry makes a model say what it will not say."""
    outcome = wire_format(format).read_answer(answer, _REQUEST)
    assert outcome == Rejected(reason=Reason.CONTENT_REFUSED, http_status=200)


def test_an_unknown_format_is_refused_with_the_known_names() -> None:
    """The message says what may be written instead."""
    with pytest.raises(ConfigurationError, match="openai or anthropic"):
        wire_format("telepathy")
