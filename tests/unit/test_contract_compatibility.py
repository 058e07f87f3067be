"""Which changes of a schema break whom: each mutant is caught, each harmless change is let pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
from pydantic import BaseModel, Field

from sluicegate.cli.contract import contract
from sluicegate.cli.main import build_app, run
from sluicegate.contract.compatibility import Direction, breaking_changes
from sluicegate.contract.schemas import schema_of
from sluicegate.events.models import DocumentIndex, Event, SupportChat

Change = Callable[[dict[str, Any]], None]


class Part(BaseModel):
    """A part that holds parts."""

    name: str
    weight: int | None = None
    parts: list[Part] = []


class Order(Event):
    """One of everything."""

    ce_type: ClassVar[str] = "example.order.v1"
    id_field: ClassVar[str] = "order_id"

    order_id: str = Field(min_length=1, max_length=10, pattern="^[a-z]+$")
    count: int = Field(ge=0, le=9)
    share: float = 0.5
    parts: list[Part] = Field(default=[], max_length=5)
    labels: dict[str, int] = Field(default={})


ORDER = schema_of(Order)


def changed(change: Change) -> dict[str, Any]:
    """Return the order's schema after a change."""
    schema = copy.deepcopy(ORDER)
    change(schema)
    return schema


def put(*path: str, value: Any) -> Change:
    """Return the change that sets a keyword."""

    def change(schema: dict[str, Any]) -> None:
        for part in path[:-1]:
            schema = schema[part]
        schema[path[-1]] = value

    return change


def drop(*path: str) -> Change:
    """Return the change that takes a keyword away."""

    def change(schema: dict[str, Any]) -> None:
        for part in path[:-1]:
            schema = schema[part]
        del schema[path[-1]]

    return change


def remove(place: str) -> Change:
    """Return the change that removes a field of the order, and its being required."""

    def change(schema: dict[str, Any]) -> None:
        del schema["properties"][place]
        schema["required"] = [name for name in schema["required"] if name != place]

    return change


PROPERTIES = "properties"
WEIGHT = ("$defs", "Part", PROPERTIES, "weight")
HARMLESS: dict[str, Change] = {
    "an optional field": put(PROPERTIES, "note", value={"type": "string", "maxLength": 5}),
    "an optional field inside": put("$defs", "Part", PROPERTIES, "note", value={"type": "string"}),
    "another description": put(PROPERTIES, "count", "description", value="how many"),
    "another title": put("title", value="Bestellung"),
}
# Harmless for events, whose reader takes more; for results, whose readers get it, not.
WIDENED: dict[str, tuple[Change, str]] = {
    "a field need not be there": (put("required", value=["order_id"]), "count: required"),
    "a larger maximum": (put(PROPERTIES, "count", "maximum", value=10), "count: maximum"),
    "no minimum": (drop(PROPERTIES, "count", "minimum"), "count: minimum"),
    "longer text": (put(PROPERTIES, "order_id", "maxLength", value=11), "order_id: maxLength"),
    "any text": (drop(PROPERTIES, "order_id", "pattern"), "order_id: pattern"),
    "fractions, too": (put(PROPERTIES, "count", "type", value="number"), "count: type"),
    "nothing, too": (
        put(PROPERTIES, "count", value={"anyOf": [ORDER["properties"]["count"], {"type": "null"}]}),
        "count: type",
    ),
    "text, too, inside": (
        put(*WEIGHT, "anyOf", value=[{"type": "integer"}, {"type": "string"}, {"type": "null"}]),
        "parts[].weight: anyOf",
    ),
    "more parts": (put(PROPERTIES, "parts", "maxItems", value=6), "parts: maxItems"),
    "any labels": (put(PROPERTIES, "labels", "additionalProperties", value=True), "labels: additional"),
}
# Harmless for results; events that were accepted would be refused.
NARROWED: dict[str, tuple[Change, str]] = {
    "a field must be there": (put("required", value=["order_id", "count", "share"]), "share: required"),
    "a new field must be there": (put("required", value=["order_id", "count", "no"]), "no: required"),
    "a smaller maximum": (put(PROPERTIES, "count", "maximum", value=8), "count: maximum"),
    "a larger minimum": (put(PROPERTIES, "count", "minimum", value=1), "count: minimum"),
    "another bound": (put(PROPERTIES, "count", "exclusiveMinimum", value=0), "count: exclusiveMinimum"),
    "shorter text": (put(PROPERTIES, "order_id", "maxLength", value=9), "order_id: maxLength"),
    "whole numbers only": (put(PROPERTIES, "share", "type", value="integer"), "share: type"),
    "only some values": (put(PROPERTIES, "count", "enum", value=[1, 2]), "count: enum"),
    "only one value": (put(PROPERTIES, "count", "const", value=1), "count: enum"),
    "never nothing, inside": (put(*WEIGHT, "anyOf", value=[{"type": "integer"}]), "parts[].weight: type"),
    "fewer parts": (put(PROPERTIES, "parts", "maxItems", value=4), "parts: maxItems"),
    "no unknown fields": (put("additionalProperties", value=False), "the whole: additionalProperties"),
}
BROKEN_FOR_ALL: dict[str, tuple[Change, str]] = {
    "a field is removed": (remove("share"), "share: removed"),
    "a required field is removed": (remove("count"), "count: removed"),
    "a field is removed inside": (drop("$defs", "Part", PROPERTIES, "name"), "parts[].name: removed"),
    "a field is renamed": (
        lambda schema: schema["properties"].update(amount=schema["properties"].pop("count")),
        "count: removed",
    ),
    "another type": (put(PROPERTIES, "count", value={"type": "string"}), "count: type"),
    "another type inside": (put(*WEIGHT, value={"type": "string"}), "parts[].weight"),
    "another pattern": (put(PROPERTIES, "order_id", "pattern", value="^[A-Z]+$"), "order_id: pattern"),
    "a list becomes text": (put(PROPERTIES, "parts", value={"type": "string"}), "parts"),
    "a keyword that is not judged": (put(PROPERTIES, "count", "not", value={}), "count: not, which"),
}


