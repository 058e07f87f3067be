"""The state in memory: what the Redis scripts promise, in plain Python, with the clock as an argument.

It passes the same contract suite as RedisState. Its small rules (`_adopts`, `_may_switch`, `_is_over`,
`_same_life`, ...) are the lines of design section 7; the tests break them one at a time and watch the
protocol fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from sluicegate.errors import StateUnavailableError
from sluicegate.records import Origin
from sluicegate.state.api import (
    AlreadyEnded,
    Behind,
    Busy,
    Cancelled,
    Cancelling,
    CancelVerdict,
    Claimed,
    Copy,
    End,
    EndKind,
    EndVerdict,
    EventRef,
    Finish,
    HistoryEntry,
    Lease,
    Leased,
    Memo,
    ParkVerdict,
    Phase,
    Run,
    Stale,
    Standing,
    Taken,
)
from sluicegate.state.keeping import Keeping


@dataclass(slots=True, kw_only=True)
class Row:
    """What is known of one event."""

    expires_at_ms: int
    live: str | None = None
    gen: str | None = None
    run: str = ""
    phase: Phase = Phase.OPEN
    end: End | None = None
    kind: EndKind | None = None
    due_at_ms: int = 0
    is_cancelled: bool = False
    has_died: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    due_at_ms: int
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeadLetter:
    offset: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    owner: str
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    request_hash: str
    content: bytes


@dataclass(slots=True, kw_only=True)
class _StepsOfEvent:
    expires_at_ms: int
    answers: dict[str, _Answer] = field(default_factory=dict)
    leases: dict[str, _Held] = field(default_factory=dict)
    history: tuple[HistoryEntry, ...] | None = None


@dataclass(slots=True, kw_only=True)
class _Conversation:
    expires_at_ms: int
    entries: list[tuple[Origin, HistoryEntry]] = field(default_factory=list)


_Key = tuple[str, str]
_STORED = ("_rows", "_gates", "_dead_letters", "_steps", "_conversations")


class FakeState:
    """Every interface of the state in memory. `run_id` plays the server's; set it to restart.

    While `is_available` is false every method raises StateUnavailableError and changes nothing.
    """

    def __init__(
        self, now_ms: Callable[[], int], new_gen: Callable[[], str], keeping: Keeping | None = None
    ) -> None:
        self.is_available = True
        self.run_id = "run-1"
        self._now_ms = now_ms
        self._new_gen = new_gen
        self._keeping = keeping or Keeping()
        self.flush()

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does."""
        self._rows: dict[tuple[_Key, Origin], Row] = {}
        self._gates: dict[tuple[_Key, str, int], dict[int, _Open]] = {}
        self._dead_letters: dict[tuple[_Key, str, int], _DeadLetter] = {}
        self._steps: dict[tuple[_Key, str], _StepsOfEvent] = {}
        self._conversations: dict[_Key, _Conversation] = {}

    def saved(self) -> object:
        """Return a copy of all that is there, for `set_back`."""
        return deepcopy(tuple(getattr(self, name) for name in _STORED))

    def set_back(self, saved: object) -> None:
        """Lose whatever was written since `saved`, as a failover or a crash without its last second does."""
        assert isinstance(saved, tuple)
        for name, content in zip(_STORED, deepcopy(saved), strict=True):
            setattr(self, name, content)

    def row_of(self, ref: EventRef) -> Row | None:
        """Return the event's row for a test to look at or to change; None when there is none."""
        row = self._rows.get((_key(ref), ref.origin))
        return row if row is not None and row.expires_at_ms > self._now_ms() else None

    def open_origins(self, ref: EventRef) -> tuple[int, ...]:
        """Return the offsets that are open in the event's gate, lowest first."""
        return tuple(sorted(self._gate(ref)))

    def steps_kept_until_ms(self, ref: EventRef) -> int | None:
        """Return when the event's steps will be forgotten; None when there are none."""
        steps = self._steps.get((_key(ref), ref.identity))
        return None if steps is None else steps.expires_at_ms

    # --- Copies -----------------------------------------------------------------------------------

    async def take(self, ref: EventRef, copy: Copy) -> Taken:
        """Decide what to do with a delivered record."""
        self._check()
        row = self._row(ref)
        if self._may_reopen(row, copy):
            self._reopen(row)
        elif self._is_over(row):
            return Taken(verdict=Stale())
        was_lost = False
        if row.live != copy.id:
            was_lost = self._switch_was_lost(row, copy)
            if not (row.live is None or self._adopts(row, copy) or was_lost):
                return Taken(verdict=Stale())
            row.live, row.run = copy.id, self.run_id
            if not copy.is_input:
                row.due_at_ms = max(row.due_at_ms, self._now_ms())
        row.gen = row.gen or self._new_gen()
        gen = f"{row.gen}@{self.run_id}"
        row.expires_at_ms = max(row.expires_at_ms, self._open_until(row))
        if not copy.is_input:
            self._confirm_open(ref, row)
        if row.phase is Phase.CLAIMED and row.end is not None:
            return Taken(verdict=Finish(gen=gen, end=row.end), switch_was_lost=was_lost)
        if row.is_cancelled:
            return Taken(verdict=Cancelled(gen=gen), switch_was_lost=was_lost)
        behind, healed = self._look_ahead(ref, gen)
        run = Run(gen=gen, dead_predecessor=self._dead_predecessor(ref))
        return Taken(verdict=behind or run, switch_was_lost=was_lost, gates_healed=healed)

    async def intend_park(self, ref: EventRef, due_at_ms: int) -> None:
        """Note that a copy due then is about to be published, so that the end's mark outlives it."""
        self._check()
        row = self._row(ref)
        row.due_at_ms = max(row.due_at_ms, due_at_ms)
        row.expires_at_ms = max(row.expires_at_ms, row.due_at_ms + self._keeping.horizon_ms)

    async def park(self, ref: EventRef, copy: Copy, new: Copy, gen: str, due_at_ms: int) -> ParkVerdict:
        """Make the new, already confirmed copy the one that counts, and open the origin in the gate."""
        self._check()
        row = self.row_of(ref)
        if row is None or row.gen is None or not self._same_life(row, gen) or not self._same_server(gen):
            return ParkVerdict.TAKE_AGAIN
        if self._is_over(row) or not self._may_switch(row, copy, new):
            return ParkVerdict.REFUSED
        row.live, row.run = new.id, self.run_id
        row.due_at_ms = max(row.due_at_ms, due_at_ms)
        row.expires_at_ms = max(row.expires_at_ms, self._open_until(row))
        if ref.ordered:
            self._gate(ref)[ref.origin.offset] = _Open(due_at_ms=due_at_ms, run=self.run_id)
        return ParkVerdict.SWITCHED

    # --- Ends -------------------------------------------------------------------------------------

    async def claim(
        self, ref: EventRef, gen: str, end: End, *, replaces: EndKind | None = None
    ) -> Claimed | EndVerdict:
        """Store the end unless one of another kind than `replaces` is stored; the first claim wins."""
        self._check()
        row = self._row(ref)
        if row.gen is not None and not self._same_life(row, gen):
            return EndVerdict.TAKE_AGAIN
        if row.phase is Phase.DONE:
            return EndVerdict.ALREADY_DONE
        row.gen = row.gen or _life(gen)
        if row.phase is Phase.CLAIMED and not (replaces is not None and row.kind is replaces):
            return Claimed(end=self._stored_end(row, end))
        row.phase, row.kind = Phase.CLAIMED, end.kind
        self._store_end(row, end)
        row.expires_at_ms = max(row.expires_at_ms, self._open_until(row))
        return Claimed(end=end)

    async def finish(self, ref: EventRef, gen: str, end: End) -> EndVerdict:
        """Mark the confirmed end done, close the origin, append its history, drop a result's steps."""
        self._check()
        row = self._row(ref)
        if row.gen is not None and not self._same_life(row, gen):
            return EndVerdict.TAKE_AGAIN
        if row.phase is Phase.DONE:
            return EndVerdict.ALREADY_DONE
        row.gen = row.gen or _life(gen)
        row.kind = kind = end.kind
        row.phase, row.end, row.is_cancelled = Phase.DONE, None, False
        self._gate(ref).pop(ref.origin.offset, None)
        self._mark_dead_letter(ref, kind)
        self._append(ref, end.history)
        now, steps = self._now_ms(), self._steps.get((_key(ref), ref.identity))
        is_dead = kind is EndKind.DEAD_LETTER
        # The letter of an earlier life lies in the DLQ, and whoever replays it must see what became of it.
        has_letter = is_dead or row.has_died
        mark_ms = self._keeping.dead_letter_ms if has_letter else self._keeping.mark_ms
        due_ms = row.due_at_ms + self._keeping.horizon_ms if row.due_at_ms else 0
        row.expires_at_ms = max(now + mark_ms, due_ms)
        if steps is not None and is_dead:
            steps.expires_at_ms = now + mark_ms
        elif steps is not None:
            del self._steps[_key(ref), ref.identity]
        return EndVerdict.DONE

    # --- Steps ------------------------------------------------------------------------------------

    async def begin(self, lease: Lease, request_hash: str) -> Memo | Leased | Busy | AlreadyEnded:
        """Take the step's lease, or learn its answer, or who has it."""
        self._check()
        now, row = self._now_ms(), self.row_of(lease.ref)
        if row is not None and row.phase is Phase.DONE:
            return AlreadyEnded()
        steps = self._steps_of(lease.ref)
        answer = steps.answers.get(lease.step)
        if answer is not None and answer.request_hash == request_hash:
            return Memo(answer=answer.content)
        held = steps.leases.get(lease.step)
        if held is not None and held.owner != lease.owner and held.until_ms > now:
            return Busy(wait_ms=held.until_ms - now)
        steps.answers.pop(lease.step, None)
        steps.leases[lease.step] = _Held(owner=lease.owner, until_ms=now + self._keeping.lease_ms)
        return Leased(mismatch=answer is not None)

    async def renew(self, leases: Sequence[Lease]) -> tuple[bool, ...]:
        """Prolong the leases that are still ours; return which are, in the order asked."""
        self._check()
        return tuple(map(self._renewed, leases))

    def _renewed(self, lease: Lease) -> bool:
        steps = self._steps_of(lease.ref)
        held = steps.leases.get(lease.step)
        if held is None or held.owner != lease.owner:
            return False
        until_ms = self._now_ms() + self._keeping.lease_ms
        steps.leases[lease.step] = _Held(owner=lease.owner, until_ms=until_ms)
        return True

    async def complete(self, lease: Lease, request_hash: str, answer: bytes) -> None:
        """Store the answer (the first one stays) and end the lease."""
        self._check()
        row = self.row_of(lease.ref)
        if row is not None and row.phase is Phase.DONE and row.kind is not EndKind.DEAD_LETTER:
            return
        steps = self._steps_of(lease.ref)
        steps.answers.setdefault(lease.step, _Answer(request_hash=request_hash, content=answer))
        await self.release(lease)

    async def release(self, lease: Lease) -> None:
        """End our lease without an answer, so that the next taker need not wait for its end."""
        self._check()
        leases = self._steps_of(lease.ref).leases
        held = leases.get(lease.step)
        if held is not None and held.owner == lease.owner:
            del leases[lease.step]

    # --- Histories --------------------------------------------------------------------------------

    async def earlier(self, ref: EventRef) -> tuple[HistoryEntry, ...]:
        """What earlier origins of the key left, fixed at the event's first call of this method."""
        self._check()
        steps = self._steps_of(ref)
        if steps.history is None:
            conversation = self._conversations.get(_key(ref))
            is_kept = conversation is not None and conversation.expires_at_ms > self._now_ms()
            entries = conversation.entries if conversation is not None and is_kept else []
            steps.history = tuple(entry for origin, entry in entries if _is_earlier(origin, ref.origin))
        return steps.history

    # --- Standings --------------------------------------------------------------------------------

    async def standings(self, refs: Sequence[EventRef]) -> tuple[Standing | None, ...]:
        """Return how each event stands, in the order asked; None without a row."""
        self._check()
        return tuple(_standing(self.row_of(ref)) for ref in refs)

    # --- Cancels ----------------------------------------------------------------------------------

    async def cancel(self, events: Sequence[tuple[EventRef, int]]) -> tuple[Cancelling, ...]:
        """Flag each event that has no end."""
        self._check()
        return tuple(self._flag(ref, due_at_ms) for ref, due_at_ms in events)

    def _flag(self, ref: EventRef, due_at_ms: int) -> Cancelling:
        found = self.row_of(ref)
        if found is not None and found.phase is not Phase.OPEN:
            is_over = found.phase is Phase.DONE
            verdict = CancelVerdict.ENDED if is_over else CancelVerdict.TOO_LATE
            return Cancelling(verdict=verdict, live=found.live)
        row = self._row(ref)
        row.is_cancelled = True
        row.due_at_ms = max(row.due_at_ms, due_at_ms)
        row.expires_at_ms = max(row.expires_at_ms, self._open_until(row))
        return Cancelling(verdict=CancelVerdict.FLAGGED, live=row.live)

    # --- The rules of design section 7 --------------------------------------------------------------

    def _is_over(self, row: Row) -> bool:
        """Ended means done, never merely claimed."""
        return row.phase is Phase.DONE

    def _adopts(self, row: Row, copy: Copy) -> bool:
        """A copy that replaces the live one is adopted: its switch may not have come yet."""
        return copy.replaces is not None and row.live == copy.replaces

    def _may_reopen(self, row: Row, copy: Copy) -> bool:
        """Only a dead letter is reopened, by a replay's copy that comes next after the one that died."""
        is_dead = row.phase is Phase.DONE and row.kind is EndKind.DEAD_LETTER
        is_next = row.live is None or (row.live != copy.id and self._adopts(row, copy))
        return copy.is_replay and is_dead and is_next

    def _reopen(self, row: Row) -> None:
        """Another life of the event: whoever still works on the last one finds another gen."""
        row.phase, row.kind, row.end, row.is_cancelled, row.gen = Phase.OPEN, None, None, False, None
        row.has_died = True

    def _switch_was_lost(self, row: Row, copy: Copy) -> bool:
        """Redis lost its last second: a later copy exists, so its switch had been written."""
        if row.live is None or self._adopts(row, copy):
            return False
        return row.run != self.run_id and copy.hop > Copy(id=row.live).hop

    def _may_switch(self, row: Row, copy: Copy, new: Copy) -> bool:
        """Only the copy that counts parks; a repeat of the same switch is fine."""
        return row.live in (copy.id, new.id)

    def _same_life(self, row: Row, gen: str) -> bool:
        """A row made anew (after a flush, by a replay) is not the one that was taken."""
        return row.gen == _life(gen)

    def _same_server(self, gen: str) -> bool:
        """What was taken from an earlier server may have gone on since, and this one lost it."""
        return gen.rpartition("@")[2] == self.run_id

    def _store_end(self, row: Row, end: End) -> None:
        """A claim keeps the end itself."""
        row.end = end

    def _stored_end(self, row: Row, offered: End) -> End:
        """Whoever comes later publishes the end that the first claim stored."""
        return row.end or offered

    def _look_ahead(self, ref: EventRef, gen: str) -> tuple[Behind | None, int]:
        gate, healed, now = self._gate(ref), 0, self._now_ms()
        for offset in sorted((o for o in gate if ref.ordered and o < ref.origin.offset), reverse=True):
            entry = gate[offset]
            is_forgotten = entry.due_at_ms + self._keeping.open_ms < now
            is_orphan = entry.run != self.run_id and entry.due_at_ms + self._keeping.heal_after_ms < now
            if not (is_forgotten or is_orphan):
                behind = Behind(gen=gen, predecessor_offset=offset, predecessor_due_at_ms=entry.due_at_ms)
                return behind, healed
            del gate[offset]
            healed += 1
        return None, healed

    # --- Storage ----------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self.is_available:
            raise StateUnavailableError("the fake state is set to be away")

    def _row(self, ref: EventRef) -> Row:
        row = self.row_of(ref)
        if row is None:
            row = Row(expires_at_ms=self._now_ms() + self._keeping.open_ms)
            self._rows[_key(ref), ref.origin] = row
        return row

    def _open_until(self, row: Row) -> int:
        due_ms = row.due_at_ms + self._keeping.horizon_ms if row.due_at_ms else 0
        return max(self._now_ms() + self._keeping.open_ms, due_ms)

    def _gate(self, ref: EventRef) -> dict[int, _Open]:
        return self._gates.setdefault(_place(ref), {})

    def _dead_letter(self, ref: EventRef) -> int | None:
        letter = self._dead_letters.get(_place(ref))
        return letter.offset if letter is not None and letter.expires_at_ms > self._now_ms() else None

    def _dead_predecessor(self, ref: EventRef) -> int | None:
        offset = self._dead_letter(ref)
        return offset if ref.ordered and offset is not None and offset < ref.origin.offset else None

    def _mark_dead_letter(self, ref: EventRef, kind: EndKind) -> None:
        """Remember a key's dead letter until a later event of it, or its own replay, has a result."""
        known, offset = self._dead_letter(ref), ref.origin.offset
        if ref.ordered and kind is EndKind.DEAD_LETTER and (known is None or known < offset):
            until_ms = self._now_ms() + self._keeping.history_ms
            self._dead_letters[_place(ref)] = _DeadLetter(offset=offset, expires_at_ms=until_ms)
        elif (
            kind is EndKind.RESULT
            and known is not None
            and (known == offset or (ref.ordered and known < offset))
        ):
            del self._dead_letters[_place(ref)]

    def _confirm_open(self, ref: EventRef, row: Row) -> None:
        """A delivered copy that counts is open under this run of the server."""
        gate = self._gate(ref)
        entry = gate.get(ref.origin.offset)
        if ref.ordered and (entry is None or entry.run != self.run_id):
            due_at_ms = entry.due_at_ms if entry is not None else row.due_at_ms
            gate[ref.origin.offset] = _Open(due_at_ms=due_at_ms, run=self.run_id)

    def _steps_of(self, ref: EventRef) -> _StepsOfEvent:
        now = self._now_ms()
        steps = self._steps.get((_key(ref), ref.identity))
        if steps is None or steps.expires_at_ms <= now:
            steps = _StepsOfEvent(expires_at_ms=now + self._keeping.open_ms)
            self._steps[_key(ref), ref.identity] = steps
        return steps

    def _append(self, ref: EventRef, entries: tuple[HistoryEntry, ...]) -> None:
        if not entries:
            return
        now = self._now_ms()
        kept = self._conversations.get(_key(ref))
        if kept is None or kept.expires_at_ms <= now:
            kept = self._conversations[_key(ref)] = _Conversation(expires_at_ms=0)
        kept.expires_at_ms = now + self._keeping.history_ms
        kept.entries.extend((ref.origin, entry) for entry in entries)
        while len(kept.entries) > self._keeping.history_entries or (
            sum(len(entry.text.encode()) for _, entry in kept.entries) > self._keeping.history_bytes
        ):
            del kept.entries[0]


def _life(gen: str) -> str:
    """The row's own gen, without the server that Take found it on."""
    return gen.partition("@")[0]


def _key(ref: EventRef) -> _Key:
    return ref.stream, ref.key


def _place(ref: EventRef) -> tuple[_Key, str, int]:
    return _key(ref), ref.origin.topic, ref.origin.partition


def _is_earlier(left: Origin, origin: Origin) -> bool:
    """Offsets compare within one partition only; another partition's entries are there, so earlier."""
    return (left.topic, left.partition) != (origin.topic, origin.partition) or left.offset < origin.offset


def _standing(row: Row | None) -> Standing | None:
    if row is None:
        return None
    return Standing(
        live=row.live,
        gen=row.gen,
        phase=row.phase,
        kind=row.kind,
        is_cancelled=row.is_cancelled,
        due_at_ms=row.due_at_ms or None,
    )
