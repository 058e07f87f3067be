"""What handlers may do and what becomes of it; how they are found and checked."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from sluicegate.delivery.dispatcher import Slot, Verdict
from sluicegate.errors import CallRejectedError, ConfigurationError
from sluicegate.events.models import ChatReply, SupportChat
from sluicegate.limiter.api import NOTHING
from sluicegate.llm.api import CallRequest
from sluicegate.llm.outcomes import Completed, Outcome, Reason, Rejected, Throttled
from sluicegate.processing.answers import encode_answer, request_hash
from sluicegate.processing.context import Context
from sluicegate.processing.handlers import Handler, handler_of, load_handler
from sluicegate.state.api import Busy, HistoryEntry, Leased
from streams.support_chat import reply
from tests.unit.processing_world import World, answer, headers_of
from tests.waiting import wait_until

REFUSED = Throttled(reason=Reason.RATE_LIMITED, http_status=429, retry_after_s=60.0)


def a_reply(chat: SupportChat, ctx: Context, text: str = "done") -> ChatReply:
    """Return a valid result."""
    return ChatReply(
        conversation_id=chat.conversation_id, turn=chat.turn, reply=text, model="m", usage=ctx.llm.usage
    )


def world_of(run: Any, script: Any = lambda request: answer()) -> World:
    """Return a world whose stream has this handler."""
    return World(handler=handler_of("tests:run", run), script=script)


async def test_a_handler_that_swallows_errors_cannot_swallow_a_park() -> None:
    """A decision to park holds even when the handler catches everything and returns a result."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        try:
            await ctx.llm.complete(step="one", user="hi")
        except BaseException:  # noqa: BLE001 - the careless handler that this test is about
            return a_reply(chat, ctx)
        return None

    world = world_of(run, lambda request: REFUSED)

    assert await world.deliver(world.chat()) is Verdict.ACK

    assert len(world.parked) == 1
    assert world.results == []


async def test_a_park_is_no_exception_that_a_handler_would_handle() -> None:
    """`except Exception` around a call does not run its fallback when the event is parked."""
    fallbacks: list[str] = []

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        try:
            await ctx.llm.complete(step="one", user="hi")
        except Exception:  # noqa: BLE001 - the careful handler that this test is about
            fallbacks.append("side effect")
        return None

    world = world_of(run, lambda request: REFUSED)

    await world.deliver(world.chat())

    assert fallbacks == []
    assert len(world.parked) == 1


async def test_nothing_is_begun_after_a_decision() -> None:
    """A handler that goes on after its event was parked makes no further call."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        await asyncio.gather(
            ctx.llm.complete(step="one", user="hi"),
            return_exceptions=True,
        )
        await ctx.llm.complete(step="two", user="hi")
        return None

    world = world_of(run, lambda request: REFUSED)

    await world.deliver(world.chat())

    assert len(world.caller.requests) == 1
    assert len(world.parked) == 1


async def test_a_handler_that_catches_everything_and_asks_again_holds_up_nobody() -> None:
    """Each question after the decision lets the other events of the process run."""
    others_ran = asyncio.Event()
    questions = 0

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        nonlocal questions
        while questions < 1000 and not others_ran.is_set():
            try:
                await ctx.llm.complete(step="reply", user="hi")
            except BaseException:  # noqa: BLE001 - what a careless handler may do
                questions += 1
                asyncio.get_running_loop().call_soon(others_ran.set)
        return None

    world = world_of(run, script=lambda request: REFUSED)

    assert await world.deliver(world.chat()) is Verdict.ACK

    assert questions < 10
    assert len(world.parked) == 1


async def test_calls_on_the_wire_finish_and_are_kept_before_their_event_parks() -> None:
    """When one call must wait, its sibling's answer is awaited, stored, and not paid for again."""
    arrived = asyncio.Event()

    async def slow() -> Outcome:
        await arrived.wait()
        return answer("kept")

    left = [REFUSED]

    def script(request: CallRequest) -> Any:
        if "/slow/" in request.request_id:
            return slow()
        return left.pop() if left else answer()

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        async with asyncio.TaskGroup() as group:
            kept = group.create_task(ctx.llm.complete(step="slow", user="a"))
            group.create_task(ctx.llm.complete(step="refused", user="b"))
        return a_reply(chat, ctx, kept.result().text)

    world = world_of(run, script)
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: bool(world.limiter.signals) and len(world.caller.requests) == 2)
    await asyncio.sleep(0)
    assert world.parked == []

    arrived.set()

    assert await work is Verdict.ACK
    world.advance(70)
    await world.deliver(world.due_record(world.parked[0]))
    assert [r.request_id.split("/")[1] for r in world.caller.requests] == ["slow", "refused", "refused"]
    assert b'"reply":"kept"' in (world.results[0].value or b"")


