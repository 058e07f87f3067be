"""The state in Redis 6.2 or newer, or Valkey: one Lua script for every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis.asyncio

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
from sluicegate.state.codec import pack_end, pack_entry, unpack_end, unpack_entry
from sluicegate.state.keeping import Keeping
from sluicegate.state.keys import Keys, keys_of
from sluicegate.state.scripts import ScriptRunner
from sluicegate.state.wire import Call, load_script


class RedisState:
    """Every interface of the state in Redis, shared by all workers of a deployment.

    `group` is the deployment's name and the prefix of every key; `new_gen` returns a random id. Every
    method may be repeated and raises StateUnavailableError when Redis did not answer within `timeout_s`.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        group: str,
        new_gen: Callable[[], str],
        keeping: Keeping | None = None,
        timeout_s: float = 2.0,
    ) -> None:
        self._runner = ScriptRunner(client, timeout_s=timeout_s)
        self._group = group
        self._new_gen = new_gen
        self._keeping = keeping or Keeping()
        self._take = load_script("take")
        self._intend_park = load_script("intend_park")
        self._park = load_script("park")
        self._claim = load_script("claim")
        self._finish = load_script("finish")
        self._begin = load_script("step_begin")
        self._renew = load_script("step_renew")
        self._complete = load_script("step_complete")
        self._release = load_script("step_release")
        self._earlier = load_script("history_earlier")
        self._standing = load_script("standing")
        self._cancel = load_script("cancel")

    # --- Copies -----------------------------------------------------------------------------------

    async def take(self, ref: EventRef, copy: Copy) -> Taken:
        """Decide what to do with a delivered record."""
        keys, keeping = self._keys(ref), self._keeping
        reply = await self._runner.run(
            Call(
                script=self._take,
                keys=(keys.row, keys.gate, keys.gate_entries, keys.dead_letter),
                args=(
                    *(copy.id, copy.replaces or "", self._new_gen()),
                    *(ref.origin.offset, int(ref.ordered)),
                    *(keeping.open_ms, keeping.horizon_ms, keeping.heal_after_ms),
                    int(copy.is_replay),
                ),
            )
        )
        return _taken(reply)

    async def intend_park(self, ref: EventRef, due_at_ms: int) -> None:
        """Note that a copy due then is about to be published, so that the end's mark outlives it."""
        args = (due_at_ms, self._keeping.horizon_ms)
        await self._runner.run(Call(script=self._intend_park, keys=(self._keys(ref).row,), args=args))

    async def park(self, ref: EventRef, copy: Copy, new: Copy, gen: str, due_at_ms: int) -> ParkVerdict:
        """Make the new, already confirmed copy the one that counts, and open the origin in the gate."""
        keys, keeping = self._keys(ref), self._keeping
        reply = await self._runner.run(
            Call(
                script=self._park,
                keys=(keys.row, keys.gate, keys.gate_entries),
                args=(
                    *(copy.id, new.id, gen, due_at_ms),
                    *(ref.origin.offset, int(ref.ordered), keeping.open_ms, keeping.horizon_ms),
                ),
            )
        )
        return ParkVerdict(reply.decode())

    # --- Ends -------------------------------------------------------------------------------------

    async def claim(
        self, ref: EventRef, gen: str, end: End, *, replaces: EndKind | None = None
    ) -> Claimed | EndVerdict:
        """Store the end unless one of another kind than `replaces` is stored; the first claim wins."""
        args = (gen, end.kind.value, pack_end(end), self._keeping.open_ms, replaces or "")
        reply = await self._runner.run(Call(script=self._claim, keys=(self._keys(ref).row,), args=args))
        match reply:
            case [b"claimed"]:
                return Claimed(end=end)
            case [b"claimed", bytes() as packed]:
                return Claimed(end=unpack_end(packed))
            case _:
                return EndVerdict(reply[0].decode())

    async def finish(self, ref: EventRef, gen: str, end: End) -> EndVerdict:
        """Mark the confirmed end done, close the origin, append its history, drop a result's steps."""
        keys, keeping = self._keys(ref), self._keeping
        head = f"1 {_place(ref)} {ref.origin.offset} ".encode()
        reply = await self._runner.run(
            Call(
                script=self._finish,
                keys=(keys.row, keys.gate, keys.gate_entries, keys.steps, keys.history, keys.dead_letter),
                args=(
                    *(gen, end.kind.value, ref.origin.offset),
                    *(keeping.mark_ms, keeping.dead_letter_ms, keeping.horizon_ms),
                    *(keeping.history_ms, keeping.history_entries, keeping.history_bytes),
                    int(ref.ordered),
                    *(head + pack_entry(entry) for entry in end.history),
                ),
            )
        )
        return EndVerdict(reply.decode())

    # --- Steps ------------------------------------------------------------------------------------

    async def begin(self, lease: Lease, request_hash: str) -> Memo | Leased | Busy | AlreadyEnded:
        """Take the step's lease, or learn its answer, or who has it."""
        keys, keeping = self._keys(lease.ref), self._keeping
        args = (lease.step, request_hash, lease.owner, keeping.lease_ms, keeping.open_ms)
        reply = await self._runner.run(Call(script=self._begin, keys=(keys.row, keys.steps), args=args))
        match reply:
            case [b"memo", bytes() as answer]:
                return Memo(answer=answer)
            case [b"busy", int() as wait_ms]:
                return Busy(wait_ms=wait_ms)
            case [b"ended"]:
                return AlreadyEnded()
            case _:
                return Leased(mismatch=reply[1] == 1)

    async def renew(self, leases: Sequence[Lease]) -> tuple[bool, ...]:
        """Prolong the leases that are still ours, in one round trip; return which are, in the order asked."""
        replies = await self._runner.run_all(
            [
                Call(
                    script=self._renew,
                    keys=(self._keys(lease.ref).steps,),
                    args=(lease.step, lease.owner, self._keeping.lease_ms),
                )
                for lease in leases
            ]
        )
        return tuple(reply == 1 for reply in replies)

    async def complete(self, lease: Lease, request_hash: str, answer: bytes) -> None:
        """Store the answer (the first one stays) and end the lease."""
        keys, keeping = self._keys(lease.ref), self._keeping
        args = (lease.step, request_hash, lease.owner, answer, keeping.open_ms, keeping.dead_letter_ms)
        await self._runner.run(Call(script=self._complete, keys=(keys.row, keys.steps), args=args))

    async def release(self, lease: Lease) -> None:
        """End our lease without an answer, so that the next taker need not wait for its end."""
        args = (lease.step, lease.owner)
        await self._runner.run(Call(script=self._release, keys=(self._keys(lease.ref).steps,), args=args))

    # --- Histories --------------------------------------------------------------------------------

    async def earlier(self, ref: EventRef) -> tuple[HistoryEntry, ...]:
        """What earlier origins of the key left, fixed at the event's first call of this method."""
        keys = self._keys(ref)
        args = (_place(ref), ref.origin.offset, self._keeping.open_ms)
        reply = await self._runner.run(Call(script=self._earlier, keys=(keys.steps, keys.history), args=args))
        return tuple(unpack_entry(packed) for packed in reply)

    # --- Standings --------------------------------------------------------------------------------

    async def standings(self, refs: Sequence[EventRef]) -> tuple[Standing | None, ...]:
        """Return how each event stands, in the order asked, in one round trip; None without a row."""
        calls = [Call(script=self._standing, keys=(self._keys(ref).row,), args=()) for ref in refs]
        return tuple(_standing(reply) for reply in await self._runner.run_all(calls))

    # --- Cancels ----------------------------------------------------------------------------------

    async def cancel(self, events: Sequence[tuple[EventRef, int]]) -> tuple[Cancelling, ...]:
        """Flag each event that has no end, in one round trip; answers come in the order asked."""
        calls = [
            Call(
                script=self._cancel,
                keys=(self._keys(ref).row,),
                args=(due_at_ms, self._keeping.open_ms, self._keeping.horizon_ms),
            )
            for ref, due_at_ms in events
        ]
        replies = await self._runner.run_all(calls)
        return tuple(
            Cancelling(verdict=CancelVerdict(verdict.decode()), live=live.decode() or None)
            for verdict, live in replies
        )

    def _keys(self, ref: EventRef) -> Keys:
        return keys_of(self._group, ref)


