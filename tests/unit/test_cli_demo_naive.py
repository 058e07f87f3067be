"""The recipe that the demo compares with does what it is said to do."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from sluicegate.cli.demo.naive import GivenUpError, NaiveLlm
from sluicegate.errors import CallRejectedError
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Outcome, Reason, Rejected, Throttled, Usage
from sluicegate.settings import load_settings

REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429)
ANSWER = Completed(text="yes", model="m", usage=Usage(input_tokens=3, output_tokens=1))


class ScriptedCaller:
    """Gives the outcomes of a script, one a call."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes = iter(outcomes)
        self.request_ids: list[str] = []

    async def call(self, request: CallRequest) -> Outcome:
        """Return the next outcome."""
        self.request_ids.append(request.request_id)
        return next(self._outcomes)


def llm(caller: ScriptedCaller, slept_s: list[float]) -> NaiveLlm:
    """Make the recipe's LLM, with waits that take no time."""

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)

    return NaiveLlm(
        caller=caller,
        settings=load_settings(None, {}).streams["support-chat"],
        identity="e",
        chance=random.Random(1),
        sleep=sleep,
    )


async def test_a_refused_call_is_tried_again_after_doubling_waits() -> None:
    """2, 4, 8, 16 and 32 s, each with up to 200 ms more."""
    slept_s: list[float] = []
    caller = ScriptedCaller([REFUSED] * 5 + [ANSWER])

    completion = await llm(caller, slept_s).complete(step="reply", user="?")

    assert completion.text == "yes"
    assert all(wait <= slept <= wait + 0.2 for wait, slept in zip((2, 4, 8, 16, 32), slept_s, strict=True))
    assert caller.request_ids == [f"e/reply/{attempt}" for attempt in range(1, 7)]


async def test_after_five_retries_it_gives_up() -> None:
    """Nobody tries a seventh time."""
    slept_s: list[float] = []
    caller = ScriptedCaller([REFUSED] * 7)

    with pytest.raises(GivenUpError):
        await llm(caller, slept_s).complete(step="reply", user="?")

    assert (len(caller.request_ids), len(slept_s)) == (6, 5)


async def test_a_call_that_is_rejected_is_not_tried_again() -> None:
    """The handler hears of it, as it would in a worker."""
    caller = ScriptedCaller([Rejected(reason=Reason.BAD_REQUEST, http_status=400)])

    with pytest.raises(CallRejectedError):
        await llm(caller, []).complete(step="reply", user="?")
