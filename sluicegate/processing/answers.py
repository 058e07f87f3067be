"""How a request is told from another one, and how an answer is remembered."""

from __future__ import annotations

from hashlib import sha256

import orjson

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Usage
from sluicegate.processing.context import Completion


def request_hash(request: CallRequest) -> str:
    """Return 32 hex digits over all that decides the answer; the request's id is not part of it.

    `model` is the stream's own, not that of the route which takes the call: an answer of a fallback is
    remembered and found again like any other.
    """
    content = orjson.dumps(
        [
            request.model,
            request.max_output_tokens,
            request.json_object,
            [[message.role, message.text] for message in request.messages],
        ]
    )
    return sha256(content).hexdigest()[:32]


def prompt_bytes(request: CallRequest) -> int:
    """Return the size of the messages' text in UTF-8, from which tokens are estimated."""
    return sum(len(message.text.encode()) for message in request.messages)


def encode_answer(answer: Completed, route: str) -> bytes:
    """Return what is stored for a step that this route completed."""
    usage = answer.usage
    tokens = [usage.input_tokens, usage.output_tokens, usage.cached_input_tokens]
    return orjson.dumps({"text": answer.text, "model": answer.model, "tokens": tokens, "route": route})


def decode_answer(stored: bytes) -> Completion:
    """Return what `encode_answer` stored; before there were routes it stored none."""
    answer = orjson.loads(stored)
    input_tokens, output_tokens, cached_input_tokens = answer["tokens"]
    return Completion(
        text=answer["text"],
        model=answer["model"],
        route=answer.get("route", ""),
        usage=Usage(
            input_tokens=input_tokens, output_tokens=output_tokens, cached_input_tokens=cached_input_tokens
        ),
    )
