"""What can be made to go wrong, as `POST /faults` takes it: one JSON object with a `kind`.

Kinds that strike calls take `calls` (how many; 1 when neither is given), `for_s` (how long), `share` (of the
calls that come, 0 to 1), `match` (a part of the X-Client-Request-Id):

- `status` (answered before the quota is looked at, charges nothing): `status`, `retry_after_s`,
  `retry_after_as` ("seconds", "ms" or "date"), `headers` (false: no rate-limit headers), `type`, `code`,
  `message` of the error, each with the provider's usual text as default
- `redirect` (charges nothing either): `location`, `status`
- `slow`: `delay_s`, `where` ("headers", or "body" in small pieces); `hang`; `reset`
- `empty`, `html`, `truncated` (less than Content-Length says), `malformed` (half a JSON text), `huge`
  (`bytes`)
- `overload` (an overloaded_error inside a 200), `filtered` (refused for its content)

Kinds that change the quota:

- `cut`: for `for_s` every call is answered 429 with Retry-After `retry_after_s`, counted down to the end of
  the cut unless `fixed`; nothing announces it
- `limits`: `requests_per_minute`, `tokens_per_minute`, `input_tokens_per_minute`,
  `output_tokens_per_minute` from now on
- `strangers`: somebody else takes `share` of every rate, evenly, as far as it is there; for `for_s`, or until
  it is cleared

The kind that changes what the provider can bear:

- `capacity`: above `concurrency` calls in flight, calls are answered 503 (OpenAI) or 529 (Anthropic) without
  a time to wait; for `for_s`, or until it is cleared

Of `strangers` and of `capacity` the newest holds. What concerns every call (credentials, credit) is a
`status` for a time: `{"kind": "status", "status": 429, "code": "insufficient_quota", "for_s": 10}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Strike(_Fault):
    calls: Annotated[int, Field(gt=0)] | None = None
    for_s: _Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    match: str = ""


class StatusFault(_Strike):
    """An error status, as the provider would send it."""

    kind: Literal["status"]
    status: Annotated[int, Field(ge=400, le=599)]
    retry_after_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    retry_after_as: Literal["seconds", "ms", "date"] = "seconds"
    headers: bool = True
    type: str | None = None
    code: str | None = None
    message: str | None = None


class RedirectFault(_Strike):
    """A redirect, to another host unless said otherwise."""

    kind: Literal["redirect"]
    location: str = "http://redirected.invalid/"
    status: Annotated[int, Field(ge=300, le=399)] = 302


class SlowFault(_Strike):
    """An answer that takes `delay_s` longer."""

    kind: Literal["slow"]
    delay_s: _Positive
    where: Literal["headers", "body"] = "headers"


class HugeFault(_Strike):
    """A body that goes on and on."""

    kind: Literal["huge"]
    bytes: Annotated[int, Field(gt=0)] = 100_000_000


class BrokenFault(_Strike):
    """An answer that is none."""

    kind: Literal["hang", "reset", "empty", "html", "truncated", "malformed", "overload", "filtered"]


class CutFault(_Fault):
    """An outage of the quota."""

    kind: Literal["cut"]
    for_s: _Positive
    retry_after_s: _Positive | None = None
    fixed: bool = False


class LimitsFault(_Fault):
    """Other limits from now on."""

    kind: Literal["limits"]
    requests_per_minute: _Positive | None = None
    tokens_per_minute: _Positive | None = None
    input_tokens_per_minute: _Positive | None = None
    output_tokens_per_minute: _Positive | None = None


class StrangersFault(_Fault):
    """Somebody else who uses the same quota."""

    kind: Literal["strangers"]
    share: Annotated[float, Field(gt=0, le=1)]
    for_s: _Positive | None = None


class CapacityFault(_Fault):
    """Fewer calls at once than usual; no account's limit, and nothing says when it is over."""

    kind: Literal["capacity"]
    concurrency: Annotated[int, Field(ge=0)]
    for_s: _Positive | None = None


EarlyFault = StatusFault | RedirectFault
LateFault = SlowFault | HugeFault | BrokenFault
Strike = EarlyFault | LateFault
Fault = Strike | CutFault | LimitsFault | StrangersFault | CapacityFault

_FAULT: TypeAdapter[Fault] = TypeAdapter(Annotated[Fault, Field(discriminator="kind")])