async def test_a_forgotten_events_call_is_kept_and_never_published_by_its_old_owner() -> None:
    """A rebalance cancels the event and not its call: the next owner takes the answer, paid once."""
    arrived = asyncio.Event()

    async def slow() -> Outcome:
        await arrived.wait()
        return answer("paid")

    world = World(script=lambda request: slow())
    record = world.chat()
    work = asyncio.create_task(world.deliver(record))
    await wait_until(lambda: len(world.caller.requests) == 1)
    old = world.wire_calls

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    world.start_worker()
    again = asyncio.create_task(world.deliver(record))
    await asyncio.sleep(0)
    arrived.set()

    assert await old.finished(5)
    assert await again is Verdict.ACK
    assert len(world.caller.requests) == 1
    assert len(world.results) == 1
    assert len(world.limiter.settled) == 1


async def test_calls_on_the_wire_keep_their_lease_until_they_end() -> None:
    """After its event was forgotten a call's lease is still renewed, and dropped when the call has ended."""
    arrived = asyncio.Event()

    async def slow() -> Outcome:
        await arrived.wait()
        return REFUSED

    world = World(script=lambda request: slow())
    record = world.chat()
    work = asyncio.create_task(world.deliver(record))
    await wait_until(lambda: len(world.caller.requests) == 1)
    work.cancel()
    await asyncio.wait([work])

    assert len(world.leases) == 1
    arrived.set()
    assert await world.wire_calls.finished(5)

    assert len(world.leases) == 0
    world.caller.script = lambda request: answer()
    world.pauses.waits.clear()
    world.advance(70)
    await world.deliver(record)
    assert world.pauses.waits == []


async def test_a_lease_outlives_its_six_seconds_while_its_call_is_on_the_wire() -> None:
    """G5: however long a call takes, nobody else begins its step before it has ended."""
    arrived = asyncio.Event()

    async def slow() -> Outcome:
        await arrived.wait()
        return answer()

    world = World(script=lambda request: slow())
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: len(world.caller.requests) == 1)
    (held,) = world.leases._ours_at_s
    for _ in range(5):
        await world.time_passes(4)

    assert isinstance(await world.state.begin(replace(held, owner="another"), "h"), Busy)
    arrived.set()
    assert await work is Verdict.ACK


@pytest.mark.parametrize("renews", [False, True], ids=["at once", "after its leases were asked for"])
async def test_a_worker_that_stood_still_makes_no_call_that_another_one_made_meanwhile(renews: bool) -> None:
    """G5: a permit that comes after the lease's end is given back, and the other worker's answer taken."""
    world = World()
    world.limiter.block(30)
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: world.limiter.waiting == 1)
    (mine,) = world.leases._ours_at_s
    world.clock.ms += 7_000
    twin = World()
    await twin.deliver(twin.chat())
    wanted, another = request_hash(twin.caller.requests[0]), replace(mine, owner="another")
    assert isinstance(await world.state.begin(another, wanted), Leased)
    await world.state.complete(another, wanted, encode_answer(answer(), "main"))
    if renews:
        await world.leases.renew()

    world.limiter.advance(30)
    assert await work is Verdict.ACK
    assert world.caller.requests == []
    assert [record.topic for record in world.publisher.records] == [world.topics.results]
    assert list(world.limiter.settled.values()) == [NOTHING]


async def test_calls_that_do_not_end_in_time_are_cancelled_at_the_end() -> None:
    """The registry waits as long as it is told, then says that something was cut off."""
    never = asyncio.Event()

    async def stuck() -> Outcome:
        await never.wait()
        return answer()

    world = World(script=lambda request: stuck())
    work = asyncio.create_task(world.deliver(world.chat()))
    await wait_until(lambda: len(world.caller.requests) == 1)
    work.cancel()
    await asyncio.wait([work])

    assert not await world.wire_calls.finished(0.01)
    assert len(world.wire_calls) == 0


