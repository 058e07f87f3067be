"""The protocol with one rule broken at a time; the search must find what each rule is for."""

from __future__ import annotations

from sluicegate.state.api import Copy, End, EndKind, Phase
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
