"""The handler that the worker benchmark runs: one call for each event."""

from __future__ import annotations

from typing import ClassVar

from sluicegate.events.models import Event, Result
from sluicegate.processing.context import Context

SYSTEM = "Answer low or high."


class Ticket(Event):
    """What comes in."""

    id_field: ClassVar[str] = "ticket_id"
    ticket_id: str
    text: str


class Urgency(Result):
    """What goes out."""

    ce_type: ClassVar[str] = "example.tickets.urgency.v1"
    ticket_id: str
    urgency: str


async def rate(ticket: Ticket, ctx: Context) -> Urgency:
    """Make the call and answer with its text."""
    answer = await ctx.llm.complete(step="rate", system=SYSTEM, user=ticket.text)
    return Urgency(ticket_id=ticket.ticket_id, urgency=answer.text)
