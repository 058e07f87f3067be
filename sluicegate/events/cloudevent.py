"""CloudEvents 1.0 on Kafka: binary and structured mode, and bare JSON without any envelope.

Rules from the CloudEvents Kafka protocol binding 1.0.2: a `content-type` that begins with
`application/cloudevents` means structured, else `ce_*` headers mean binary. One step is wider than the
rule: a missing `ce_specversion` is taken for 1.0.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.strict_json import JsonObject, read_json, read_object
from sluicegate.events.timestamps import format_rfc3339, parse_rfc3339
from sluicegate.records import Headers, Record

_CONTENT_TYPE = "content-type"
_TRACEPARENT = "traceparent"
_SPEC_VERSION = "1.0"
_REQUIRED = ("id", "source", "type")
_ATTRIBUTES = frozenset({"specversion", *_REQUIRED, "time"})
_HEADERS = {f"ce_{name}": name for name in _ATTRIBUTES} | {_CONTENT_TYPE: _CONTENT_TYPE}
# Attributes are carried on in headers of copies and results, which have a bounded headroom.
_LONGEST_ATTRIBUTE = 4096
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """An event's envelope and its data. Bare JSON has neither id nor source nor type.

    `id` and `source` are both there or both None. `time_ms` is `ce_time`; `traceparent` is None
    unless it is well-formed.
    """

    data: JsonObject = field(repr=False)
    id: str | None = None
    source: str | None = None
    type: str | None = None
    time_ms: int | None = None
    traceparent: str | None = None


def read_event(record: Record, *, max_event_bytes: int) -> CloudEvent:
    """Read a record in whichever of the three shapes it has.

    Raises BadEventError: TOMBSTONE, TOO_LARGE (value above `max_event_bytes`), BAD_ENVELOPE, NOT_UTF8,
    NOT_JSON, or WRONG_SCHEMA when the data is no JSON object.
    """
    if record.value is None:
        raise BadEventError(BadEventReason.TOMBSTONE)
    if len(record.value) > max_event_bytes:
        raise BadEventError(BadEventReason.TOO_LARGE)
    attributes = _header_attributes(record.headers)
    trace = _header_trace(record.headers)
    content_type = attributes.pop(_CONTENT_TYPE, "").strip().lower()
    if content_type.startswith("application/cloudevents"):
        return _structured(record.value, content_type, trace)
    if attributes.keys() & {"specversion", *_REQUIRED}:
        return _envelope(attributes, read_object(record.value), trace, "ce_")
    return CloudEvent(data=read_object(record.value), traceparent=trace)


def binary_headers(
    *,
    id: str,
    source: str,
    type: str,
    time_ms: int,
    causation_id: str | None = None,
    traceparent: str | None = None,
) -> Headers:
    """Return the headers of an event that we publish in binary mode with a JSON value.

    `causation_id` is the id of the event that this one answers; None where it answers none.
    """
    texts = {
        "ce_specversion": _SPEC_VERSION,
        "ce_id": id,
        "ce_source": source,
        "ce_type": type,
        "ce_time": format_rfc3339(time_ms),
        _CONTENT_TYPE: "application/json",
    }
    if causation_id is not None:
        texts["ce_causationid"] = causation_id
    if traceparent is not None:
        texts[_TRACEPARENT] = traceparent
    return tuple((name, text.encode("utf-8")) for name, text in texts.items())


def _header_attributes(headers: Headers) -> dict[str, str]:
    """Take the headers that we read. One attribute with two values means two different events: refused."""
    found: dict[str, str] = {}
    for name, value in headers:
        attribute = _HEADERS.get(name)
        if attribute is None:
            continue
        text = _text(value)
        if text is None or found.setdefault(attribute, text) != text:
            raise BadEventError(BadEventReason.BAD_ENVELOPE, name)
    return found


def _header_trace(headers: Headers) -> str | None:
    """Return the plain header, else the distributed tracing extension's attribute, where well-formed."""
    traces = {name: well_formed_trace(_text(value)) for name, value in headers if name.endswith(_TRACEPARENT)}
    return traces.get(_TRACEPARENT) or traces.get(f"ce_{_TRACEPARENT}")


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _structured(value: bytes, content_type: str, trace: str | None) -> CloudEvent:
    if content_type.partition(";")[0].rstrip() != "application/cloudevents+json":
        raise BadEventError(BadEventReason.BAD_ENVELOPE, _CONTENT_TYPE)
    envelope = read_json(value)
    if not isinstance(envelope, dict):
        raise BadEventError(BadEventReason.BAD_ENVELOPE)
    attributes = {name: envelope[name] for name in _ATTRIBUTES if envelope.get(name) is not None}
    trace = trace or well_formed_trace(envelope.get(_TRACEPARENT))
    return _envelope(attributes, _structured_data(envelope), trace, "")


def _structured_data(envelope: JsonObject) -> JsonObject:
    data, encoded = envelope.get("data"), envelope.get("data_base64")
    if encoded is None:
        if not isinstance(data, dict):
            raise BadEventError(BadEventReason.WRONG_SCHEMA, "data")
        return data
    if data is not None or not isinstance(encoded, str):
        raise BadEventError(BadEventReason.BAD_ENVELOPE, "data_base64")
    decoded: bytes | None = None
    with suppress(ValueError):  # includes binascii.Error; what it says may quote the text
        decoded = base64.b64decode(encoded, validate=True)
    if decoded is None:
        raise BadEventError(BadEventReason.BAD_ENVELOPE, "data_base64")
    return read_object(decoded)


def _envelope(attributes: Mapping[str, Any], data: JsonObject, trace: str | None, prefix: str) -> CloudEvent:
    for name in attributes.keys() | set(_REQUIRED):
        if not is_attribute(attributes.get(name)):
            raise BadEventError(BadEventReason.BAD_ENVELOPE, prefix + name)
    if attributes.get("specversion", _SPEC_VERSION) != _SPEC_VERSION:
        raise BadEventError(BadEventReason.BAD_ENVELOPE, f"{prefix}specversion")
    time_ms = parse_rfc3339(attributes["time"]) if "time" in attributes else None
    if "time" in attributes and time_ms is None:
        raise BadEventError(BadEventReason.BAD_ENVELOPE, f"{prefix}time")
    return CloudEvent(
        data=data,
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        time_ms=time_ms,
        traceparent=trace,
    )


def is_attribute(value: object) -> bool:
    """CloudEvents 1.0, type String: no control characters; required ones are not empty."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ATTRIBUTE and not _FORBIDDEN.search(value)


def well_formed_trace(traceparent: object) -> str | None:
    """W3C Trace Context; a broken one only loses the trace, never the event."""
    if isinstance(traceparent, str) and len(traceparent) <= 256 and _TRACE.fullmatch(traceparent):
        return traceparent
    return None
