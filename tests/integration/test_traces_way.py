"""Traces as a collector gets them: from a publisher in another process through a worker, parked and back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sluicegate.local.broker import EmbeddedBroker
from tests.integration.deployment import Deployment
from tests.waiting import wait_until_sync

pytest.importorskip("opentelemetry.sdk", reason="the extra sluicegate[otel] is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.slow

SECRET = "my card number is 4111"
# Another service, which traces as services do: a provider of its own, and a span around what it publishes.
PUBLISHER = f"""
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from sluicegate import Publisher
from sluicegate.events.models import SupportChat

provider = TracerProvider(resource=Resource.create({{"service.name": "helpdesk"}}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
chat = {{"conversation_id": "c-4111", "turn": 0, "speaker": "customer", "text": "{SECRET}"}}
with Publisher(sys.argv[1], topic=sys.argv[2], model=SupportChat, source="/helpdesk") as publisher:
    with trace.get_tracer("helpdesk").start_as_current_span("POST /messages"):
        publisher.publish(chat, id="m-4111")
"""


class Collector:
    """An OTLP receiver on loopback that keeps every span with its service's name."""

    def __init__(self, port: int) -> None:
        self.environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        self.bodies: list[bytes] = []

    @property
    def spans(self) -> list[tuple[str, Any]]:
        """Return (service, span) of all that came in."""
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(names["service.name"], span) for span in scope.spans]
        return found

    def named(self, name: str) -> list[Any]:
        """Return the spans of that name."""
        return [span for _, span in self.spans if span.name == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_an_event_is_one_trace_from_its_publisher_to_its_result_though_it_was_parked(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publisher, both deliveries, calls and the result: one trace, linked, and not a word of the event."""
    broker = EmbeddedBroker()
    with collecting() as collector, broker:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        with Deployment(
            kafka=broker.address, prefix=prefix, folder=tmp_path, retry={"in_place_max_s": 0.5}
        ) as deployment:
            broker.create_topics(deployment.topics)
            deployment.faults({"kind": "status", "status": 429, "retry_after_s": 2, "calls": 1})
            deployment.start_worker("support-chat")
            deployment.start_relay()
            topic = deployment.input("support-chat")
            subprocess.run([sys.executable, "-c", PUBLISHER, broker.address, topic], check=True, timeout=60)
            (result,) = deployment.wait_for_ends("support-chat", 1, timeout_s=40)
            due = deployment.internal("support-chat", "due")
            wait_until_sync(
                lambda: bool(collector.named(f"process {due}")),
                timeout_s=20,
                what="the second delivery's span",
            )

    (request,) = collector.named("POST /messages")
    (first,), (second,) = collector.named(f"process {topic}"), collector.named(f"process {due}")
    calls = collector.named("chat gpt-4o-mini")
    assert {span.trace_id for _, span in collector.spans} == {request.trace_id}
    assert {service for service, _ in collector.spans} == {"helpdesk", "sluicegate-worker"}
    assert first.parent_span_id == second.parent_span_id == collector.named(f"send {topic}")[0].span_id
    assert [link.span_id for link in second.links] == [first.span_id]
    assert {call.parent_span_id for call in calls} == {first.span_id, second.span_id}
    assert {attributes(call).get("error.type") for call in calls} == {"rate-limited", None}
    carried = (result.header("traceparent") or "").split("-")
    assert carried[1:3] == [request.trace_id.hex(), second.span_id.hex()]
    assert not any(b"4111" in body for body in collector.bodies)