def _place(ref: EventRef) -> str:
    return f"{ref.origin.topic}/{ref.origin.partition}"


def _taken(reply: list[bytes | int]) -> Taken:
    match reply:
        case [b"run", bytes() as gen, lost, int() as healed, int() as dead]:
            run = Run(gen=gen.decode(), dead_predecessor=dead if dead >= 0 else None)
            return Taken(verdict=run, switch_was_lost=lost == 1, gates_healed=healed)
        case [b"behind", bytes() as gen, lost, int() as healed, int() as offset, int() as due_at_ms]:
            behind = Behind(gen=gen.decode(), predecessor_offset=offset, predecessor_due_at_ms=due_at_ms)
            return Taken(verdict=behind, switch_was_lost=lost == 1, gates_healed=healed)
        case [b"finish", bytes() as gen, lost, _, bytes() as packed]:
            verdict = Finish(gen=gen.decode(), end=unpack_end(packed))
            return Taken(verdict=verdict, switch_was_lost=lost == 1)
        case [b"cancelled", bytes() as gen, lost, _]:
            return Taken(verdict=Cancelled(gen=gen.decode()), switch_was_lost=lost == 1)
        case _:
            return Taken(verdict=Stale())


def _standing(reply: list[bytes]) -> Standing | None:
    if not reply:
        return None
    live, gen, state, kind, due_at_ms, cancel = (value.decode() for value in reply)
    return Standing(
        live=live or None,
        gen=gen or None,
        phase=Phase(state or Phase.OPEN),
        kind=EndKind(kind) if kind else None,
        is_cancelled=bool(cancel),
        due_at_ms=int(due_at_ms) if due_at_ms else None,
    )
