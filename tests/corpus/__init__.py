"""Records that somebody could publish on a stream's input and that can never be an event.

A record that once broke something is added here, and with that to every test of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.errors import BadEventReason as Bad
from sluicegate.records import Headers

_CHAT = b'"conversation_id": "c-1", "speaker": "customer", "text": "hi"'
_GOOD = b'{"turn": 0, ' + _CHAT + b"}"
_JSON_ENVELOPE: Headers = (("content-type", b"application/cloudevents+json"),)
_CE = b'"specversion": "1.0", "id": "1", "source": "/s", "type": "sluicegate.support-chat.message.v1"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """One record and the reason that its dead letter names."""

    name: str
    value: bytes | None
    reason: Bad
    key: bytes | None = b"c-1"
    headers: Headers = ()


def _of(name: str, value: bytes | None, reason: Bad, headers: Headers = ()) -> Hostile:
    return Hostile(name=name, value=value, reason=reason, headers=headers)


_VALUES = (
    _of("tombstone", None, Bad.TOMBSTONE),
    _of("empty", b"", Bad.NOT_JSON),
    _of("blank", b" \r\n\t", Bad.NOT_JSON),
    _of("cut off", b'{"conversation_id": ', Bad.NOT_JSON),
    _of("two documents", _GOOD + _GOOD, Bad.NOT_JSON),
    _of("byte order mark", b"\xef\xbb\xbf" + _GOOD, Bad.NOT_JSON),
    _of("nul bytes", b"\x00" * 1000, Bad.NOT_JSON),
    _of("single quotes", b"{'turn': 0}", Bad.NOT_JSON),
    _of("comment", b"/* */" + _GOOD, Bad.NOT_JSON),
    _of("trailing comma", b'{"turn": 0,}', Bad.NOT_JSON),
    _of("NaN", b'{"turn": NaN, ' + _CHAT + b"}", Bad.NOT_JSON),
    _of("infinity", b'{"turn": -Infinity, ' + _CHAT + b"}", Bad.NOT_JSON),
    _of("raw control character", b'{"text": "a\nb"}', Bad.NOT_JSON),
    _of("lone surrogate", b'{"turn": 0, "text": "\\ud800"}', Bad.NOT_JSON),
    _of("deep list", b"[" * 100_000, Bad.NOT_JSON),
    _of("deep list, closed", b"[" * 50_000 + b"]" * 50_000, Bad.NOT_JSON),
    _of("deep object", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, Bad.NOT_JSON),
    _of("UTF-16", '{"turn": 0}'.encode("utf-16"), Bad.NOT_UTF8),
    _of("Latin-1", b'{"text": "\xe9"}', Bad.NOT_UTF8),
    _of("overlong encoding", b'{"text": "\xc0\xaf"}', Bad.NOT_UTF8),
    _of("compressed", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", Bad.NOT_UTF8),
    _of("Avro with a schema id", b"\x00\x00\x00\x00\x07\x06abc\xff", Bad.NOT_UTF8),
    _of("null", b"null", Bad.WRONG_SCHEMA),
    _of("a number", b"1", Bad.WRONG_SCHEMA),
    _of("a list of events", b"[" + _GOOD + b"]", Bad.WRONG_SCHEMA),
    _of("JSON in JSON", b'"{}"', Bad.WRONG_SCHEMA),
    _of("nothing of a chat", b"{}", Bad.WRONG_SCHEMA),
    _of("huge integer", b'{"turn": ' + b"9" * 5000 + b", " + _CHAT + b"}", Bad.NOT_JSON),
    _of("integer beyond 64 bits", b'{"turn": 18446744073709551616, ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("integer beyond 53 bits", b'{"turn": 9007199254740993, ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("huge exponent", b'{"turn": 1e400, ' + _CHAT + b"}", Bad.NOT_JSON),
    _of("negative", b'{"turn": -1, ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("number as text", b'{"turn": "0", ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("true as a number", b'{"turn": true, ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("the last of two turns is wrong", b'{"turn": 0, "turn": "x", ' + _CHAT + b"}", Bad.WRONG_SCHEMA),
    _of("unknown speaker", _GOOD.replace(b"customer", b"system"), Bad.WRONG_SCHEMA),
    _of("empty id", _GOOD.replace(b"c-1", b""), Bad.WRONG_SCHEMA),
    _of("a document", b'{"document_id": "d", "title": "", "media_type": "x", "text": ""}', Bad.WRONG_SCHEMA),
    _of("oversize", b'{"text": "' + b"y" * 950_000 + b'"}', Bad.TOO_LARGE),
    _of("oversize and no JSON", b"\xff" * 950_000, Bad.TOO_LARGE),
)

_ENVELOPES = (
    _of("no id", _GOOD, Bad.BAD_ENVELOPE, (("ce_specversion", b"1.0"), ("ce_source", b"/s"))),
    _of("version 0.3", _GOOD, Bad.BAD_ENVELOPE, (("ce_specversion", b"0.3"), ("ce_id", b"1"))),
    _of("two ids", _GOOD, Bad.BAD_ENVELOPE, (("ce_id", b"1"), ("ce_id", b"2"))),
    _of("id of no encoding", _GOOD, Bad.BAD_ENVELOPE, (("ce_id", b"\xff\xfe"),)),
    _of("id with a line break", _GOOD, Bad.BAD_ENVELOPE, (("ce_id", b"1\r\nX-Evil: 1"),)),
    _of("id without an end", _GOOD, Bad.BAD_ENVELOPE, (("ce_id", b"i" * 100_000),)),
    _of("structured, a list", b"[]", Bad.BAD_ENVELOPE, _JSON_ENVELOPE),
    _of("structured, no envelope", _GOOD, Bad.WRONG_SCHEMA, _JSON_ENVELOPE),
    _of("structured, id a number", b'{"specversion": "1.0", "id": 1}', Bad.WRONG_SCHEMA, _JSON_ENVELOPE),
    _of(
        "structured, no base64",
        b"{" + _CE + b', "data_base64": "%%%"}',
        Bad.BAD_ENVELOPE,
        _JSON_ENVELOPE,
    ),
    _of("structured, data a text", b"{" + _CE + b', "data": "{}"}', Bad.WRONG_SCHEMA, _JSON_ENVELOPE),
    _of("structured, no data", b"{" + _CE + b"}", Bad.WRONG_SCHEMA, _JSON_ENVELOPE),
    _of(
        "a batch",
        b"[{" + _CE + b"}]",
        Bad.BAD_ENVELOPE,
        (("content-type", b"application/cloudevents-batch+json"),),
    ),
    _of(
        "structured, but Avro",
        b"Obj\x01",
        Bad.BAD_ENVELOPE,
        (("content-type", b"application/cloudevents+avro"),),
    ),
)

# Headers that are not read must do no harm, and come back as they came.
_STRANGE_HEADERS: dict[str, Headers] = {
    "long": (("x-long", b"v" * 60_000),),
    "long name": (("n" * 2_000, b"1"),),
    "non-ASCII": (("x-Ünïcode-✓", b"\xff\x00\xfe"),),
    "duplicated": (("x", b"1"), ("x", b"2"), ("x", b"1")),
    "empty": (("", b""), ("x-empty", b"")),
    "a thousand": tuple((f"x-{number}", b"%d" % number) for number in range(1000)),
    "negative": (("retry-attempt", b"-5"), ("retry-due-at-ms", b"-99999999999999999999")),
    "ours, forged": (("retry-origin-topic", b"elsewhere"), ("retry-copy", b"9-x"), ("dlq-reason", b"forged")),
    "broken trace": (("traceparent", b"00-zz"), ("tracestate", b"\x00")),
}
_HEADERS = tuple(
    _of(f"headers: {name}", b"{", Bad.NOT_JSON, headers) for name, headers in _STRANGE_HEADERS.items()
)

_KEYS: dict[str, bytes | None] = {
    "null": None,
    "empty": b"",
    "no UTF-8": b"\xff\xfe\x00",
    "zero": b"\x00" * 8,
    "long": b"k" * 30_000,
    "colons and braces": b"}{sg:*:?[a-z]",
    "non-ASCII": "ключ-🔑".encode(),
}
_KEYED = tuple(
    Hostile(name=f"key: {name}", value=b"{", reason=Bad.NOT_JSON, key=key) for name, key in _KEYS.items()
)

HOSTILE: tuple[Hostile, ...] = (*_VALUES, *_ENVELOPES, *_HEADERS, *_KEYED)
