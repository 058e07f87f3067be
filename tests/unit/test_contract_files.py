"""The committed contract: generated, valid, true of the samples and of what the worker really writes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from sluicegate.cli.contract import stream_contracts
from sluicegate.contract.asyncapi import asyncapi_document
from sluicegate.contract.files import breaking, contract_files, drift
from sluicegate.errors import BadEventError
from sluicegate.events.models import Document, Event, SupportChat, read_model
from sluicegate.local.samples import bundled_chats, installed_documents
from sluicegate.settings import load_settings

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "contract"
RELEASED = ROOT / "tests" / "released_contract"
ASYNCAPI_SCHEMA = ROOT / "examples/node-publisher/node_modules/@asyncapi/specs/schemas/3.0.0.json"

CHAT: dict[str, Any] = {"conversation_id": "c", "turn": 0, "speaker": "customer", "text": "x"}
DOCUMENT: dict[str, Any] = {"document_id": "d", "title": "", "media_type": "text/plain", "text": "x"}
WRONG: tuple[Any, ...] = (None, "", "x" * 513, "x" * 5000, 1.5, -1, 2**53, True, [], {}, "3", "customer", 7)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def schema(name: str) -> dict[str, Any]:
    """Return a committed schema."""
    loaded: dict[str, Any] = orjson.loads((CONTRACT / name).read_bytes())
    return loaded


def references(node: Any) -> Iterator[str]:
    """Yield every `$ref` of a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def mutants(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield events that differ from a good one in one field, which is missing, wrong or unknown."""
    yield good
    yield {**good, "unknown": 1}
    yield {**good, "tenant": "t"}
    for name in good:
        yield {other: value for other, value in good.items() if other != name}
    for name in (*good, "tenant"):
        yield from ({**good, name: value} for value in WRONG)


def test_the_committed_contract_is_what_the_models_say() -> None:
    """`sluicegate contract` writes nothing new: who changes a model commits its contract with it."""
    wanted = contract_files(stream_contracts(load_settings(None, {})))
    assert drift(read_folder(CONTRACT), wanted) == ()


def test_the_committed_contract_breaks_nobody_who_holds_the_released_one() -> None:
    """The released files are only ever added to: other teams built on them."""
    released = read_folder(RELEASED)
    assert set(released) <= {path.name for path in CONTRACT.iterdir()}
    assert breaking(released, read_folder(CONTRACT)) == ()


@pytest.mark.parametrize("path", sorted(CONTRACT.glob("*.*.json")), ids=lambda path: path.name)
def test_each_schema_is_valid_2020_12(path: Path) -> None:
    """Any validator of that draft takes it."""
    found = schema(path.name)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(found)


def test_the_samples_are_valid() -> None:
    """What the demo publishes is what the contract says: bundled chats and installed packages."""
    lines = resources.files("sluicegate.local.samples").joinpath("chats.jsonl").read_bytes().splitlines()
    chats, documents = (
        Draft202012Validator(schema(f"{name}.event.json")) for name in ("support-chat", "documents")
    )
    assert len(lines) == len(bundled_chats()) > 100
    for line in lines:
        chats.validate(orjson.loads(line))
    for document in installed_documents():
        documents.validate(orjson.loads(document.model_dump_json()))


@pytest.mark.parametrize(
    ("name", "model", "good"),
    [("support-chat.event.json", SupportChat, CHAT), ("documents.event.json", Document, DOCUMENT)],
)
def test_schema_and_worker_refuse_the_same(name: str, model: type[Event], good: dict[str, Any]) -> None:
    """Whoever has nothing but the schema knows what becomes a dead letter, and what does not."""
    validator = Draft202012Validator(schema(name))
    for event in mutants(good):
        try:
            read_model(model, event)
        except BadEventError:
            taken = False
        else:
            taken = True
        assert validator.is_valid(event) == taken, event


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    """Operations name channels, channels messages, messages schemas, and all of them are there."""
    document = schema("asyncapi.json")
    found = set(references(document))
    assert len(found) > 10
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node
    for message in document["components"]["messages"].values():
        Draft7Validator.check_schema(message["headers"])
    Draft7Validator.check_schema({"definitions": document["components"]["schemas"]})


def test_the_asyncapi_document_is_valid() -> None:
    """By the specification's own schema, where the example's npm packages are installed."""
    if not ASYNCAPI_SCHEMA.exists():
        pytest.skip("npm install in examples/node-publisher brings the AsyncAPI schema")
    validator = Draft7Validator(orjson.loads(ASYNCAPI_SCHEMA.read_bytes()))
    document = schema("asyncapi.json")
    assert [error.message for error in validator.iter_errors(document)] == []
    document["operations"]["receive.support-chat.event"]["action"] = "take"
    assert not validator.is_valid(document)


def test_the_document_names_the_topics_of_the_settings() -> None:
    """A deployment with names of its own gets a contract of its own."""
    settings = load_settings(None, {"SLUICEGATE_STREAMS__DOCUMENTS__RESULTS_TOPIC": "found"})
    document = asyncapi_document(stream_contracts(settings))
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    assert addresses["documents.result"] == "found"
    assert addresses["documents.letter"] == "sluicegate.documents.dlq"
    assert document["operations"]["receive.documents.event"]["channel"] == {
        "$ref": "#/channels/documents.event"
    }
