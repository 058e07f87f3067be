"""Traces of deliveries: what stands in one trace, what is linked, and what is never said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sluicegate.errors import ConfigurationError
from sluicegate.events.cloudevent import binary_headers
from sluicegate.llm.api import CallRequest, Message
from sluicegate.llm.outcomes import Completed, Outcome, Reason, Rejected, Throttled, Usage
from sluicegate.llm.spans import end_call, start_call
from sluicegate.telemetry.otel import OtelTraces, is_configured
from sluicegate.telemetry.traces import NO_TRACES
from tests.unit.processing_world import World, answer, headers_of

pytest.importorskip("opentelemetry.sdk", reason="the extra sluicegate[otel] is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
ENVELOPE = binary_headers(id="e-1", source="/shop", type="t", time_ms=0, traceparent=TRACE)
REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)
SECRET = "my card number is 4111"


class Collected:
    """Traces whose spans stay in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = OtelTraces(provider.get_tracer("tests"))

    @property
    def spans(self) -> list[Any]:
        """Return what has ended, in the order of the ends."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[Any]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]


def world_with(collected: Collected, *outcomes: Outcome) -> World:
    """Return a traced world whose provider gives the outcomes in turn and then answers."""
    left = list(outcomes)
    return World(script=lambda request: left.pop(0) if left else answer(), traces=collected.traces)


def traceparent(span: Any) -> str:
    """Return a span's context as a header."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


async def test_a_delivery_stands_in_its_publishers_trace_with_its_wait_and_its_result() -> None:
    """From the publisher's span down to the record that readers get: one trace, followed on by the result."""
    collected = Collected()
    world = world_with(collected)

    await world.deliver(world.chat(headers=ENVELOPE))

    (process,) = collected.named("process support-chat")
    (wait,) = collected.named("limiter wait")
    (send,) = collected.named("send support-chat.results")
    assert {f"{span.context.trace_id:032x}" for span in collected.spans} == {TRACE_ID}
    assert f"{process.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert wait.parent.span_id == send.parent.span_id == process.context.span_id
    assert process.kind.name == "CONSUMER"
    assert send.kind.name == "PRODUCER"
    assert process.attributes["sluicegate.decision"] == "result"
    assert process.attributes["messaging.consumer.group.name"] == "sluicegate.support-chat"
    assert wait.attributes == {"sluicegate.lane": "interactive", "sluicegate.scope": "main"}
    assert headers_of(world.results[0])["traceparent"] == traceparent(process)


async def test_a_parked_events_deliveries_are_spans_of_their_own_linked_to_the_one_before() -> None:
    """No span covers the hour in a tier; the one after it names the one before, in the same trace."""
    collected = Collected()
    world = world_with(collected, REFUSED)
    await world.deliver(world.chat(headers=ENVELOPE))
    (parked,) = world.parked
    world.advance(70)

    await world.deliver(world.due_record(parked))

    (first,) = collected.named("process support-chat")
    (second,) = collected.named("process sluicegate.support-chat.due")
    assert headers_of(parked)["traceparent"] == TRACE
    assert headers_of(parked)["retry-traceparent"] == traceparent(first)
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert first.context.trace_id == second.context.trace_id
    assert first.attributes["sluicegate.decision"] == "parked"
    assert first.attributes["sluicegate.reason"] == "rate-limited"
    assert first.status.is_unset  # parking is no error
    assert second.attributes["sluicegate.attempt"] == 2


async def test_a_dead_letter_is_an_error_of_its_reason_and_keeps_its_event_s_trace() -> None:
    """Its own headers stay as they came; a replay's delivery is linked to the one that ended it."""
    collected = Collected()
    world = world_with(collected, Rejected(reason=Reason.BAD_REQUEST, http_status=400))

    await world.deliver(world.chat(headers=ENVELOPE))

    (process,) = collected.named("process support-chat")
    headers = headers_of(world.letters[0])
    assert process.attributes["error.type"] == "bad-request"
    assert process.status.status_code.name == "ERROR"
    assert headers["traceparent"] == TRACE
    assert headers["retry-traceparent"] == traceparent(process)


async def test_nothing_of_an_event_is_in_a_span() -> None:
    """No text, key, id or tenant of an event, no answer, no exception's text: not in any field."""
    collected = Collected()
    world = world_with(collected, REFUSED, answer(SECRET))
    envelope = binary_headers(id="id-4111", source="/s-4111", type="t", time_ms=0)
    fields = {"conversation_id": "k-4111", "turn": 0, "speaker": "customer", "text": SECRET}
    record = world.record({**fields, "tenant": "t-4111"}, key=b"k-4111", headers=envelope)
    await world.deliver(record)
    world.advance(70)
    await world.deliver(world.due_record(world.parked[0]))
    await world.deliver(world.record(SECRET.encode(), key=b"k-4111"))
    world.publisher.failures.append(RuntimeError(SECRET))  # type: ignore[arg-type]  # a bug that quotes
    with pytest.raises(RuntimeError):
        await world.deliver(world.chat(SECRET))

    assert len(collected.spans) > 8
    for span in collected.spans:
        assert "4111" not in span.to_json()
        assert span.events == ()


async def test_without_traces_an_event_s_own_trace_passes_through() -> None:
    """Off, the worker adds nothing and the result carries what its event came with."""
    world = World(script=lambda request: answer(), traces=NO_TRACES)

    await world.deliver(world.chat(headers=ENVELOPE))

    assert headers_of(world.results[0])["traceparent"] == TRACE
    assert "retry-traceparent" not in headers_of(world.results[0])


REQUEST = CallRequest(
    model="model-1",
    messages=(Message(role="user", text=SECRET),),
    max_output_tokens=64,
    request_id="id/reply/1",
    json_object=True,
)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            Completed(text=SECRET, model="model-1-2026", usage=Usage(input_tokens=7, output_tokens=3)),
            {
                "gen_ai.response.model": "model-1-2026",
                "gen_ai.response.finish_reasons": ("stop",),
                "gen_ai.usage.input_tokens": 7,
                "gen_ai.usage.output_tokens": 3,
            },
        ),
        (
            Completed(text="", model=f"a {SECRET}", usage=Usage(), finish_reason=SECRET),
            {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0},
        ),
        (REFUSED, {"error.type": "rate-limited", "http.response.status_code": 429}),
    ],
)
def test_a_call_is_told_by_the_names_of_the_conventions(
    outcome: Outcome, expected: Mapping[str, object]
) -> None:
    """Tools that know `gen_ai.*` find model, tokens and failure; words of the provider's stay out."""
    collected = Collected()

    end_call(start_call(collected.traces, REQUEST, provider="openai", host="llm", port=443), outcome)

    (span,) = collected.named("chat model-1")
    assert span.kind.name == "CLIENT"
    assert span.status.is_ok or span.status.is_unset or "error.type" in expected
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "model-1",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.output.type": "json",
        "server.address": "llm",
        "server.port": 443,
        **expected,
    }


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
    ],
)
def test_traces_are_off_until_the_environment_says_where_they_go(
    environ: Mapping[str, str], expected: bool
) -> None:
    """The standard variables alone switch them on, and off again."""
    assert is_configured(environ) is expected


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "jaeger"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_a_way_that_traces_cannot_go_is_an_error_and_not_silence(environ: Mapping[str, str]) -> None:
    """Who asks for another exporter or protocol is told at the start, by the variable's name."""
    with pytest.raises(ConfigurationError, match="OTEL_"):
        is_configured(environ)