async def test_a_caught_rejection_is_the_handlers_business() -> None:
    """A handler may go on without an answer that the provider will never give."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        try:
            await ctx.llm.complete(step="one", user="hi")
        except CallRejectedError as error:
            return a_reply(chat, ctx, error.reason)
        return None

    world = world_of(run, lambda request: Rejected(reason=Reason.CONTENT_REFUSED))

    await world.deliver(world.chat())

    assert b'"reply":"content-refused"' in (world.results[0].value or b"")


async def test_a_rejection_among_siblings_ends_the_event_with_its_reason() -> None:
    """A rejected call in a task group is the event's reason, not a bug of its handler."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.llm.complete(step="one", user="a"))
        return None

    world = world_of(run, lambda request: Rejected(reason=Reason.PROMPT_TOO_LARGE, http_status=413))

    await world.deliver(world.chat())

    assert headers_of(world.letters[0])["dlq-reason"] == "prompt-too-large"


async def test_a_handlers_bug_is_a_dead_letter_that_quotes_nothing() -> None:
    """A handler that fails on one event costs that event alone; its error's text stays inside."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        raise LookupError(f"CANARY {chat.text}")

    world = world_of(run)

    assert await world.deliver(world.chat("CANARY-TEXT")) is Verdict.ACK

    headers = headers_of(world.letters[0])
    assert (headers["dlq-reason"], headers["dlq-error-type"]) == ("handler-error", "LookupError")
    assert not any("CANARY" in value for value in headers.values())
    assert world.lines[0]["error"] == "LookupError"


async def test_a_handler_that_exits_ends_its_event_and_not_the_process() -> None:
    """`sys.exit` somewhere below a handler is the handler's bug; else each restart would end there."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        sys.exit("no such option")

    world = world_of(run)

    assert await world.deliver(world.chat()) is Verdict.ACK

    headers = headers_of(world.letters[0])
    assert (headers["dlq-reason"], headers["dlq-error-type"]) == ("handler-error", "SystemExit")


async def test_a_handler_that_cancels_itself_is_a_dead_letter() -> None:
    """A cancellation that nobody outside asked for is a bug of the handler, and holds up no lane."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        raise asyncio.CancelledError

    world = world_of(run)

    await world.deliver(world.chat())

    assert headers_of(world.letters[0])["dlq-error-type"] == "CancelledError"


async def test_a_cancelled_event_that_its_handler_ends_all_the_same_publishes_nothing() -> None:
    """A handler that swallows the cancellation of a rebalance cannot publish behind the new owner's back."""
    started = asyncio.Event()

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return a_reply(chat, ctx)
        return None

    world = world_of(run)
    work = asyncio.create_task(world.deliver(world.chat()))
    await started.wait()

    work.cancel()

    with pytest.raises(asyncio.CancelledError):
        await work
    assert world.publisher.records == []


async def test_an_error_of_our_own_under_a_handler_stops_the_process() -> None:
    """What fails below the handler is no fault of the event: it is raised, whatever the handler catches."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        try:
            await ctx.llm.complete(step="one", user="hi")
        except Exception:  # noqa: BLE001 - the careless handler that this test is about
            return None
        return None

    def script(request: CallRequest) -> Outcome:
        raise ZeroDivisionError

    world = world_of(run, script)

    with pytest.raises(ZeroDivisionError):
        await world.deliver(world.chat())

    assert world.publisher.records == []
    assert len(world.crashes) == 1


async def test_a_step_asked_for_after_the_handler_returned_is_refused() -> None:
    """A task that outlives its handler cannot spend quota for an event that has ended."""
    kept: list[Context] = []

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        kept.append(ctx)
        return None

    world = world_of(run)
    await world.deliver(world.chat())

    with pytest.raises(RuntimeError, match="after its handler"):
        await kept[0].llm.complete(step="late", user="hi")


async def test_an_event_that_ended_elsewhere_is_left_alone() -> None:
    """A zombie whose event another worker has ended makes no call and publishes nothing."""
    world = World()
    record = world.chat()
    go = asyncio.Event()

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        await go.wait()
        return await reply(chat, ctx)

    zombie = world_of(run)
    zombie.state = world.state
    zombie.start_worker()
    work = asyncio.create_task(zombie.deliver(record))
    await asyncio.sleep(0)
    await world.deliver(record)

    go.set()

    assert await work is Verdict.ACK
    assert zombie.publisher.records == []
    assert zombie.caller.requests == []


async def test_a_changed_prompt_is_asked_again() -> None:
    """An answer to another request under the same step is dropped and counted, never passed off."""
    texts = ["first", "second"]

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        await ctx.llm.complete(step="one", user=texts.pop(0))
        await ctx.llm.complete(step="two", user="same")
        return a_reply(chat, ctx)

    left: list[Outcome] = [answer(), REFUSED]
    world = world_of(run, lambda request: left.pop(0) if left else answer())
    await world.deliver(world.chat())
    world.advance(70)

    await world.deliver(world.due_record(world.parked[0]))

    assert len(world.caller.requests) == 4
    assert world.count("repairs", stream="support-chat", kind="step-mismatch") == 1


async def test_usage_counts_remembered_steps_too() -> None:
    """The result's usage is the event's whole cost, whichever attempt paid it."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        await ctx.llm.complete(step="one", user="a")
        await ctx.llm.complete(step="two", user="b")
        return a_reply(chat, ctx)

    left: list[Outcome] = [answer(), REFUSED]
    world = world_of(run, lambda request: left.pop(0) if left else answer())
    await world.deliver(world.chat())
    world.advance(70)

    await world.deliver(world.due_record(world.parked[0]))

    assert b'"input_tokens":20' in (world.results[0].value or b"")


