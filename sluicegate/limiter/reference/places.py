"""Places among the concurrent calls: who of those who wait gets the next free one."""

from __future__ import annotations

import math
from dataclasses import replace

from sluicegate.limiter.api import Lane
from sluicegate.limiter.reference.scope import Scope
from sluicegate.limiter.stored import Ticket

TURN_US = 1_000_000
TICKET_US = 500_000
_TURNS = 2  # where the ticket for a place has its lane
_LEAST_WAIT_US = 5_000
_LONGEST_NEXT_WAIT_US = 250_000
_LONGEST_WAIT_US = 500_000
_NEXT = 0.5  # of the time until the next place: whoever is next looks twice


class Places:
    """The queue for places, a lane by itself. Whoever is refused leaves a ticket, one a process and lane.

    Whoever gives a place back asks for it again in the same batch, before anybody else can know of it.
    Without tickets it would keep that place for good. Strictly in turn every place would go over to another
    process, and be empty until that one asks. So a ticket stands for one place more than its process holds:
    a place goes to a process that holds less, and among those who hold as many a process may put a new call
    in the place of its last one until another has waited for a second.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._held = {lane: scope.batch.held[lane] for lane in Lane}

    def is_free(self, lane: Lane) -> bool:
        """Whether this process may take a place now. One is kept for bulk work that has a share to come."""
        scope = self._scope
        is_kept = lane is Lane.INTERACTIVE and scope.state.bulk_until_us > scope.now_us
        return len(scope.leases) + is_kept + self._ahead(lane) < scope.slots

    def take(self, lane: Lane) -> None:
        """Count a place as held. A ticket that stood for it has served; in the last call's place it stays."""
        ticket = self._scope.tickets.get(self._name(lane))
        if ticket is not None and ticket.held <= self._held[lane]:
            self.leave(lane)
        self._held[lane] += 1

    def leave(self, lane: Lane) -> None:
        """Give the ticket up: it is not for want of a place that the process waits."""
        self._scope.tickets.pop(self._name(lane), None)

    def queue(self, lane: Lane, *, not_before_us: int = 0) -> int:
        """Take a ticket, or keep the one there is; return how long (us) to wait before asking again."""
        scope, held = self._scope, self._held[lane]
        ticket = scope.tickets.get(self._name(lane))
        if ticket is None or ticket.held != held:
            ticket = Ticket(taken_us=scope.now_us, held=held, until_us=0)
        wait_us = max(self._wait_us(lane, ticket), min(not_before_us - scope.now_us, _LONGEST_WAIT_US))
        ticket = replace(ticket, until_us=scope.now_us + wait_us + TICKET_US)
        scope.tickets[self._name(lane)] = ticket
        return wait_us

    def _wait_us(self, lane: Lane, mine: Ticket) -> int:
        """Return when a place may well be free for this process: the farther back, the later.

        By how many places go to those who wait when their calls end: all but those that will be taken again.
        """
        scope, others = self._scope, self._others(lane)
        turn_us = mine.taken_us + TURN_US - scope.now_us
        coming = len(scope.leases) - self._held[lane]
        is_turn_near = False
        for other in others:
            is_level = other.held - 1 == mine.held
            if other.held <= mine.held or (is_level and turn_us > 0):
                coming -= other.held
            is_turn_near = is_turn_near or is_level
        ahead, longest_us = self._ahead(lane), _LONGEST_WAIT_US
        if coming > 0:
            wait_us = math.floor(scope.state.call_us * max(_NEXT, float(ahead)) / coming)
            longest_us = _LONGEST_WAIT_US if ahead else _LONGEST_NEXT_WAIT_US
        else:
            wait_us = turn_us if is_turn_near else _LONGEST_WAIT_US
        return max(_LEAST_WAIT_US, min(wait_us, longest_us))

    def _ahead(self, lane: Lane) -> int:
        """Return how many others go first."""
        now_us, held, mine = self._scope.now_us, self._held[lane], self._scope.tickets.get(self._name(lane))
        since_us = now_us  # those who wait for as many places go by age: who holds none yet comes last
        if mine is not None and mine.held == held:
            since_us = mine.taken_us
        elif mine is not None and mine.held > held:
            since_us = now_us - TURN_US  # a call in the place of the last one
        others = self._others(lane)
        return sum(each.held < held or (each.held == held and each.taken_us < since_us) for each in others)

    def _others(self, lane: Lane) -> list[Ticket]:
        own, prefix = self._name(lane), f"{int(lane)}:"
        tickets = self._scope.tickets.items()
        return [ticket for name, ticket in tickets if name.startswith(prefix) and name != own]

    def _name(self, lane: Lane) -> str:
        return f"{int(lane)}:{self._scope.me}"


class BulkTurns:
    """The queue of bulk processes that may not book yet, the one that waits longest first."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._name = scope, f"{_TURNS}:{scope.me}"

    @property
    def ahead(self) -> int:
        """How many go first."""
        tickets = self._scope.tickets
        since_us = tickets[self._name].taken_us if self._name in tickets else self._scope.now_us
        return sum(
            name.startswith(f"{_TURNS}:") and name != self._name and ticket.taken_us < since_us
            for name, ticket in tickets.items()
        )

    def queue(self, wait_us: int) -> None:
        """Take a ticket, or keep the one there is, until a little after the wait."""
        tickets, now_us = self._scope.tickets, self._scope.now_us
        ticket = tickets.get(self._name) or Ticket(taken_us=now_us, held=0, until_us=0)
        tickets[self._name] = replace(ticket, until_us=now_us + wait_us + TICKET_US)

    def leave(self) -> None:
        """Give the ticket up."""
        self._scope.tickets.pop(self._name, None)
