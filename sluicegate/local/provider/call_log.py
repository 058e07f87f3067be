"""The record of every call, in columns: some 90 bytes a call, the newest million or so kept."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_CHUNK_CALLS = 65_536
_KEPT_CHUNKS = 16
_LONGEST_ID_BYTES = 512
_MOST_NAMES = 1000
_WINDOW_S = 10
_FORMATS = ("openai", "anthropic")


@dataclass(slots=True)
class _Chunk:
    """Calls that follow each other, one array a column. A time of nan and a status of 0 mean: not there."""

    received_at: array[float] = field(default_factory=lambda: array("d"))
    completed_at: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("H"))
    admitted: array[int] = field(default_factory=lambda: array("B"))
    format: array[int] = field(default_factory=lambda: array("B"))
    model: array[int] = field(default_factory=lambda: array("H"))
    fault: array[int] = field(default_factory=lambda: array("H"))
    charged: array[int] = field(default_factory=lambda: array("q"))
    prompt: array[int] = field(default_factory=lambda: array("q"))
    completion: array[int] = field(default_factory=lambda: array("q"))
    ids: bytearray = field(default_factory=bytearray)
    id_ends: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.received_at)


class CallLog:
    """Numbers calls, remembers them, and counts them."""

    def __init__(self, *, chunk_calls: int = _CHUNK_CALLS, kept_chunks: int = _KEPT_CHUNKS) -> None:
        self._chunk_calls = chunk_calls
        self._kept_chunks = kept_chunks
        self._chunks: deque[_Chunk] = deque([_Chunk()])
        self._names: dict[str, int] = {"": 0}
        self._window: deque[list[int]] = deque(maxlen=_WINDOW_S + 1)
        self.calls = 0
        self.dropped = 0
        self.admitted = 0
        self.refused = 0
        self.answered = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.tokens_charged = 0
        self.by_status: Counter[int] = Counter()
        self.first_admitted_at: float | None = None
        self.last_completed_at: float | None = None

    def begin(
        self, *, received_at: float, request_id: str, format: str, model: str, prompt_tokens: int
    ) -> int:
        """Record a call that came and return its sequence number."""
        if len(self._chunks[-1]) >= self._chunk_calls:
            self._chunks.append(_Chunk())
            if len(self._chunks) > self._kept_chunks:
                self.dropped += len(self._chunks.popleft())
        chunk = self._chunks[-1]
        chunk.received_at.append(received_at)
        chunk.completed_at.append(math.nan)
        chunk.status.append(0)
        chunk.admitted.append(0)
        chunk.format.append(_FORMATS.index(format))
        chunk.model.append(self._name(model))
        chunk.fault.append(0)
        chunk.charged.append(0)
        chunk.prompt.append(prompt_tokens)
        chunk.completion.append(0)
        chunk.ids += request_id.encode()[:_LONGEST_ID_BYTES]
        chunk.id_ends.append(len(chunk.ids))
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.calls - 1

    def admit(self, sequence: int, tokens: int, now_s: float) -> None:
        """Record that the quota took the call, and what it charged."""
        self.admitted += 1
        self._second(now_s)[1] += 1
        if self.first_admitted_at is None:
            self.first_admitted_at = now_s
        if place := self._place(sequence):
            place[0].admitted[place[1]] = 1
        self.charge(sequence, tokens, now_s)

    def refuse(self, now_s: float) -> None:
        """Count a call that the quota, or a cut, did not take."""
        self.refused += 1
        self._second(now_s)[2] += 1

    def charge(self, sequence: int, tokens: int, now_s: float) -> None:
        """Add to what a call was charged."""
        self.tokens_charged += tokens
        self._second(now_s)[3] += tokens
        if place := self._place(sequence):
            place[0].charged[place[1]] += tokens

    def struck(self, sequence: int, kind: str) -> None:
        """Record the kind of fault that hit a call."""
        if place := self._place(sequence):
            place[0].fault[place[1]] = self._name(kind)

    def finish(
        self, sequence: int, *, status: int | None, completion_tokens: int, completed_at: float | None
    ) -> None:
        """Record how a call ended. `completed_at` None: its answer was never whole on the network."""
        self.in_flight -= 1
        if status is not None:
            self.by_status[status] += 1
        if place := self._place(sequence):
            chunk, index = place
            if completed_at is not None and chunk.admitted[index]:
                self.answered += 1
                self.last_completed_at = completed_at
            chunk.status[index] = status or 0
            chunk.completion[index] = completion_tokens
            chunk.completed_at[index] = math.nan if completed_at is None else completed_at

    def last_seconds(self, now_s: float) -> dict[str, int]:
        """Return what was admitted, refused and charged in the last ten seconds."""
        rows = [row for row in self._window if row[0] > now_s - _WINDOW_S]
        return {
            "admitted": sum(row[1] for row in rows),
            "refused": sum(row[2] for row in rows),
            "tokens": sum(row[3] for row in rows),
        }

    def rows(self, after: int = -1) -> Iterator[dict[str, Any]]:
        """Give the calls that are kept and numbered above `after`, oldest first."""
        names = list(self._names)
        sequence = max(after + 1, self.dropped)
        while place := self._place(sequence):
            yield _row(sequence, *place, names)
            sequence += 1

    def _place(self, sequence: int) -> tuple[_Chunk, int] | None:
        if not self.dropped <= sequence < self.calls:
            return None
        chunk, index = divmod(sequence - self.dropped, self._chunk_calls)
        return self._chunks[chunk], index

    def _name(self, name: str) -> int:
        if name not in self._names:
            if len(self._names) >= _MOST_NAMES:
                return 0
            self._names[name] = len(self._names)
        return self._names[name]

    def _second(self, now_s: float) -> list[int]:
        second = int(now_s)
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0, 0])
        return self._window[-1]


def _row(sequence: int, chunk: _Chunk, index: int, names: list[str]) -> dict[str, Any]:
    start = chunk.id_ends[index - 1] if index else 0
    request_id = chunk.ids[start : chunk.id_ends[index]].decode(errors="replace")
    identity, step, attempt = _parts(request_id)
    completed_at = chunk.completed_at[index]
    return {
        "sequence": sequence,
        "received_at": chunk.received_at[index],
        "completed_at": None if math.isnan(completed_at) else completed_at,
        "request_id": request_id,
        "identity": identity,
        "step": step,
        "attempt": attempt,
        "format": _FORMATS[chunk.format[index]],
        "model": names[chunk.model[index]],
        "admitted": bool(chunk.admitted[index]),
        "status": chunk.status[index] or None,
        "fault": names[chunk.fault[index]] or None,
        "tokens_charged": chunk.charged[index],
        "prompt_tokens": chunk.prompt[index],
        "completion_tokens": chunk.completion[index],
    }


def _parts(request_id: str) -> tuple[str | None, str | None, int | None]:
    """`identity/step/attempt`; a step may itself hold slashes."""
    identity, _, rest = request_id.partition("/")
    step, _, attempt = rest.rpartition("/")
    if not identity or not step or not (attempt.isascii() and attempt.isdigit()):
        return None, None, None
    return identity, step, int(attempt)
