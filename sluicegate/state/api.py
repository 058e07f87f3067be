"""The protocol of copies, ends and order, as the six small interfaces that its adapters implement.

Every method is one atomic script. Every method raises StateUnavailableError when Redis did not
answer or refused; then nothing is known about the write, and repeating it is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sluicegate.records import Headers, Origin

INPUT_COPY = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRef:
    """Names one event inside the state.

    `key` is the lane key (the record's key, else the value's id field). `identity` names its durable
    steps. `ordered` says whether the gate is heeded and opened for it.
    """

    stream: str
    origin: Origin
    key: str
    identity: str
    ordered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One record of an event. The input record is `input`, hop 0, and replaces nothing.

    `is_replay` says that an operator's replay sent this very copy: it alone may reopen a dead letter, and a
    copy made from it may not.
    """

    id: str = INPUT_COPY
    replaces: str | None = None
    is_replay: bool = False

    @property
    def hop(self) -> int:
        """How many copies this one is away from the input record."""
        head = self.id.partition("-")[0]
        return int(head) if self.id != INPUT_COPY and head.isdecimal() else 0

    @property
    def is_input(self) -> bool:
        """Whether this is the input record itself."""
        return self.id == INPUT_COPY


class EndKind(StrEnum):
    """How an event can end."""

    RESULT = "result"
    DEAD_LETTER = "dead-letter"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of a conversation. `speaker` comes from the stream's own closed set."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An end with its whole content, so that whoever comes later can publish exactly this one."""

    kind: EndKind
    value: bytes | None = None
    headers: Headers = ()
    history: tuple[HistoryEntry, ...] = ()


class Phase(StrEnum):
    """How far an event's end has come."""

    OPEN = "open"
    CLAIMED = "claimed"
    DONE = "done"


# --- Looking --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an event stands in the state, for those who look without a record in their hands.

    `live` is the copy that counts, None where nothing was taken since Redis lost its rows; `gen` likewise.
    `kind` is that of the claimed or done end. `due_at_ms` is the latest due time that a copy of it ever
    had, None where it was never parked.
    """

    live: str | None
    gen: str | None
    phase: Phase
    kind: EndKind | None
    is_cancelled: bool
    due_at_ms: int | None


class Standings(Protocol):
    """What is known of events, read by operators' commands."""

    async def standings(self, refs: Sequence[EventRef]) -> tuple[Standing | None, ...]:
        """Return how each event stands, in the order asked, in one round trip; None without a row.

        Changes nothing. A few hundred at once are well within one timeout.
        """


# --- Cancelling -----------------------------------------------------------------------------------


class CancelVerdict(StrEnum):
    """What became of the wish to end an event."""

    FLAGGED = "flagged"  # whoever takes one of its records next dead-letters it
    TOO_LATE = "too-late"  # an end is claimed already and being published
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelling:
    """The verdict, and the copy that counted at that moment; `live` None: no copy of it is known."""

    verdict: CancelVerdict
    live: str | None


class Cancels(Protocol):
    """Ending events that an operator no longer wants."""

    async def cancel(self, events: Sequence[tuple[EventRef, int]]) -> tuple[Cancelling, ...]:
        """Flag each event that has no end, in one round trip; answers come in the order asked.

        Beside an event stands the due time (ms) of a copy of it: its flag is kept until that may turn up.
        """


# --- Take -----------------------------------------------------------------------------------------


# Every verdict but Stale carries a `gen`, to be passed to Park, Claim and Finish as it is: it names the row's
# life and the server that Take answered from.


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run the handler. `dead_predecessor`: the origin offset of the key's latest dead letter before it.

    It is told to an ordered key's events up to and including the first that ends with a result.
    """

    gen: str
    dead_predecessor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The event has ended or another copy counts: ack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """An end was claimed and perhaps never published: publish this one, without the handler."""

    gen: str
    end: End


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """An earlier event of the key is open: park behind it (or wait for it in the lane)."""

    gen: str
    predecessor_offset: int
    predecessor_due_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """An operator cancelled the event: dead-letter it."""

    gen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Take's verdict, and what it had to mend on the way (both are counted in metrics)."""

    verdict: Run | Stale | Finish | Behind | Cancelled
    switch_was_lost: bool = False
    gates_healed: int = 0


class ParkVerdict(StrEnum):
    """What became of a switch to a new copy."""

    SWITCHED = "switched"  # ack
    REFUSED = "refused"  # the event ended or another copy counts: ack
    TAKE_AGAIN = "take-again"  # another row, or another server than Take's: take the record again, no ack


class Copies(Protocol):
    """Which record of an event counts, and who stands before whom."""

    async def take(self, ref: EventRef, copy: Copy) -> Taken:
        """Decide what to do with a delivered record; a replay's copy reopens the dead letter it replaces."""

    async def intend_park(self, ref: EventRef, due_at_ms: int) -> None:
        """Note that a copy due then is about to be published, so that the end's mark outlives it."""

    async def park(self, ref: EventRef, copy: Copy, new: Copy, gen: str, due_at_ms: int) -> ParkVerdict:
        """Make the new, already confirmed copy the one that counts, and open the origin in the gate."""


# --- End ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The end that counts: the one offered, or the one that an earlier claim stored."""

    end: End


class EndVerdict(StrEnum):
    """What became of a claim or of a finish."""

    ALREADY_DONE = "already-done"  # publish nothing; ack
    TAKE_AGAIN = "take-again"  # another row: take the record again, no ack
    DONE = "done"  # ack


class Ends(Protocol):
    """One end an event: claimed with its content, published, confirmed, done."""

    async def claim(
        self, ref: EventRef, gen: str, end: End, *, replaces: EndKind | None = None
    ) -> Claimed | EndVerdict:
        """Store the end unless one is stored; the first claim wins. Never answers DONE.

        Only a stored claim of the kind `replaces` gives way: the one that its topic refused for ever.
        """

    async def finish(self, ref: EventRef, gen: str, end: End) -> EndVerdict:
        """Mark the confirmed end done, close the origin, append its history, drop a result's steps.

        `end` is what was published; its kind counts, whatever was claimed.
        """


# --- Steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """The step was completed before."""

    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """The step is ours to run. `mismatch`: an answer to another request was dropped (counted)."""

    mismatch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Another worker has the step in flight; its lease ends in `wait_ms` unless it is renewed."""

    wait_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyEnded:
    """The event ended while we still held it: stop the handler and take the record again.

    Without it a zombie that waited for a lease would pay for a call whose answer went with its result.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A step in flight. `owner` is a random id of the attempt, not of the worker."""

    ref: EventRef
    step: str
    owner: str


class Steps(Protocol):
    """LLM calls that are paid once: memoised answers and short leases on those in flight."""

    async def begin(self, lease: Lease, request_hash: str) -> Memo | Leased | Busy | AlreadyEnded:
        """Take the step's lease, or learn its answer, or who has it."""

    async def renew(self, leases: Sequence[Lease]) -> tuple[bool, ...]:
        """Prolong the leases that are still ours, in one round trip; return which are, in the order asked."""

    async def complete(self, lease: Lease, request_hash: str, answer: bytes) -> None:
        """Store the answer (the first one stays) and end the lease."""

    async def release(self, lease: Lease) -> None:
        """End our lease without an answer, so that the next taker need not wait for its end."""


class Histories(Protocol):
    """A bounded conversation per key."""

    async def earlier(self, ref: EventRef) -> tuple[HistoryEntry, ...]:
        """What earlier origins of the key left, fixed at the event's first call of this method."""
