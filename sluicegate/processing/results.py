"""The end of an event whose handler returned."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.events.cloudevent import binary_headers
from sluicegate.events.models import Result, write_model
from sluicegate.llm.outcomes import Usage
from sluicegate.processing.reading import Delivery
from sluicegate.retry.headers import origin_headers
from sluicegate.state.api import End, EndKind, HistoryEntry

# Which routes answered the event's steps, with commas between.
_ROUTES = "llm-routes"
# What the event's completed steps took, those of earlier deliveries included.
CALLS = "llm-calls"
INPUT_TOKENS = "llm-input-tokens"
OUTPUT_TOKENS = "llm-output-tokens"
# The key's event at this origin offset came before and ended as a dead letter.
PREDECESSOR_DEAD_LETTERED = "predecessor-dead-lettered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an event's completed steps took, and which routes answered them."""

    calls: int
    usage: Usage
    routes: tuple[str, ...]


def recorded(history: tuple[HistoryEntry, ...]) -> End:
    """Return the end of an event that has nothing to publish."""
    return End(kind=EndKind.RECORDED, history=history)


def result(
    delivery: Delivery,
    answer: Result,
    history: tuple[HistoryEntry, ...],
    now_ms: int,
    dead_predecessor: int | None,
    spent: Spent,
    traceparent: str | None = None,
) -> End:
    """Return the result with its envelope. Its `ce_id` is the event's identity, however often it is made.

    Headers say what its steps took and which routes answered them, and name the key's earlier event, by its
    origin offset, that this one was to follow and that ended as a dead letter. `traceparent` is the span it
    was made in; without one it carries its event's.
    """
    headers = binary_headers(
        id=delivery.ref.identity,
        source=f"sluicegate/{delivery.ref.stream}",
        type=answer.ce_type,
        time_ms=now_ms,
        causation_id=delivery.event_id,
        traceparent=traceparent or delivery.envelope.traceparent,
    )
    dead = () if dead_predecessor is None else ((PREDECESSOR_DEAD_LETTERED, b"%d" % dead_predecessor),)
    used = (
        (CALLS, b"%d" % spent.calls),
        (INPUT_TOKENS, b"%d" % spent.usage.input_tokens),
        (OUTPUT_TOKENS, b"%d" % spent.usage.output_tokens),
        *(((_ROUTES, ",".join(spent.routes).encode()),) if spent.routes else ()),
    )
    return End(
        kind=EndKind.RESULT,
        value=write_model(answer),
        headers=(*headers, *origin_headers(delivery.ref.origin, delivery.origin_timestamp_ms), *used, *dead),
        history=history,
    )
