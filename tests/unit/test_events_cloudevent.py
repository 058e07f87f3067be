"""CloudEvents on Kafka: three shapes in, one envelope out, and nothing hostile gets through."""

from __future__ import annotations

import base64
import json
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as oracle
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as OracleEvent
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import BadEventError, BadEventReason
from sluicegate.events.cloudevent import CloudEvent, binary_headers, read_event
from sluicegate.events.timestamps import format_rfc3339, parse_rfc3339
from sluicegate.records import Headers, Record

MAX_BYTES = 900_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STRUCTURED = ("content-type", b"application/cloudevents+json; charset=utf-8")
REQUIRED: Headers = (("ce_id", b"1"), ("ce_source", b"/shop"), ("ce_type", b"message"))

words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(words, json_values, max_size=5)
moments = st.datetimes(
    min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def record(value: bytes | None, *headers: tuple[str, bytes]) -> Record:
    """A record of some input topic."""
    return Record(topic="t", partition=0, offset=7, timestamp_ms=0, key=None, value=value, headers=headers)


def read(value: bytes | None, *headers: tuple[str, bytes]) -> CloudEvent:
    """Read a record with the default bound."""
    return read_event(record(value, *headers), max_event_bytes=MAX_BYTES)


def structured(**attributes: Any) -> bytes:
    """A structured event with the required attributes, some of them replaced (None leaves one out)."""
    whole = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "message", "data": {"a": 1}}
    return json.dumps({k: v for k, v in (whole | attributes).items() if v is not None}).encode()


def refusal(value: bytes | None, *headers: tuple[str, bytes]) -> tuple[BadEventReason, str]:
    """Why and where a record is refused."""
    with pytest.raises(BadEventError) as caught:
        read(value, *headers)
    return caught.value.reason, caught.value.where


# --- The three shapes -------------------------------------------------------------------------------


def test_bare_json_is_an_event_without_an_envelope() -> None:
    """A publisher who knows nothing of CloudEvents is understood."""
    assert read(b'{"a": 1}', ("content-type", b"application/json")) == CloudEvent(data={"a": 1})


@given(id=words, source=words, type=words, moment=moments, data=objects)
def test_binary_mode_agrees_with_the_reference(
    id: str, source: str, type: str, moment: datetime, data: dict[str, Any]
) -> None:
    """What the CloudEvents SDK writes in binary mode, we read as it was meant."""
    attributes = {"specversion": "1.0", "id": id, "source": source, "type": type, "time": moment}
    written = oracle.to_binary(OracleEvent(attributes, data), JSONFormat())
    event = read(_bytes(written.value), *written.headers.items())
    assert event == CloudEvent(id=id, source=source, type=type, time_ms=_milliseconds(moment), data=data)


@given(id=words, source=words, type=words, moment=moments, data=objects)
def test_structured_mode_agrees_with_the_reference(
    id: str, source: str, type: str, moment: datetime, data: dict[str, Any]
) -> None:
    """What the CloudEvents SDK writes in structured mode, we read as it was meant."""
    attributes = {"specversion": "1.0", "id": id, "source": source, "type": type, "time": moment}
    event = OracleEvent({**attributes, "datacontenttype": "application/json"}, data)
    written = oracle.to_structured(event, JSONFormat())
    read_back = read(_bytes(written.value), *written.headers.items())
    assert read_back == CloudEvent(id=id, source=source, type=type, time_ms=_milliseconds(moment), data=data)


@given(id=words, source=words, type=words, moment=moments, causation=words, data=objects)
def test_the_reference_reads_what_we_write(
    id: str, source: str, type: str, moment: datetime, causation: str, data: dict[str, Any]
) -> None:
    """Other services read our results with the SDK of their choice."""
    headers = binary_headers(
        id=id, source=source, type=type, time_ms=_milliseconds(moment), causation_id=causation
    )
    message = oracle.KafkaMessage(headers=dict(headers), key=None, value=json.dumps(data).encode())
    event = oracle.from_binary(message, JSONFormat())
    assert (event.get_id(), event.get_source(), event.get_type()) == (id, source, type)
    assert event.get_time() == moment
    assert event.get_extension("causationid") == causation
    assert event.get_specversion() == "1.0"
    assert event.get_data() == data
    assert len(dict(headers)) == len(headers)