async def test_the_publishing_section_refuses_an_event_that_was_forgotten() -> None:
    """An event that the dispatcher has given up publishes nothing, even if it got as far as its end."""
    world = World()
    item = world.item(world.chat())
    slot = Slot(item)
    slot._is_live = False

    with pytest.raises(asyncio.CancelledError):
        await world.processor.work(item, slot)

    assert world.publisher.records == []


# --- finding and checking --------------------------------------------------------------------------


class NotAnEvent:
    """A class that is no model of an event."""

    id_field: ClassVar[str] = "x"


def plain(chat: SupportChat, ctx: Context) -> None:
    """Be no coroutine."""


async def without_result(chat: SupportChat, ctx: Context):  # type: ignore[no-untyped-def]  # the case at hand
    """Lack an annotation."""


async def of_something_else(chat: NotAnEvent, ctx: Context) -> None:
    """Take no event."""


async def of_one(chat: SupportChat) -> None:
    """Take too little."""


async def giving_text(chat: SupportChat, ctx: Context) -> str:
    """Give no model."""
    return ""


async def recording(chat: SupportChat, ctx: Context) -> None:
    """Publish nothing, ever."""


def test_the_shipped_handlers_load() -> None:
    """Their annotations say what they take and give."""
    loaded = load_handler("streams.support_chat:reply")
    assert (loaded.argument, loaded.result) == (SupportChat, ChatReply)
    assert load_handler("streams.documents:index").argument.id_field == "document_id"


def test_a_handler_may_have_nothing_to_publish() -> None:
    """`-> None` is a handler whose events are all recorded."""
    assert isinstance(handler_of("x:y", recording), Handler)
    assert handler_of("x:y", recording).result is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("streams.support_chat", "package.module:function"),
        ("streams.nowhere:reply", "no module streams.nowhere; install it, or put its folder into PYTHONPATH"),
        ("streams.support_chat:nothing", "has no nothing"),
        (f"{__name__}:plain", "coroutine function"),
        (f"{__name__}:without_result", "annotate its result"),
        (f"{__name__}:of_something_else", "derives from"),
        (f"{__name__}:of_one", "exactly"),
        (f"{__name__}:giving_text", "annotate its result"),
    ],
)
def test_a_handler_that_cannot_work_is_refused_at_start(name: str, says: str) -> None:
    """The error names the setting and says what to change."""
    with pytest.raises(ConfigurationError, match=says):
        load_handler(name)


async def test_a_result_of_another_model_is_a_handlers_bug() -> None:
    """What the annotation does not promise is not published."""

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        return "text"  # type: ignore[return-value]  # the bug that this test is about

    world = world_of(run)

    await world.deliver(world.chat())

    assert headers_of(world.letters[0])["dlq-error-type"] == "WrongResult"


async def test_a_handler_sees_where_its_event_comes_from() -> None:
    """`ctx.event` has the envelope's facts, the key, the tenant and the attempt."""
    seen: list[Context] = []

    async def run(chat: SupportChat, ctx: Context) -> ChatReply | None:
        seen.append(ctx)
        ctx.history.append(HistoryEntry(speaker="agent", text="noted"))
        return None

    world = world_of(run)
    value: dict[str, object] = {
        "conversation_id": "c-1",
        "turn": 0,
        "speaker": "agent",
        "text": "t",
        "tenant": "acme",
    }
    headers = (("ce_id", b"e"), ("ce_source", b"s"), ("ce_type", b"t"), ("ce_time", b"2023-11-14T22:12:00Z"))

    await world.deliver(world.record(value, headers=headers))

    event = seen[0].event
    assert (event.id, event.source, event.key, event.tenant, event.attempt) == ("e", "s", "c-1", "acme", 1)
    assert event.time is not None
    assert event.time.isoformat() == "2023-11-14T22:12:00+00:00"
    assert isinstance(answer(), Completed)