def faults(change: Change, direction: Direction) -> tuple[str, ...]:
    """Return what the check says of the change."""
    return breaking_changes(ORDER, changed(change), direction)


@pytest.mark.parametrize("direction", Direction)
def test_what_breaks_nobody_is_let_pass(direction: Direction) -> None:
    """The same schema, and one with optional fields or other prose, needs no new version."""
    assert breaking_changes(ORDER, ORDER, direction) == ()
    assert {name: faults(change, direction) for name, change in HARMLESS.items()} == dict.fromkeys(
        HARMLESS, ()
    )


@pytest.mark.parametrize("name", WIDENED)
def test_taking_more_is_harmless_and_giving_more_is_not(name: str) -> None:
    """Events may become wider, results may not."""
    change, said = WIDENED[name]
    assert faults(change, Direction.EVENTS) == ()
    assert any(fault.startswith(said) for fault in faults(change, Direction.RESULTS))


@pytest.mark.parametrize("name", NARROWED)
def test_giving_less_is_harmless_and_taking_less_is_not(name: str) -> None:
    """Results may become narrower, events may not."""
    change, said = NARROWED[name]
    assert faults(change, Direction.RESULTS) == ()
    assert any(fault.startswith(said) for fault in faults(change, Direction.EVENTS))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("name", BROKEN_FOR_ALL)
def test_what_is_gone_or_another_is_caught_both_ways(name: str, direction: Direction) -> None:
    """Removal, renaming and retyping need a new `ce_type`."""
    change, said = BROKEN_FOR_ALL[name]
    assert any(fault.startswith(said) for fault in faults(change, direction))


def test_a_field_that_a_closed_reader_does_not_know_is_caught() -> None:
    """Where readers refuse unknown fields even an optional one is too much."""
    closed = changed(put("additionalProperties", value=False))
    wider = copy.deepcopy(closed)
    wider["properties"]["note"] = {"type": "string"}
    assert breaking_changes(closed, wider, Direction.RESULTS) == (
        "note: additionalProperties; readers get what they were not told of",
    )
    assert breaking_changes(closed, wider, Direction.EVENTS) == ()


@pytest.mark.parametrize(("model", "direction"), [(SupportChat, "events"), (DocumentIndex, "results")])
def test_removing_any_field_of_a_shipped_schema_is_caught(model: Any, direction: str) -> None:
    """No field of ours can go unnoticed, however deep it lies."""
    schema = schema_of(model)
    for owner in [schema, *schema["$defs"].values()]:
        for name in owner.get("properties", {}):
            without = copy.deepcopy(schema)
            target = without if owner is schema else without["$defs"][owner["title"]]
            del target["properties"][name]
            found = breaking_changes(schema, without, Direction(direction))
            assert any(fault.endswith(f"{name}: removed") for fault in found)


def test_the_command_writes_checks_and_refuses_what_would_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drift is an error, a breaking change is refused, a new ce_type is a new contract."""
    config = tmp_path / "sluicegate.toml"
    config.write_text("")
    folder = tmp_path / "contract"
    arguments = ["contract", "--out", str(folder), "--config", str(config)]
    assert run(build_app(), [*arguments, "--check"]) == 1
    assert "support-chat.event.json: missing" in capsys.readouterr().err
    assert run(build_app(), arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert run(build_app(), [*arguments, "--check"]) == 0

    path = folder / "support-chat.event.json"
    older = orjson.loads(path.read_bytes())
    older["properties"]["mood"] = {"type": "string"}
    path.write_bytes(orjson.dumps(older))
    assert run(build_app(), arguments) == 1
    assert "support-chat.event.json: mood: removed" in capsys.readouterr().err
    assert orjson.loads(path.read_bytes()) == older
    assert contract(out=folder, allow_breaking=True, config=config) == 0

    older["$id"] = "urn:sluicegate:schema:sluicegate.support-chat.message.v0"
    path.write_bytes(orjson.dumps(older))
    assert run(build_app(), [*arguments, "--check"]) == 1
    assert f"{path}: differs" in capsys.readouterr().err
    assert run(build_app(), arguments) == 0
    path.write_text("<<<<<<< a merge")
    assert run(build_app(), arguments) == 1
    assert "support-chat.event.json is no JSON Schema" in capsys.readouterr().err
    path.unlink()
    assert run(build_app(), arguments) == 0
    (folder / "old.event.json").write_bytes(path.read_bytes())
    assert run(build_app(), [*arguments, "--check"]) == 1
    assert "old.event.json: no stream has it any more" in capsys.readouterr().err
