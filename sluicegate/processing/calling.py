"""A durable step's call on the wire: sent, and its answer remembered."""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed
from sluicegate.processing.answers import encode_answer
from sluicegate.processing.routes import Granted
from sluicegate.processing.sending import Sender, Sent
from sluicegate.state.api import Lease, Steps
from sluicegate.state.patient import patiently


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that may start now, on the route that granted it.

    `request_hash` is what its answer is remembered with, whichever route gives it. `prompt_bytes` is the
    size of its messages.
    """

    request: CallRequest
    request_hash: str
    prompt_bytes: int
    granted: Granted
    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a call on the wire needs to end well without its event."""

    steps: Steps
    sender: Sender

    async def send(self, call: Call) -> Sent:
        """Make the call; return its outcome and the seconds on the wire once all that follows is done.

        All that `Sender.send` promises, and an answer is stored however long Redis is away: it is paid for.
        """
        sent = await self.sender.send(call.request, call.prompt_bytes, call.granted, call.lease.ref.identity)
        if isinstance(sent.outcome, Completed):
            answer = encode_answer(sent.outcome, call.granted.route.name)
            await patiently(lambda: self.steps.complete(call.lease, call.request_hash, answer))
        return sent
