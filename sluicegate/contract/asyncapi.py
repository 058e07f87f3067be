"""The AsyncAPI 3 document: which records other services write and read, with which keys and headers.

It is written from Sluicegate's side, as AsyncAPI has it: it *receives* events, and *sends* results and dead
letters. Schemas are in AsyncAPI's own dialect (a superset of JSON Schema draft 7); those in files of their
own are 2020-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sluicegate.contract.headers import event_headers, letter_headers, result_headers
from sluicegate.contract.schemas import StreamContract, shared_schemas

Document = dict[str, Any]

# Rises with what is added; a change that breaks readers or publishers is another ce_type instead.
_VERSION: Final = "1.0.0"
_REF: Final = "#/components/schemas/{model}"
_PARTITIONING: Final = (
    "The partition is (murmur2(key) & 0x7fffffff) mod the number of partitions, as Java's client has it "
    "(librdkafka: `partitioner=murmur2_random`). Events of one key are kept in order only there."
)


def asyncapi_document(streams: Sequence[StreamContract]) -> Document:
    """Return the document that covers the streams."""
    models = [model for stream in streams for model in stream.models]
    found, schemas = shared_schemas(models, _REF)
    names = dict(zip(models, found, strict=True))
    document: Document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Sluicegate",
            "version": _VERSION,
            "description": "Events in, results and dead letters out. Values are JSON in UTF-8; "
            "records are CloudEvents 1.0 in Kafka's binary mode.",
        },
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {"messages": {}, "schemas": schemas},
    }
    for stream in streams:
        _add_events(document, stream, names[stream.event])
        if stream.result is not None:
            _add_results(document, stream, stream.result.ce_type, names[stream.result])
        _add_letters(document, stream)
    return document


def _add_events(document: Document, stream: StreamContract, schema: str) -> None:
    field = stream.event.id_field
    message = {
        "title": f"An event of {stream.name}",
        "description": f"At most {stream.max_event_bytes} bytes. Bare JSON without headers is taken, too. "
        "Fields that the schema does not know are ignored.",
        "contentType": "application/json",
        "headers": event_headers(stream.event.ce_type),
        "payload": _reference("schemas", schema),
        "bindings": _keyed(f"The value's {field}, as text. Without a key the field stands for it."),
    }
    _add(
        document,
        stream,
        "event",
        "receive",
        stream.topics.input,
        f"Events for {stream.name}.",
        message,
    )


def _add_results(document: Document, stream: StreamContract, ce_type: str, schema: str) -> None:
    message = {
        "title": f"A result of {stream.name}",
        "description": "After a crash the same result may come again, with the same ce_id: keep the first.",
        "contentType": "application/json",
        "headers": result_headers(ce_type),
        "correlationId": {
            "description": "The id of the event that it answers.",
            "location": "$message.header#/ce_causationid",
        },
        "payload": _reference("schemas", schema),
        "bindings": _keyed("The event's key."),
    }
    _add(document, stream, "result", "send", stream.topics.results, f"Results of {stream.name}.", message)


def _add_letters(document: Document, stream: StreamContract) -> None:
    message = {
        "title": f"An event of {stream.name} that ended without a result",
        "description": "The input record's own value and headers, whatever they were, and why it ended.",
        "contentType": "application/octet-stream",
        "headers": letter_headers(),
        "payload": {},
        "bindings": _keyed("The event's key, if it had one."),
    }
    _add(document, stream, "letter", "send", stream.topics.dlq, f"Dead letters of {stream.name}.", message)


def _add(
    document: Document,
    stream: StreamContract,
    kind: str,
    action: str,
    topic: str,
    description: str,
    message: Document,
) -> None:
    name = f"{stream.name}.{kind}"
    document["components"]["messages"][name] = {"name": name, **message}
    document["channels"][name] = {
        "address": topic,
        "description": f"{description} {_PARTITIONING}" if action == "receive" else description,
        "messages": {name: _reference("messages", name)},
        "bindings": {"kafka": {"topic": topic, "bindingVersion": "0.5.0"}},
    }
    document["operations"][f"{action}.{name}"] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _reference(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _keyed(description: str) -> Document:
    return {"kafka": {"key": {"type": "string", "description": description}, "bindingVersion": "0.5.0"}}