def test_a_trace_is_written_as_a_plain_header() -> None:
    """A result belongs to the trace of its event."""
    headers = dict(
        binary_headers(id="i", source="s", type="t", time_ms=0, causation_id="c", traceparent=TRACE)
    )
    assert headers["traceparent"] == TRACE.encode()
    assert headers["ce_time"] == b"1970-01-01T00:00:00.000Z"


def test_structured_data_may_be_base64() -> None:
    """A publisher that only knows bytes is understood too."""
    encoded = base64.b64encode(b'{"b": 2}').decode()
    assert read(structured(data=None, data_base64=encoded), STRUCTURED).data == {"b": 2}


def test_the_content_type_alone_tells_the_modes_apart() -> None:
    """As the protocol binding has it: an envelope in the value means nothing without its content type."""
    assert read(structured()).id is None
    assert read(structured(id="inner"), ("ce_id", b"outer"), STRUCTURED).id == "inner"
    assert read(structured(), ("content-type", b" Application/CloudEvents+JSON ")).id == "1"


def test_a_missing_specversion_is_taken_for_the_first() -> None:
    """Publishers that write id, source and type but forget the version are understood."""
    event = read(b"{}", *REQUIRED)
    assert (event.id, event.source, event.type) == ("1", "/shop", "message")


# --- Refusals ---------------------------------------------------------------------------------------


def test_a_tombstone_is_refused() -> None:
    """A record without a value is no event."""
    assert refusal(None, *REQUIRED) == (BadEventReason.TOMBSTONE, "")


def test_the_size_is_bounded_to_the_byte() -> None:
    """The bound is on the value, before anything is parsed."""
    value = b'{"a": "' + b"x" * 91 + b'"}'
    assert read_event(record(value), max_event_bytes=len(value)).data
    with pytest.raises(BadEventError) as caught:
        read_event(record(value), max_event_bytes=len(value) - 1)
    assert caught.value.reason is BadEventReason.TOO_LARGE


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", BadEventReason.NOT_JSON),
        (b"{", BadEventReason.NOT_JSON),
        (b"{} {}", BadEventReason.NOT_JSON),
        (b"{'a': 1}", BadEventReason.NOT_JSON),
        (b'{"a": NaN}', BadEventReason.NOT_JSON),
        (b'{"a": "\\ud800"}', BadEventReason.NOT_JSON),
        (b'{"\\udfff": 1}', BadEventReason.NOT_JSON),
        (b'{"a":' * 100_000, BadEventReason.NOT_JSON),
        (b"[" * 100_000 + b"]" * 100_000, BadEventReason.NOT_JSON),
        (b'{"a": "\xff"}', BadEventReason.NOT_UTF8),
        (b'{"a": "\xed\xa0\x80"}', BadEventReason.NOT_UTF8),
        ('{"a": "ü"}'.encode("utf-16"), BadEventReason.NOT_UTF8),
        ('{"a": "ü"}'.encode("latin-1"), BadEventReason.NOT_UTF8),
        (b"[]", BadEventReason.WRONG_SCHEMA),
        (b"null", BadEventReason.WRONG_SCHEMA),
        (b'"text"', BadEventReason.WRONG_SCHEMA),
    ],
)
def test_a_value_that_is_no_json_object_is_refused(value: bytes, reason: BadEventReason) -> None:
    """Each kind of unreadable value has its own reason, with an envelope and without."""
    assert refusal(value)[0] is reason
    assert refusal(value, *REQUIRED)[0] is reason


