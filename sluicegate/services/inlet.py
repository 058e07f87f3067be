"""What the reader for threads and the one for asyncio share: options, models, and the one result in hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from sluicegate.errors import BadResultError, ConfigurationError
from sluicegate.events.models import ResultT
from sluicegate.records import Record
from sluicegate.services.received import Received, read_result
from sluicegate.services.result_source import REPEAT_SPAN, ResultSource, StartAt

OnBad = Callable[[Record, BadResultError], None]


class Inlet(Generic[ResultT]):
    """One member of a group that reads a stream's results."""

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topic: str,
        group: str,
        model: type[ResultT] | Sequence[type[ResultT]],
        on_bad: OnBad | None = None,
        start_at: StartAt = StartAt.EARLIEST,
        repeat_span: int = REPEAT_SPAN,
        client_id: str = "sluicegate-results",
        session_timeout_s: float = 10.0,
        max_handling_s: float = 300.0,
        security: Mapping[str, str] | None = None,
    ) -> None:
        """Join the group; partitions come with the first results asked for.

        `model` is what the stream's handler returns; several, told apart by their `ce_type`, read a topic
        whose results changed their shape. `on_bad` gets a record that is none of them and lets the reader
        go on; without it BadResultError is raised. `repeat_span` is how many offsets back a repeat is
        recognised, and how many records each partition is read again at a start. `max_handling_s` is how
        long one result may be in hand before the partition goes to another member. `security` holds
        librdkafka's `security.*`, `sasl.*` and `ssl.*` settings.
        """
        if repeat_span < 0:
            raise ConfigurationError("repeat_span: count offsets, 0 for none")
        models = [model] if isinstance(model, type) else list(model)
        self._models: Mapping[str, type[ResultT]] = {each.ce_type: each for each in models}
        self._on_bad = on_bad
        self._in_hand: Record | None = None
        self._is_closed = False
        self._source = ResultSource(
            bootstrap_servers,
            topic=topic,
            group=group,
            client_id=client_id,
            start_at=start_at,
            repeat_span=repeat_span,
            session_timeout_s=session_timeout_s,
            max_handling_s=max_handling_s,
            security=security,
        )

    def _take(self, record: Record) -> Received[ResultT] | None:
        """Read the record and keep it in hand; None for a bad one, which `on_bad` has got."""
        try:
            received = read_result(record, self._models)
        except BadResultError as exc:
            if self._on_bad is None:
                raise
            self._on_bad(record, exc)
            self._source.handled(record)
            return None
        self._in_hand = record
        return received

    def _handled(self) -> None:
        record, self._in_hand = self._in_hand, None
        if record is not None:
            self._source.handled(record)
