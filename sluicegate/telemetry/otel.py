"""Traces through OpenTelemetry, whose packages are the extra `sluicegate[otel]`.

A process of ours sends traces when the standard variables say where: OTEL_EXPORTER_OTLP_ENDPOINT or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, or OTEL_TRACES_EXPORTER=otlp for a collector at the default address. All
other OTEL_* variables (sampler, headers, batches, resource) are read by the SDK itself. In somebody else's
process (`Publisher`, `LlmClient`) whatever that process has set up is used, and nothing is set up.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sluicegate.errors import ConfigurationError
from sluicegate.telemetry.traces import ERROR_TYPE, NO_TRACES, Attributes, Span, SpanKind, Traces

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_SCOPE = "sluicegate"
_FLUSH_S = 3.0


class OtelTraces:
    """Traces that go to one of OpenTelemetry's tracers. Safe in several threads."""

    def __init__(self, tracer: Any) -> None:
        """`tracer` is an `opentelemetry.trace.Tracer`."""
        from opentelemetry import context, trace

        self._tracer = tracer
        self._api = trace
        self._context = context
        self._kinds = {kind: trace.SpanKind[kind.name] for kind in SpanKind}

    def message(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: str | None,
        links: tuple[str, ...] = (),
    ) -> Span:
        """Start a span below `parent` (a new trace without one), linked to what `links` name."""
        above = self._context.Context()
        if parent is not None:
            above = self._api.set_span_in_context(self._api.NonRecordingSpan(self._remote(parent)), above)
        found = [self._api.Link(self._remote(each)) for each in links]
        return self._started(name, kind, attributes, above, found)

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """Start a span below the current one."""
        return self._started(name, kind, attributes, None, [])

    def current(self) -> str | None:
        """Return the current span's `traceparent`, sampled or not."""
        return _traceparent(self._api.get_current_span().get_span_context())

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        """Make the span current; an exception passes and leaves no mark: its text may quote an event."""
        if not isinstance(span, _OtelSpan):
            yield
            return
        with self._api.use_span(
            span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        ):
            yield

    def _started(
        self, name: str, kind: SpanKind, attributes: Attributes, above: Any, links: list[Any]
    ) -> Span:
        span = self._tracer.start_span(
            name, context=above, kind=self._kinds[kind], attributes=_given(attributes), links=links
        )
        return _OtelSpan(span, self._api.Status(self._api.StatusCode.ERROR))

    def _remote(self, traceparent: str) -> Any:
        """Read a well-formed header; the records' reader has refused all others."""
        _, trace_id, span_id, flags = traceparent.split("-")[:4]
        return self._api.SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=self._api.TraceFlags(int(flags, 16)),
        )


class _OtelSpan:
    """A span of OpenTelemetry's."""

    __slots__ = ("_failed", "span")

    def __init__(self, span: Any, failed: Any) -> None:
        self.span = span
        self._failed = failed

    @property
    def traceparent(self) -> str | None:
        return _traceparent(self.span.get_span_context())

    def note(self, attributes: Attributes) -> None:
        self.span.set_attributes(_given(attributes))
        if attributes.get(ERROR_TYPE) is not None:
            self.span.set_status(self._failed)

    def end(self, error_type: str | None = None) -> None:
        if error_type is not None:
            self.note({ERROR_TYPE: error_type})
        self.span.end()


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where traces go. Raises ConfigurationError for what we cannot do."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if wanted == "none" or not (wanted or any(environ.get(name) for name in _ENDPOINTS)):
        return False
    if wanted not in ("", "otlp"):
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER: traces go out by otlp, not by {wanted}, or by none")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        raise ConfigurationError(
            f"{_PROTOCOLS[1]}: traces go out by {_PROTOCOL} (a collector's port 4318), not by {protocol}"
        )
    return True


@contextmanager
def process_traces(service: str, environ: Mapping[str, str]) -> Iterator[Traces]:
    """Yield the traces of a process of ours, off unless the environment asks for them.

    `service` is `service.name` where neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES says another.
    Handlers' own spans, through OpenTelemetry's API, go the same way.
    What is not sent yet is sent on leaving, or given up after 3 s. Raises ConfigurationError.
    """
    if not is_configured(environ):
        yield NO_TRACES
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            "OTEL_* asks for traces, but OpenTelemetry is not installed: pip install 'sluicegate[otel]'"
        ) from error
    own = {"service.instance.id": secrets.token_hex(8), **_version()}
    named = Resource.create(own)
    if str(named.attributes.get("service.name")).startswith("unknown_service"):
        named = named.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield OtelTraces(provider.get_tracer(_SCOPE))
    finally:
        # In a thread: a collector that is away would hold up the end of the process for its retries.
        closing = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_FLUSH_S)


def ambient_traces() -> Traces:
    """Return the traces of the process that we are guests in; off where it has no OpenTelemetry."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return NO_TRACES
    return OtelTraces(get_tracer(_SCOPE))


def _version() -> dict[str, str]:
    try:
        return {"service.version": version("sluicegate")}
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {}


def _given(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _traceparent(context: Any) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