def test_of_a_key_given_twice_the_last_counts() -> None:
    """Everybody who reads the record with this parser sees the same one."""
    assert read(b'{"a": 1, "a": 2}').data == {"a": 2}


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ([("ce_source", b"s"), ("ce_type", b"t")], "ce_id"),
        ([("ce_id", b"i"), ("ce_type", b"t")], "ce_source"),
        ([("ce_id", b"i"), ("ce_source", b"s")], "ce_type"),
        ([*REQUIRED, ("ce_specversion", b"0.3")], "ce_specversion"),
        ([*REQUIRED, ("ce_specversion", b"")], "ce_specversion"),
        ([("ce_id", b""), *REQUIRED[1:]], "ce_id"),
        ([("ce_id", b"\xff"), *REQUIRED[1:]], "ce_id"),
        ([("ce_id", b"a\nb"), *REQUIRED[1:]], "ce_id"),
        ([("ce_id", b"x" * 4097), *REQUIRED[1:]], "ce_id"),
        ([*REQUIRED, ("ce_id", b"2")], "ce_id"),
        ([*REQUIRED, ("ce_time", b"yesterday")], "ce_time"),
        ([*REQUIRED, ("ce_time", b"2026-11-24")], "ce_time"),
        ([("content-type", b"application/cloudevents-batch+json")], "content-type"),
        ([("content-type", b"application/cloudevents+xml")], "content-type"),
    ],
)
def test_a_broken_envelope_is_refused_by_header(headers: list[tuple[str, bytes]], where: str) -> None:
    """The reason names the header, so that the publisher can be found and helped."""
    assert refusal(b"{}", *headers) == (BadEventReason.BAD_ENVELOPE, where)


@pytest.mark.parametrize(
    ("attributes", "reason", "where"),
    [
        ({"id": None}, BadEventReason.BAD_ENVELOPE, "id"),
        ({"id": 1}, BadEventReason.BAD_ENVELOPE, "id"),
        ({"source": ""}, BadEventReason.BAD_ENVELOPE, "source"),
        ({"specversion": "2.0"}, BadEventReason.BAD_ENVELOPE, "specversion"),
        ({"specversion": 1.0}, BadEventReason.BAD_ENVELOPE, "specversion"),
        ({"time": 1}, BadEventReason.BAD_ENVELOPE, "time"),
        ({"time": "2026-02-30T00:00:00Z"}, BadEventReason.BAD_ENVELOPE, "time"),
        ({"data": None}, BadEventReason.WRONG_SCHEMA, "data"),
        ({"data": [1]}, BadEventReason.WRONG_SCHEMA, "data"),
        ({"data_base64": "e30="}, BadEventReason.BAD_ENVELOPE, "data_base64"),
        ({"data": None, "data_base64": "secret!"}, BadEventReason.BAD_ENVELOPE, "data_base64"),
        ({"data": None, "data_base64": "ü"}, BadEventReason.BAD_ENVELOPE, "data_base64"),
        ({"data": None, "data_base64": 5}, BadEventReason.BAD_ENVELOPE, "data_base64"),
        ({"data": None, "data_base64": "e30"}, BadEventReason.BAD_ENVELOPE, "data_base64"),
        ({"data": None, "data_base64": "/w=="}, BadEventReason.NOT_UTF8, ""),
    ],
)
def test_a_broken_structured_event_is_refused(
    attributes: dict[str, Any], reason: BadEventReason, where: str
) -> None:
    """Structured events are held to the same rules as binary ones."""
    assert refusal(structured(**attributes), STRUCTURED) == (reason, where)


def test_a_structured_value_that_is_no_object_is_refused() -> None:
    """A batch of events is more than one: the binding knows no batches."""
    assert refusal(b"[]", STRUCTURED)[0] is BadEventReason.BAD_ENVELOPE


def test_one_attribute_said_twice_alike_is_accepted() -> None:
    """A duplicate that contradicts nothing does no harm."""
    assert read(b"{}", *REQUIRED, *REQUIRED).id == "1"


