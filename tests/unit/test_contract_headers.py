"""The contract's headers are those that the worker writes, no more and no fewer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from sluicegate.contract.headers import event_headers, letter_headers, result_headers
from sluicegate.contract.schemas import schema_of
from sluicegate.events.cloudevent import binary_headers
from sluicegate.events.models import ChatReply
from sluicegate.llm.outcomes import Outcome, Reason, Rejected
from sluicegate.processing import letters
from sluicegate.records import OutgoingRecord
from sluicegate.retry.headers import RETRY_HEADER_NAMES
from tests.unit.processing_world import World, answer, headers_of, value_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ENVELOPE = binary_headers(id="e", source="/s", type="t", time_ms=0, traceparent=TRACE)


async def result_and_letter() -> tuple[OutgoingRecord, OutgoingRecord]:
    """Return what becomes of an event that is answered and of one that the provider rejects."""
    outcomes: list[Outcome] = [answer(), Rejected(reason=Reason.BAD_REQUEST, http_status=400)]
    world = World(script=lambda request: outcomes.pop(0))
    await world.deliver(world.chat(turn=0, headers=ENVELOPE))
    await world.deliver(world.chat(turn=1, headers=ENVELOPE))
    return world.results[0], world.letters[0]


async def test_a_real_result_is_as_the_contract_says() -> None:
    """Its headers and its value validate, and it carries none that the contract does not name."""
    result, _ = await result_and_letter()
    headers = headers_of(result)
    schema = result_headers(ChatReply.ce_type)
    Draft7Validator(schema).validate(headers)
    assert set(headers) <= set(schema["properties"])
    assert set(schema["properties"]) - set(headers) == {"predecessor-dead-lettered"}
    Draft202012Validator(schema_of(ChatReply)).validate(value_of(result))
    assert ChatReply.model_validate_json(orjson.dumps(value_of(result)))


async def test_a_real_dead_letter_is_as_the_contract_says() -> None:
    """Its own headers validate; what the event came with stands beside them."""
    _, letter = await result_and_letter()
    Draft7Validator(letter_headers()).validate(headers_of(letter))
    described = set(letter_headers()["properties"])
    assert described == RETRY_HEADER_NAMES | letters._OWN_HEADERS | {letters.CAUSATION}


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ({}, True),
        ({"x-own": "1"}, True),
        ({name: value.decode() for name, value in ENVELOPE}, True),
        ({"ce_id": "e", "ce_source": "/s", "ce_type": "t"}, True),
        ({"ce_id": "e"}, False),
        ({"ce_id": "e", "ce_source": "/s", "ce_type": "t", "ce_specversion": "2.0"}, False),
    ],
)
def test_an_event_needs_no_headers_but_no_half_an_envelope(headers: dict[str, Any], fits: bool) -> None:
    """As the worker reads it: bare JSON is taken, an envelope without one of its names is not."""
    assert Draft7Validator(event_headers("t")).is_valid(headers) is fits
