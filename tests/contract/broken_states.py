"""The protocol with one rule broken at a time; the search must find what each rule is for."""

from __future__ import annotations

from sluicegate.state.api import (
    Behind,
    Cancelling,
    Copy,
    End,
    EndKind,
    EventRef,
    ParkVerdict,
    Phase,
)
from sluicegate.state.fake_state import FakeState, Row


class SwitchesUnconditionally(FakeState):
    """Park does not ask which copy counts."""

    def _may_switch(self, row: Row, copy: Copy, new: Copy) -> bool:
        return True


class ComparesWithWhatWasSeen(FakeState):
    """Park compares `live` with what Take saw; Take adopts nothing."""

    def _adopts(self, row: Row, copy: Copy) -> bool:
        return False

    def _may_switch(self, row: Row, copy: Copy, new: Copy) -> bool:
        return row.live == copy.id


class ClaimsWithoutContent(FakeState):
    """A claim notes the kind alone: the next taker runs the handler anew."""

    def _store_end(self, row: Row, end: End) -> None:
        row.end = None


class CountsAClaimAsAnEnd(FakeState):
    """Take and Park call a merely claimed event ended."""

    def _is_over(self, row: Row) -> bool:
        return row.phase is not Phase.OPEN


class IgnoresGen(FakeState):
    """A row made after a flush is taken for the one from before."""

    def _same_life(self, row: Row, gen: str) -> bool:
        return True


class ReopensWhatIsAnswered(FakeState):
    """A replay's copy reopens any end that it replaces."""

    def _may_reopen(self, row: Row, copy: Copy) -> bool:
        is_done = row.phase is Phase.DONE
        return copy.is_replay and is_done and row.live != copy.id and self._adopts(row, copy)


class ReopensAgain(FakeState):
    """A replay's copy reopens a dead letter whichever copy counts."""

    def _may_reopen(self, row: Row, copy: Copy) -> bool:
        return copy.is_replay and row.phase is Phase.DONE and row.kind is EndKind.DEAD_LETTER


class KeepsGenWhenReopening(FakeState):
    """The event's next life goes by the name of its last."""

    def _reopen(self, row: Row) -> None:
        gen = row.gen
        super()._reopen(row)
        row.gen = gen


class ParksOnWhatWasSetBack(FakeState):
    """Park trusts what Take was told by an earlier server."""

    def _same_server(self, gen: str) -> bool:
        return True


class KnowsNoLostSwitch(FakeState):
    """A copy whose switch Redis lost is as stale as any that does not count."""

    def _switch_was_lost(self, row: Row, copy: Copy) -> bool:
        return False


class HealsNoGate(FakeState):
    """What an earlier server left open stays open."""

    def _look_ahead(self, ref: EventRef, gen: str) -> tuple[Behind | None, int]:
        before = [offset for offset in self._gate(ref) if ref.ordered and offset < ref.origin.offset]
        if not before:
            return None, 0
        due_at_ms = self._gate(ref)[max(before)].due_at_ms
        return Behind(gen=gen, predecessor_offset=max(before), predecessor_due_at_ms=due_at_ms), 0


class ForgetsTheFlag(FakeState):
    """An event that is parked once more is no longer cancelled."""

    async def park(self, ref: EventRef, copy: Copy, new: Copy, gen: str, due_at_ms: int) -> ParkVerdict:
        """Switch, and take the flag away."""
        verdict = await super().park(ref, copy, new, gen, due_at_ms)
        if verdict is ParkVerdict.SWITCHED and (row := self.row_of(ref)) is not None:
            row.is_cancelled = False
        return verdict


class CancelsWhatIsClaimed(FakeState):
    """A cancel takes an end back that is being published."""

    def _flag(self, ref: EventRef, due_at_ms: int) -> Cancelling:
        row = self.row_of(ref)
        if row is not None and row.phase is Phase.CLAIMED:
            row.phase, row.kind, row.end = Phase.OPEN, None, None
        return super()._flag(ref, due_at_ms)
