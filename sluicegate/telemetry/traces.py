"""What the code says of itself in traces, without knowing who listens. Off, it costs next to nothing.

A span is one piece of work and never a wait in Kafka: a parked event's deliveries are spans of their own, in
the trace of its publisher, and each is linked to the one before. A context crosses Kafka as the header
`traceparent` (W3C Trace Context).

Nothing of an event may be in a span (G7): attributes come from closed sets, from the configuration, or are
numbers and our own hashes. An exception is named by its type, never by its text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol

Attribute = str | int | float | bool | tuple[str, ...]
Attributes = Mapping[str, Attribute | None]

P = ParamSpec("P")

ERROR_TYPE = "error.type"
CANCELLED = "sluicegate.cancelled"


class SpanKind(StrEnum):
    """Which side of what a span is."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    CLIENT = "client"
    INTERNAL = "internal"


class Span(Protocol):
    """One piece of work under way."""

    @property
    def traceparent(self) -> str | None:
        """The span's context as a header carries it; None when there is none to carry."""

    def note(self, attributes: Attributes) -> None:
        """Add attributes; None values are left out, and an `error.type` makes the span an error."""

    def end(self, error_type: str | None = None) -> None:
        """End it, once; `error_type` comes from a closed set or is the name of a class."""


class Traces(Protocol):
    """Where spans go."""

    def message(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: str | None,
        links: tuple[str, ...] = (),
    ) -> Span:
        """Start a span for a message: below `parent`, a `traceparent`, and linked to others."""

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """Start a span below the current one."""

    def current(self) -> str | None:
        """Return the current span's `traceparent`; None when there is none."""

    def within(self, span: Span) -> AbstractContextManager[None]:
        """Make the span the current one for a block of code and for the tasks that are made in it."""


@contextmanager
def spanning(traces: Traces, span: Span) -> Iterator[Span]:
    """Run a block within the span and end it with the block, by the type of what was raised.

    A cancellation is no error: a rebalance lets go of whatever is at work.
    """
    try:
        with traces.within(span):
            yield span
    except asyncio.CancelledError:
        span.note({CANCELLED: True})
        span.end()
        raise
    except BaseException as error:
        span.end(type(error).__name__)
        raise
    span.end()


class _NoSpan:
    """Goes nowhere."""

    traceparent: str | None = None

    def note(self, attributes: Attributes) -> None:
        """Forget them."""

    def end(self, error_type: str | None = None) -> None:
        """Do nothing."""


class NoTraces:
    """Traces that are off."""

    def message(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: str | None,
        links: tuple[str, ...] = (),
    ) -> Span:
        """Return the span that goes nowhere."""
        return _NO_SPAN

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """Return the span that goes nowhere."""
        return _NO_SPAN

    def current(self) -> str | None:
        """Return None."""
        return None

    def within(self, span: Span) -> AbstractContextManager[None]:
        """Do nothing."""
        return _NOTHING


_NO_SPAN: Span = _NoSpan()
_NOTHING: AbstractContextManager[None] = nullcontext()
NO_TRACES: Traces = NoTraces()
_NOT_SPANNED: AbstractContextManager[Span] = nullcontext(_NO_SPAN)


def span_of(
    started: Callable[Concatenate[Traces, P], Iterator[Span]],
) -> Callable[Concatenate[Traces, P], AbstractContextManager[Span]]:
    """Make a context manager of a generator that starts a span in the traces it is given.

    While traces are off it is not run at all: several of them stand in every event's way.
    """
    spanned = contextmanager(started)

    @wraps(started)
    def within(traces: Traces, /, *args: P.args, **named: P.kwargs) -> AbstractContextManager[Span]:
        return _NOT_SPANNED if traces is NO_TRACES else spanned(traces, *args, **named)

    return within