def parse_fault(body: bytes) -> Fault:
    """Return the fault that a JSON text describes. Raises ValueError with where and why."""
    try:
        return _FAULT.validate_json(body)
    except ValidationError as exc:
        raise ValueError(
            "; ".join(
                f"{'.'.join(map(str, error['loc'])) or 'fault'}: {error['msg']}"
                for error in exc.errors(include_input=False, include_url=False)
            )
        ) from None


@dataclass(slots=True, kw_only=True)
class _Entry:
    at: float
    fault: Fault
    calls_left: int | None
    ends_at: float | None
    struck: int = 0

    def is_active(self, now_s: float) -> bool:
        """Whether it still strikes, or still holds."""
        return self.calls_left != 0 and (self.ends_at is None or now_s < self.ends_at)


class FaultPlan:
    """The faults that were asked for, in order; the first active one that fits strikes a call."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._all: list[_Entry] = []
        self._striking: list[_Entry] = []
        self._shortage: tuple[_Entry, CapacityFault] | None = None

    def add(self, fault: Fault, now_s: float) -> None:
        """Begin a fault now."""
        for_s = None if isinstance(fault, LimitsFault) else fault.for_s
        calls_left = None
        if isinstance(fault, _Strike):
            calls_left = 1 if fault.calls is None and for_s is None else fault.calls
        elif isinstance(fault, StrangersFault | CapacityFault):
            self._end(lambda earlier: isinstance(earlier, type(fault)), now_s)
        ends_at = None if for_s is None else now_s + for_s
        entry = _Entry(at=now_s, fault=fault, calls_left=calls_left, ends_at=ends_at)
        self._all.append(entry)
        if isinstance(fault, _Strike):
            self._striking.append(entry)
        elif isinstance(fault, CapacityFault):
            self._shortage = entry, fault

    def clear(self, now_s: float) -> None:
        """End every fault but changes of the limits."""
        self._end(lambda fault: not isinstance(fault, LimitsFault), now_s)
        self._striking.clear()

    def strike_early(self, request_id: str, now_s: float) -> EarlyFault | None:
        """Return the fault that answers this call before the quota is looked at."""
        for entry in self._candidates(request_id, now_s):
            if isinstance(entry.fault, EarlyFault) and self._hits(entry):
                return entry.fault
        return None

    def strike_late(self, request_id: str, now_s: float) -> LateFault | None:
        """Return the fault that spoils the answer of this admitted call."""
        for entry in self._candidates(request_id, now_s):
            if isinstance(entry.fault, LateFault) and self._hits(entry):
                return entry.fault
        return None

    def capacity(self, now_s: float) -> CapacityFault | None:
        """Return the shortage of capacity that holds, if one does."""
        held = self._shortage
        return held[1] if held is not None and held[0].is_active(now_s) else None

    def count(self, kind: type[CutFault | CapacityFault]) -> None:
        """Count a call that the newest cut or shortage refused."""
        next(entry for entry in reversed(self._all) if isinstance(entry.fault, kind)).struck += 1

    def report(self, now_s: float) -> list[Mapping[str, Any]]:
        """Return every fault ever asked for, as `GET /stats` shows them."""
        return [
            {
                "at": entry.at,
                "kind": entry.fault.kind,
                "fault": entry.fault.model_dump(exclude_unset=True),
                "struck": entry.struck,
                "active": entry.is_active(now_s),
            }
            for entry in self._all
        ]

    def _end(self, is_meant: Callable[[Fault], bool], now_s: float) -> None:
        for entry in self._all:
            if is_meant(entry.fault) and entry.is_active(now_s):
                entry.ends_at = now_s

    def _candidates(self, request_id: str, now_s: float) -> list[_Entry]:
        if not self._striking:
            return []
        self._striking = [entry for entry in self._striking if entry.is_active(now_s)]
        return [
            entry
            for entry in self._striking
            if isinstance(entry.fault, _Strike) and entry.fault.match in request_id
        ]

    def _hits(self, entry: _Entry) -> bool:
        if isinstance(entry.fault, _Strike) and entry.fault.share < 1 and self._random() >= entry.fault.share:
            return False
        entry.struck += 1
        if entry.calls_left is not None:
            entry.calls_left -= 1
        return True
