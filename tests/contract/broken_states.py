"""The protocol with one rule broken at a time; the search must find what each rule is for."""

from __future__ import annotations

from sluicegate.state.api import Copy, End, Phase
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
