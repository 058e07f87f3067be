"""The operator in the protocol's small world: replays, and cancels what is parked, one effect at a time.

Between what a command reads and what it sends anything else may happen, and it may be killed for good.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from sluicegate.retry.headers import next_copy
from sluicegate.state.api import CancelVerdict, Copy, EndKind, EventRef, Phase
from tests.contract.protocol_topics import Delivered, Topics
from tests.contract.state_stands import State


@dataclass(slots=True, kw_only=True)
class Operator:
    """Who gives `sluicegate replay` and `sluicegate cancel`.

    `flagged` are the origins whose flag nothing has taken away since; `looks_behind` is the one whose
    followers the command has yet to look for, `in_hand` what it has yet to send.
    """

    state: State
    topics: Topics
    chance: random.Random
    replays_made: list[Delivered] = field(default_factory=list)
    replayed_dead: set[int] = field(default_factory=set)
    flagged: set[int] = field(default_factory=set)
    looks_behind: int | None = None
    in_hand: list[Delivered] = field(default_factory=list)

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancel has more to do."""
        return self.looks_behind is not None or bool(self.in_hand)

    async def replay(self) -> bool:
        """Plan by how the events stand, and send one copy; false where no event can be replayed."""
        topics = self.topics
        found = await self.state.standings(topics.events)
        choices: list[tuple[EventRef, str | None]] = []
        for ref, standing in zip(topics.events, found, strict=True):
            if standing is None:
                continue
            is_dead = standing.phase is Phase.DONE and standing.kind is EndKind.DEAD_LETTER
            if is_dead and ref.origin.offset in topics.dead:
                choices.append((replace(ref, ordered=False), standing.live))
            parked = {copy.id: its for its, copy in topics.tier if its.origin == ref.origin}
            if standing.phase is Phase.OPEN and standing.live in parked:
                choices.append((parked[standing.live], standing.live))
        if not choices:
            return False
        ref, live = self.chance.choice(choices)
        if not ref.ordered:
            self.replayed_dead.add(ref.origin.offset)
        hop = Copy(id=live or "input").hop + 1
        copy = topics.number(Copy(id=f"{hop}-{self._token()}", replaces=live, is_replay=True))
        self.replays_made.append(Delivered(ref=ref, copy=copy))
        topics.due.append(Delivered(ref=ref, copy=copy))
        topics.note(f"a replay sends {copy.id} of {ref.origin.offset} in place of {live}")
        return True

    async def replay_again(self) -> None:
        """The command was killed before its checkpoint: the next one sends the same copy once more."""
        sent = self.chance.choice(self.replays_made)
        self.topics.due.append(Delivered(ref=sent.ref, copy=sent.copy))
        self.topics.note(f"the replay is resumed and sends {sent.copy.id} again")

    async def cancel(self) -> None:
        """Flag one parked event and note which copy counts; what is sent on comes later."""
        ref, copy = self.chance.choice(self.topics.tier)
        offset = ref.origin.offset
        (answer,) = await self.state.cancel([(ref, 0)])
        self.topics.note(f"the operator cancels {offset}: {answer.verdict}")
        if answer.verdict is CancelVerdict.FLAGGED:
            self.flagged.add(offset)
            self.looks_behind = offset
            self._take_in_hand(ref, copy, answer.live)

    async def hand_on(self) -> None:
        """Look for the followers, then send one copy after the other: the head's first."""
        if self.looks_behind is not None:
            behind = [(ref, copy) for ref, copy in self.topics.tier if ref.origin.offset > self.looks_behind]
            self.looks_behind = None
            found = await self.state.standings([ref for ref, _ in behind])
            for (ref, copy), standing in zip(behind, found, strict=True):
                self._take_in_hand(ref, copy, standing.live if standing is not None else None)
            return
        record = self.in_hand.pop(0)
        self.topics.due.append(record)
        self.topics.note(
            f"the canceller sends {record.copy.id} of {record.ref.origin.offset}"
            f" in place of {record.copy.replaces}"
        )

    def _take_in_hand(self, ref: EventRef, parked: Copy, live: str | None) -> None:
        replaced = Copy(id=live) if live is not None else parked
        copy = self.topics.number(next_copy(replaced, self._token()))
        self.in_hand.append(Delivered(ref=ref, copy=copy))

    def _token(self) -> str:
        return self.chance.randbytes(4).hex()
