"""What Redis keeps of a scope, key by key, and how it is read back."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from sluicegate.limiter.booking import ProcessReport

LAYOUT_VERSION = 7
FAILING_EVENTS = 5
HOURS = 26
_DIMENSIONS = 4
_PROCESS = struct.Struct("<5d")
_TICKET = struct.Struct("<3d")

FourTimes = tuple[int, int, int, int]
FourRates = tuple[float, float, float, float]
NO_TIMES: FourTimes = (0, 0, 0, 0)
NO_RATES: FourRates = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeState:
    """The scope's one string: everything but leases, days and who is there. The order is the layout's.

    `tats_us` are the theoretical arrival times, `shares_us` those of bulk's guaranteed part. Calls that
    began before `cut_until_us` belong to the burst of 429s that last lowered `safe`; `burst_at_us` is when
    the last refusal of a burst came, `cut_newest` how many bookings there were then. After `ramp_from_us`
    the rate climbs from half for `ramp_us`, because of the signal `ramp_code` (0: a circuit closed).
    `ceiling` bounds concurrent calls after an overload (0: none), `call_us` is how long they take. `usual`
    is what calls take of late, in units: so much may always go at once; `largest` what they ever took,
    while windows are strict. `interactive_at_us` is when interactive work last booked, until
    `hungry_until_us` some of it waits; until `bulk_until_us` a place among the concurrent calls is kept for
    bulk work.
    """

    run_id: str
    checked_at_us: int = 0
    generation: int = 0
    newest: int = 0
    last_now_us: int = 0
    blocked_until_us: int = 0
    block_code: int = 0
    cut_until_us: int = 0
    cut_newest: int = 0
    safe: float = 1.0
    safe_at_us: int = 0
    ramp_from_us: int = 0
    ramp_us: int = 0
    ceiling: float = 0.0
    ceiling_top: float = 0.0
    ceiling_at_us: int = 0
    call_us: float = 0.0
    interactive_at_us: int = 0
    hungry_until_us: int = 0
    failures: int = 0
    failing_since_us: int = 0
    failing_events: tuple[int, ...] = (0,) * FAILING_EVENTS
    circuit: int = 0
    circuit_since_us: int = 0
    probe_at_us: int = 0
    probe_until_us: int = 0
    probe_delay_us: int = 0
    probe_holder: int = 0
    probe_number: int = 0
    tats_us: FourTimes = NO_TIMES
    shares_us: FourTimes = NO_TIMES
    learnt: FourRates = NO_RATES
    raised_us: FourTimes = NO_TIMES
    largest: FourRates = NO_RATES
    usual: FourRates = NO_RATES
    bulk_until_us: int = 0
    burst_at_us: int = 0
    ramp_code: int = 0


_FLOATS = frozenset({"safe", "ceiling", "ceiling_top", "call_us", "learnt", "largest", "usual"})
_WIDTHS = {
    "failing_events": FAILING_EVENTS,
    **dict.fromkeys(("tats_us", "shares_us", "learnt", "raised_us", "largest", "usual"), _DIMENSIONS),
}
_NAMES = tuple(each.name for each in fields(ScopeState) if each.name != "run_id")
_STATE = struct.Struct(f"<B40s{sum(_WIDTHS.get(name, 1) for name in _NAMES)}d")


@dataclass(frozen=True, slots=True, kw_only=True)
class DayState:
    """What was used in each hour: `hour` is the newest one counted, `used[dimension][hour % HOURS]`."""

    hour: int
    used: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One process waits since `taken_us`, in one of the scope's queues, and is forgotten at `until_us`.

    In the queues for places among the concurrent calls, one a lane, it waits for one beyond the `held` ones.
    """

    taken_us: int
    held: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All keys of one scope.

    `leases` maps a call's id to the end of its lease (us), `tickets` queue and process to a ticket.
    """

    scope: ScopeState | None = None
    leases: Mapping[str, int] = field(default_factory=dict)
    days: DayState | None = None
    processes: Mapping[str, tuple[int, ProcessReport]] = field(default_factory=dict)
    tickets: Mapping[str, Ticket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeKeys:
    """The keys of one scope, all in one slot.

    There is no group in them: deployments on one account share one quota.
    """

    state: str
    leases: str
    days: str
    processes: str
    tickets: str

    @classmethod
    def of(cls, scope: str) -> ScopeKeys:
        """Return the keys of a scope by its name."""
        state = f"lim:{{{scope}}}"
        return cls(
            state=state,
            leases=f"{state}:c",
            days=f"{state}:d",
            processes=f"{state}:p",
            tickets=f"{state}:t",
        )

    def batch(self, process: str) -> str:
        """Return the key of a process's last batch."""
        return f"{self.state}:batch:{process}"


def scope_key(scope: str) -> str:
    """Return the key of the scope's state."""
    return ScopeKeys.of(scope).state


def encode_state(state: ScopeState) -> bytes:
    """Return the string as the script writes it."""
    values: list[float] = []
    for name in _NAMES:
        value = getattr(state, name)
        values += value if name in _WIDTHS else (value,)
    return _STATE.pack(LAYOUT_VERSION, state.run_id.encode("ascii"), *values)


def decode_state(raw: bytes) -> ScopeState:
    """Read a stored scope of today's layout. Raises struct.error or ValueError for anything else."""
    version, run_id, *values = _STATE.unpack(raw)
    if version != LAYOUT_VERSION:
        raise ValueError(f"layout {version}, not {LAYOUT_VERSION}")
    read: dict[str, object] = {}
    at = 0
    for name in _NAMES:
        width = _WIDTHS.get(name, 1)
        numbers = values[at : at + width]
        if name not in _FLOATS:
            numbers = [int(number) for number in numbers]
        read[name] = tuple(numbers) if name in _WIDTHS else numbers[0]
        at += width
    return ScopeState(run_id=run_id.decode("ascii"), **read)  # type: ignore[arg-type]  # by the names above


def encode_days(days: DayState) -> bytes:
    """Return the string as the script writes it."""
    flat = [used for dimension in days.used for used in dimension]
    return struct.pack(f"<{1 + len(flat)}d", days.hour, *flat)


def decode_days(raw: bytes) -> DayState:
    """Read the hours of the day limits. Raises struct.error for anything else."""
    hour, *flat = struct.unpack(f"<{1 + 3 * HOURS}d", raw)
    used = tuple(tuple(flat[at : at + HOURS]) for at in range(0, len(flat), HOURS))
    return DayState(hour=int(hour), used=used)


def decode_process(raw: bytes) -> tuple[int, ProcessReport]:
    """Read when a process last reported (us), and what. Raises struct.error for anything else."""
    at_us, in_flight, interactive, bulk, booked = (int(value) for value in _PROCESS.unpack(raw))
    return at_us, ProcessReport(
        in_flight=in_flight, waiting_interactive=interactive, waiting_bulk=bulk, booked=booked
    )


def encode_ticket(ticket: Ticket) -> bytes:
    """Return the string as the script writes it."""
    return _TICKET.pack(ticket.taken_us, ticket.held, ticket.until_us)


def decode_ticket(raw: bytes) -> Ticket:
    """Read a ticket. Raises struct.error for anything else."""
    taken_us, held, until_us = (int(value) for value in _TICKET.unpack(raw))
    return Ticket(taken_us=taken_us, held=held, until_us=until_us)
