"""The script's text, what it is given and what it answers, byte by byte (lua/1_open.lua has the layout)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from importlib import resources

from sluicegate.limiter.api import Cost, Dimension
from sluicegate.limiter.booking import (
    DAY_DIMENSIONS,
    MINUTE_DIMENSIONS,
    Answer,
    Batch,
    BookingRef,
    CircuitReason,
    CircuitView,
    ProcessReport,
    Quota,
    Reply,
    Verdict,
)

DIMENSIONS = (
    Dimension.NONE,
    *MINUTE_DIMENSIONS,
    *DAY_DIMENSIONS,
    Dimension.BLOCKED,
    Dimension.CIRCUIT,
    Dimension.LANE,
    Dimension.CONCURRENCY,
)
_PARTS = ("1_open", "2_rates", "3_settle", "4_hear", "5_ask", "6_close")
_HEAD = struct.Struct("<25d")
_REPLY = struct.Struct("<19d")
_ANSWER = struct.Struct("<3d")
_VERDICTS = 16
_LOST, _LEASING, _WANTS_ANSWERS, _PROBE = 1, 2, 4, 8


def script_text() -> str:
    """Return the script: its parts, in order, are one chunk."""
    folder = resources.files(__package__).joinpath("lua")
    return "\n".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in _PARTS)


def process_hash(process: str) -> int:
    """Return a number for a process's name, exact in a double and never 0."""
    return 1 + int.from_bytes(sha256(process.encode()).digest()[:6], "big")


def encode(
    batch: Batch, quota: Quota, sequence: int, process: str, *, must_check: bool
) -> list[bytes | int | str]:
    """Return the script's arguments. `must_check`: the run id must be asked for, Redis may be another."""
    head = _HEAD.pack(
        must_check,
        batch.horizon_us,
        quota.burst_us,
        batch.block_us,
        *quota.per_minute,
        *quota.per_day,
        quota.concurrency or 0,
        quota.bulk_share,
        quota.strict_window_s * 1e6,
        *batch.largest,
        batch.is_hungry,
        batch.wants_probe,
        batch.keeps_probe,
        process_hash(process),
        batch.lead_us,
        *batch.held,
    )
    give_backs = _rows((*_booking(g.booking), *_cost(g.cost)) for g in batch.give_backs)
    settlements = _rows(
        (*_booking(s.booking), *_cost(s.extra), s.is_released, s.duration_us, s.is_alive)
        for s in batch.settlements
    )
    news = _rows((n.code, n.started_us, n.retry_after_us, n.reason, n.event, n.is_probe) for n in batch.news)
    observations = _rows(
        (o.dimension + 1, o.extra_us, o.raised_before_us, o.limit) for o in batch.observations
    )
    renewals = _rows(map(_booking, batch.renewals))
    requests = _rows((r.lane, *_booking(r.booking), *_cost(r.cost)) for r in batch.requests)
    report = b"" if batch.report is None else encode_report(batch.report)
    return [sequence, process, head, give_backs, settlements, news, observations, renewals, requests, report]


def encode_report(report: ProcessReport) -> bytes:
    """Return what a process says of itself; the script puts the time before it."""
    return struct.pack(
        "<4d", report.in_flight, report.waiting_interactive, report.waiting_bulk, report.booked
    )


def _booking(booking: BookingRef) -> tuple[float, ...]:
    return (booking.generation, booking.number, booking.stretch, booking.start_us)


def _cost(cost: Cost) -> tuple[int, ...]:
    return (cost.requests, cost.tokens, cost.input_tokens, cost.output_tokens, cost.micro_dollars)


def _rows(rows: Iterable[tuple[float, ...]]) -> bytes:
    flat = [value for row in rows for value in row]
    return struct.pack(f"<{len(flat)}d", *flat)


def decode(raw: bytes) -> Reply:
    """Read the script's answer. Raises struct.error for anything else."""
    now, generation, blocked_until, blocked_by, void_until, bits, circuit, since, probe_at, safe, *rest = (
        _REPLY.unpack_from(raw)
    )
    flags = int(bits)
    learnt_1, learnt_2, learnt_3, learnt_4 = rest[:4]
    raised_1, raised_2, raised_3, raised_4, newest = map(int, rest[4:])
    return Reply(
        now_us=int(now),
        generation=int(generation),
        blocked_until_us=int(blocked_until),
        blocked_by=DIMENSIONS[int(blocked_by)],
        void_until_us=int(void_until),
        was_lost=bool(flags & _LOST),
        is_leasing=bool(flags & _LEASING),
        wants_answers=bool(flags & _WANTS_ANSWERS),
        has_probe=bool(flags & _PROBE),
        circuit=CircuitView(
            reason=CircuitReason(int(circuit)), since_us=int(since), probe_at_us=int(probe_at)
        )
        if circuit
        else None,
        safe=safe,
        learnt=(learnt_1, learnt_2, learnt_3, learnt_4),
        raised_us=(raised_1, raised_2, raised_3, raised_4),
        answers=_answers(list(_ANSWER.iter_unpack(raw[_REPLY.size :])), newest),
    )


def _answers(rows: list[tuple[float, ...]], newest: int) -> tuple[Answer, ...]:
    """Number the bookings from the newest back."""
    answers = []
    for code, wait, stretch in reversed(rows):
        verdict, dimension = divmod(int(code), _VERDICTS)
        is_booked = verdict == Verdict.BOOKED
        answers.append(
            Answer(
                verdict=Verdict(verdict),
                dimension=DIMENSIONS[dimension],
                wait_us=int(wait),
                number=newest if is_booked else 0,
                stretch=stretch,
            )
        )
        newest -= is_booked
    return tuple(reversed(answers))