@given(
    value=st.none() | st.binary(max_size=60) | objects.map(lambda data: json.dumps(data).encode()),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "ce_id",
                    "ce_source",
                    "ce_type",
                    "ce_time",
                    "ce_specversion",
                    "traceparent",
                    "content-type",
                    "ce_x",
                ]
            ),
            st.binary(max_size=20)
            | st.sampled_from(
                [b"1.0", b"application/cloudevents+json", b"2026-01-01T00:00:00Z", TRACE.encode()]
            ),
        ),
        max_size=10,
    ),
)
def test_no_record_gives_any_other_error(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    """Whatever Kafka holds is an event or a BadEventError; id and source come together or not at all."""
    try:
        event = read(value, *headers)
    except BadEventError:
        return
    assert (event.id is None) == (event.source is None) == (event.type is None)


@pytest.mark.parametrize(
    "value",
    [b'{"text": "canary-7', b'{"text": "canary-7\xff"}', b'"canary-7"', b'["canary-7"]'],
)
def test_no_refusal_keeps_what_was_read(value: bytes) -> None:
    """Neither the error, nor what it came from, nor a whole traceback with it shows the content."""
    for headers in ((), (STRUCTURED,)):
        with pytest.raises(BadEventError) as caught:
            read(value, *headers)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_an_envelopes_repr_hides_the_data() -> None:
    """An event in a log line or an assertion shows no content."""
    assert "canary" not in repr(read(b'{"text": "canary"}', *REQUIRED))


# --- Traces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("traceparent", TRACE.encode())], TRACE),
        ([("ce_traceparent", TRACE.encode())], TRACE),
        ([("traceparent", b"\xff"), ("ce_traceparent", TRACE.encode())], TRACE),
        ([("traceparent", b"00-nonsense")], None),
        ([("traceparent", TRACE.upper().encode())], None),
        ([("traceparent", f"ff{TRACE[2:]}".encode())], None),
        ([("traceparent", f"{TRACE}\r\nx: y".encode())], None),
        ([], None),
    ],
)
def test_a_trace_is_carried_on_when_it_is_well_formed(
    headers: list[tuple[str, bytes]], expected: str | None
) -> None:
    """A broken trace is dropped and never costs the event."""
    assert read(b"{}", *headers).traceparent == expected
    assert read(b"{}", *REQUIRED, *headers).traceparent == expected


def test_a_structured_event_carries_its_trace_inside() -> None:
    """The distributed tracing extension puts it among the attributes."""
    assert read(structured(traceparent=TRACE), STRUCTURED).traceparent == TRACE
    assert read(structured(traceparent=5), STRUCTURED).traceparent is None


# --- Timestamps -------------------------------------------------------------------------------------


@given(moment=moments, minutes=st.integers(-1439, 1439))
def test_timestamps_agree_with_the_standard_library(moment: datetime, minutes: int) -> None:
    """Any offset gives the same moment, and what we write is read back."""
    sign, distance = ("-" if minutes < 0 else "+"), abs(minutes)
    local = (moment + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat(timespec="milliseconds")
    text = f"{local}{sign}{distance // 60:02}:{distance % 60:02}"
    assert parse_rfc3339(text) == _milliseconds(moment)
    assert parse_rfc3339(format_rfc3339(_milliseconds(moment))) == _milliseconds(moment)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.5z", 500),
        ("1970-01-01 00:00:00.0019Z", 1),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1972-06-30T23:59:60Z", 78_796_800_000),
        ("1970-01-01T00:00:00", None),
        ("1970-01-01", None),
        ("1970-01-01T24:00:00Z", None),
        ("1970-01-01T00:00:61Z", None),
        ("1970-01-01T00:00:00+24:00", None),
        ("1970-01-01T00:00:00+00:60", None),
        ("1970-01-01T00:00:00.Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("2023-02-29T00:00:00Z", None),
        ("\u0661970-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z\n", None),
        ("", None),
    ],
)
def test_timestamps_follow_rfc_3339(text: str, expected: int | None) -> None:
    """The grammar of RFC 3339, with leap seconds and nothing of ISO 8601 beyond it."""
    assert parse_rfc3339(text) == expected


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
