"""The booking's values and its wire form: what one script call is given, and what it answers.

Times are whole microseconds since `EPOCH_S`, small enough to be exact in the doubles of Redis's Lua
until the year 2310.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources

from sluicegate.limiter.api import Cost, Dimension

EPOCH_S = 1_735_689_600  # 2025-01-01T00:00:00Z
WINDOW_US = 60_000_000
LAYOUT_VERSION = 1
_STATE = struct.Struct("<B40s6d")
_DIMENSIONS = (Dimension.NONE, Dimension.REQUESTS, Dimension.TOKENS, Dimension.BLOCKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a `[limits.*]` section allows; None is no limit on that dimension.

    At most `burst_s` of the quota goes at once, but always one call, however large it is.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_s: float = 0.05

    @property
    def per_minute(self) -> tuple[float | None, float | None]:
        """The limits in the order of the state's dimensions."""
        return (self.requests_per_minute, self.tokens_per_minute)

    @property
    def is_limited(self) -> bool:
        """Whether any dimension has a limit."""
        return any(limit is not None for limit in self.per_minute)

    @property
    def burst_us(self) -> int:
        """The burst as time."""
        return math.ceil(self.burst_s * 1e6)

    def times_us(self, cost: Cost) -> tuple[int, int]:
        """Return how long each dimension needs to refill the cost (0: no limit), rounded up."""
        requests, tokens = (
            0 if limit is None else math.ceil(units * WINDOW_US / limit)
            for units, limit in zip((cost.requests, cost.tokens), self.per_minute, strict=True)
        )
        return requests, tokens

    def too_small_for(self, cost: Cost) -> Dimension | None:
        """Return the dimension whose whole minute is less than the cost, if there is one."""
        for dimension, time_us in zip(_DIMENSIONS[1:], self.times_us(cost), strict=False):
            if time_us > WINDOW_US:
                return dimension
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """A booking that was not used. It counts only while it is the newest one (see `reference`)."""

    generation: int
    number: int
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What a call took beyond its reservation; less than nothing is a refund."""

    generation: int
    extra: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks for a start time; with `generation` and `number`, whether that earlier booking still holds."""

    cost: Cost
    generation: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Everything that one script call does, in this order: give back, settle, block, book."""

    give_backs: tuple[GiveBack, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    requests: tuple[Request, ...] = ()
    block_us: int = 0
    horizon_us: int = 60_000_000


class Verdict(IntEnum):
    """What became of a request."""

    BOOKED = 0
    CONFIRMED = 1
    RETRY = 2  # further away than the horizon: nothing was booked
    NEVER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request's answer. `wait_us` counts from the reply's `now_us`; 0 for CONFIRMED and NEVER."""

    verdict: Verdict
    dimension: Dimension
    wait_us: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The scope as the script left it, and an answer to each request.

    `generation` changes when the scope was started afresh; a booking of another one holds no longer.
    """

    now_us: int
    generation: int
    blocked_until_us: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeState:
    """What Redis keeps of a scope. `tats_us` are the theoretical arrival times, per dimension."""

    run_id: str
    generation: int
    newest: int
    last_now_us: int
    blocked_until_us: int
    tats_us: tuple[int, int]


def scope_key(scope: str) -> str:
    """Return the scope's key. It has no group in it: deployments on one account share one quota."""
    return f"lim:{{{scope}}}"


def batch_key(scope: str, process: str) -> str:
    """Return the key of a process's last batch, in the scope's own slot."""
    return f"{scope_key(scope)}:batch:{process}"


def script_text() -> str:
    """Return the booking script."""
    return resources.files(__package__).joinpath("booking.lua").read_text("utf-8")


def encode(batch: Batch, quota: Quota, sequence: int) -> list[bytes | int]:
    """Return the script's arguments."""
    limits = (limit or 0 for limit in quota.per_minute)
    head = struct.pack("<5d", batch.horizon_us, quota.burst_us, batch.block_us, *limits)
    give_backs = _pack((g.generation, g.number, g.cost) for g in batch.give_backs)
    settlements = _pack((s.generation, 0, s.extra) for s in batch.settlements)
    requests = _pack((r.generation, r.number, r.cost) for r in batch.requests)
    return [sequence, head, give_backs, settlements, requests]


def _pack(rows: Iterable[tuple[int, int, Cost]]) -> bytes:
    return b"".join(struct.pack("<4d", g, n, cost.requests, cost.tokens) for g, n, cost in rows)


def decode(raw: bytes) -> Reply:
    """Read the script's answer. Raises struct.error for anything else."""
    now, generation, blocked_until = struct.unpack_from("<3d", raw)
    answers = tuple(
        Answer(
            verdict=Verdict(int(verdict)),
            dimension=_DIMENSIONS[int(dimension)],
            wait_us=int(wait),
            number=int(number),
        )
        for verdict, dimension, wait, number in struct.iter_unpack("<4d", raw[24:])
    )
    return Reply(
        now_us=int(now), generation=int(generation), blocked_until_us=int(blocked_until), answers=answers
    )


def decode_state(raw: bytes) -> ScopeState:
    """Read a stored scope of today's layout. Raises struct.error or ValueError for anything else."""
    version, run_id, generation, newest, last_now, blocked_until, *tats = _STATE.unpack(raw)
    if version != LAYOUT_VERSION:
        raise ValueError(f"layout {version}, not {LAYOUT_VERSION}")
    requests, tokens = (int(tat) for tat in tats)
    return ScopeState(
        run_id=run_id.decode("ascii"),
        generation=int(generation),
        newest=int(newest),
        last_now_us=int(last_now),
        blocked_until_us=int(blocked_until),
        tats_us=(requests, tokens),
    )
