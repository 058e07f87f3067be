"""The keyed dispatcher: bounds, order within a lane, and what drain and forget leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict

_PATIENCE_S = 5.0


class _Desk:
    """Work that waits until the test says what becomes of each item, and notes what happened."""

    def __init__(
        self,
        *,
        max_running: int = 4,
        max_admitted: int = 100,
        max_admitted_bytes: int = 1_000_000,
        max_waiting_per_lane: int = 32,
        serial: bool = True,
    ) -> None:
        self.crashes: list[BaseException] = []
        self.dispatcher: KeyedDispatcher[str] = KeyedDispatcher(
            self._work,
            max_running=max_running,
            max_admitted=max_admitted,
            max_admitted_bytes=max_admitted_bytes,
            max_waiting_per_lane=max_waiting_per_lane,
            serial=serial,
            on_crash=self.crashes.append,
        )
        self.started: list[str] = []
        self.acked: list[str] = []
        self.cancelled: list[str] = []
        self.slots: dict[str, Slot[str]] = {}
        self._fates: dict[str, asyncio.Future[Verdict]] = {}
        self._publishes: set[str] = set()
        self._offset = 0

    async def _work(self, item: Item[str], slot: Slot[str]) -> Verdict:
        name = item.payload
        self.started.append(name)
        self.slots[name] = slot
        fate: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._fates[name] = fate
        try:
            if name in self._publishes:
                with slot.publishing():
                    return await fate
            return await fate
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def item(
        self,
        name: str,
        *,
        lane: Hashable = None,
        order: int | None = None,
        due: bool = False,
        size_bytes: int = 1,
        partition: int = 0,
    ) -> Item[str]:
        self._offset += 1
        return Item(
            topic="due" if due else "input",
            partition=partition,
            offset=self._offset,
            lane=(partition, name if lane is None else lane),
            order=self._offset if order is None else order,
            size_bytes=size_bytes,
            is_due=due,
            payload=name,
            ack=lambda: self.acked.append(name),
        )

    async def submit(self, *items: Item[str]) -> None:
        for item in items:
            self.dispatcher.submit(item)
        await settle()

    async def submit_publishing(self, item: Item[str]) -> None:
        """Submit an item whose work goes straight into its publishing section."""
        self._publishes.add(item.payload)
        await self.submit(item)

    async def decide(self, name: str, verdict: Verdict = Verdict.ACK) -> None:
        self._fates[name].set_result(verdict)
        await settle()

    async def fail(self, name: str, error: BaseException) -> None:
        self._fates[name].set_exception(error)
        await settle()

    def room(self, *, due: bool = False, partition: int = 0) -> int:
        return self.dispatcher.room("due" if due else "input", partition, due)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# --- lanes ------------------------------------------------------------------------------------------


async def test_items_of_one_lane_run_one_at_a_time_and_others_beside_them() -> None:
    """A key's next event starts when the one before has ended; other keys do not wait for it."""
    desk = _Desk()
    await desk.submit(desk.item("a1", lane="a"), desk.item("a2", lane="a"), desk.item("b1", lane="b"))
    assert desk.started == ["a1", "b1"]

    await desk.decide("a1")

    assert desk.started == ["a1", "b1", "a2"]
    assert desk.acked == ["a1"]


async def test_the_lowest_origin_of_a_lane_goes_first_whatever_topic_it_came_from() -> None:
    """A retry from due has a lower origin than the input's followers and overtakes them."""
    desk = _Desk()
    await desk.submit(
        desk.item("running", lane="k", order=10),
        desk.item("follower", lane="k", order=12),
        desk.item("retry", lane="k", order=3, due=True),
    )

    await desk.decide("running")
    await desk.decide("retry")

    assert desk.started == ["running", "retry", "follower"]


async def test_without_lanes_items_of_one_key_run_side_by_side() -> None:
    """A stream that asks for no order gets none, and its keys cost no room."""
    desk = _Desk(serial=False, max_waiting_per_lane=1, max_running=2)

    await desk.submit(*(desk.item(name, lane="k") for name in ("1", "2", "3", "4")))

    assert desk.started == ["1", "2"]
    assert desk.room() > 1
    assert not desk.dispatcher.waits_here((0, "k"), 3)


async def test_a_set_aside_item_lets_its_predecessor_run_and_comes_after_it() -> None:
    """It keeps its place in hand but no slot, and runs again when the lower origin has ended."""
    desk = _Desk(max_running=1)
    await desk.submit(desk.item("late", lane="k", order=9), desk.item("early", lane="k", order=4, due=True))
    assert desk.dispatcher.waits_here((0, "k"), 4)
    assert not desk.dispatcher.waits_here((0, "k"), 9), "it runs, it does not wait"

    await desk.decide("late", Verdict.SET_ASIDE)

    assert desk.started == ["late", "early"]
    assert (desk.dispatcher.running, desk.dispatcher.admitted, desk.dispatcher.waiting) == (1, 2, 1)
    await desk.decide("early")
    await desk.decide("late")
    assert desk.acked == ["early", "late"]


async def test_waiting_is_asked_for_an_exact_origin_of_one_lane() -> None:
    """Another key's or another offset's item is no predecessor."""
    desk = _Desk(max_running=1)
    await desk.submit(desk.item("x"), desk.item("w", lane="k", order=7))

    assert desk.dispatcher.waits_here((0, "k"), 7)
    assert not desk.dispatcher.waits_here((0, "k"), 8)
    assert not desk.dispatcher.waits_here((0, "other"), 7)


async def test_what_was_left_is_not_overtaken_in_its_lane() -> None:
    """An un-acked event comes again: until then its key stands still, other keys go on."""
    desk = _Desk()
    await desk.submit(desk.item("a1", lane="a"), desk.item("a2", lane="a"), desk.item("b1", lane="b"))

    await desk.decide("a1", Verdict.LEFT)
    await desk.submit(desk.item("a3", lane="a"), desk.item("b2", lane="b"))
    await desk.decide("b1")

    assert desk.started == ["a1", "b1", "b2"]
    assert desk.acked == ["b1"]
    assert desk.dispatcher.admitted == 1
    assert desk.room() == 32


async def test_after_a_rebalance_a_lane_that_was_left_runs_again() -> None:
    """The new assignment starts with clean lanes."""
    desk = _Desk()
    await desk.submit(desk.item("a1", lane="a"))
    await desk.decide("a1", Verdict.LEFT)

    await desk.dispatcher.forget(_PATIENCE_S)
    await desk.submit(desk.item("again", lane="a"))

    assert desk.started == ["a1", "again"]


# --- slots ------------------------------------------------------------------------------------------


async def test_a_quarter_of_the_slots_is_kept_for_due() -> None:
    """A full input leaves slots in which a due retry starts at once."""
    desk = _Desk(max_running=8)
    await desk.submit(*(desk.item(f"i{n}") for n in range(10)))
    assert desk.dispatcher.running == 6

    await desk.submit(*(desk.item(f"d{n}", due=True) for n in range(3)))

    assert desk.started[6:] == ["d0", "d1"]
    assert desk.dispatcher.running == 8


async def test_due_may_use_every_slot() -> None:
    """The share that the input does not use is not wasted."""
    desk = _Desk(max_running=8)

    await desk.submit(*(desk.item(f"d{n}", due=True) for n in range(10)))

    assert desk.dispatcher.running == 8


async def test_a_free_slot_goes_to_due_first() -> None:
    """A retry never queues behind a fresh backlog."""
    desk = _Desk(max_running=1)
    await desk.submit(desk.item("i0"), desk.item("i1"), desk.item("d0", due=True))

    await desk.decide("i0")

    assert desk.started == ["i0", "d0"]


async def test_a_lane_whose_head_becomes_due_moves_ahead() -> None:
    """The class of a lane is that of the item that would run, also when it arrives later."""
    desk = _Desk(max_running=1)
    await desk.submit(
        desk.item("running"),
        desk.item("other", lane="o", order=1),
        desk.item("fresh", lane="k", order=9),
        desk.item("retry", lane="k", order=2, due=True),
    )

    await desk.decide("running")
    await desk.decide("retry")
    await desk.decide("other")
    await desk.decide("fresh")

    assert desk.started == ["running", "retry", "other", "fresh"]


async def test_one_slot_serves_both() -> None:
    """With a single slot nothing can be kept apart, and nothing stands still."""
    desk = _Desk(max_running=1, max_admitted=1)
    assert desk.room() == 1

    await desk.submit(desk.item("i"))
    await desk.decide("i")
    await desk.submit(desk.item("d", due=True))

    assert desk.started == ["i", "d"]


# --- room -------------------------------------------------------------------------------------------


async def test_room_is_what_both_bounds_leave_and_due_has_its_own_share() -> None:
    """A full input is refused at three quarters; due may still take the rest."""
    desk = _Desk(max_admitted=8)
    assert (desk.room(), desk.room(due=True)) == (6, 8)

    await desk.submit(*(desk.item(f"i{n}") for n in range(6)))

    assert (desk.room(), desk.room(due=True)) == (0, 2)
    await desk.decide("i0")
    assert (desk.room(), desk.room(due=True)) == (1, 3)


async def test_bytes_bound_intake_as_items_do() -> None:
    """A few large events pause the input, then due."""
    desk = _Desk(max_admitted_bytes=100)
    await desk.submit(desk.item("i", size_bytes=75))
    assert (desk.room(), desk.room(due=True) > 0) == (0, True)

    await desk.submit(desk.item("d", size_bytes=25, due=True))

    assert desk.room(due=True) == 0
    assert desk.dispatcher.admitted_bytes == 100
    await desk.decide("i")
    assert desk.room() > 0


async def test_a_crowded_lane_pauses_only_its_own_partition() -> None:
    """One hot key leaves the other partitions, and due, alone."""
    desk = _Desk(max_running=1, max_waiting_per_lane=3)
    await desk.submit(desk.item("run", lane="hot"), *(desk.item(f"w{n}", lane="hot") for n in range(2)))
    assert desk.room() == 1

    await desk.submit(desk.item("w2", lane="hot"))

    assert desk.room() == 0
    assert desk.room(partition=1) == 3
    assert desk.room(due=True) == 3
    await desk.decide("run")
    assert desk.room() == 1


async def test_room_holds_for_a_whole_batch_of_one_key() -> None:
    """Taking all that room says at once never overfills a lane, even if every record has one key."""
    desk = _Desk(max_running=1, max_waiting_per_lane=3)
    await desk.submit(desk.item("run", lane="hot"))

    await desk.submit(*(desk.item(f"w{n}", lane="hot") for n in range(desk.room())))

    assert desk.dispatcher.waiting == 3
    assert desk.room() == 0


async def test_who_waits_for_room_is_woken_when_an_item_leaves() -> None:
    """Intake sleeps while everything is full and need not poll."""
    desk = _Desk(max_admitted=1)
    await desk.submit(desk.item("i"))
    waiter = asyncio.create_task(desk.dispatcher.room_made())
    await settle()
    assert not waiter.done()

    await desk.decide("i")

    await asyncio.wait_for(waiter, _PATIENCE_S)
    assert desk.room() == 1


# --- crashes ----------------------------------------------------------------------------------------


async def test_an_exception_of_the_work_is_reported_and_its_lane_stays_shut() -> None:
    """A bug ends the process; until then nothing overtakes the event that it hit, and it is not acked."""
    desk = _Desk()
    await desk.submit(desk.item("a1", lane="a"), desk.item("a2", lane="a"))
    error = KeyError("bug")

    await desk.fail("a1", error)

    assert desk.crashes == [error]
    assert desk.started == ["a1"]
    assert desk.acked == []
    assert not await desk.dispatcher.drain(0)


async def test_a_cancellation_that_nobody_here_made_is_a_crash() -> None:
    """A foreign cancellation must not make an event vanish unnoticed."""
    desk = _Desk()
    await desk.submit(desk.item("a"))

    desk._fates["a"].cancel()
    await settle()

    assert len(desk.crashes) == 1
    assert desk.acked == []


# --- forget -----------------------------------------------------------------------------------------


async def test_forget_cancels_what_runs_drops_what_waits_and_acks_nothing() -> None:
    """On a revoke everything but a publish is given up at once."""
    desk = _Desk(max_running=1)
    await desk.submit(desk.item("run"), desk.item("wait"))

    await desk.dispatcher.forget(_PATIENCE_S)
    await settle()

    assert desk.cancelled == ["run"]
    assert desk.started == ["run"]
    assert desk.acked == []
    assert desk.dispatcher.idle
    assert (desk.dispatcher.running, desk.dispatcher.waiting, desk.dispatcher.admitted_bytes) == (0, 0, 0)
    assert not desk.crashes


async def test_forget_lets_a_publish_under_way_finish_and_ack() -> None:
    """A record that may be stored already is confirmed and acked before the partition goes."""
    desk = _Desk(max_running=2)
    await desk.submit_publishing(desk.item("pub"))
    await desk.submit(desk.item("wait"), desk.item("wait2"))
    forgetting = asyncio.create_task(desk.dispatcher.forget(_PATIENCE_S))
    await settle()
    assert not forgetting.done()
    assert desk.room() == 0

    await desk.decide("pub")

    await asyncio.wait_for(forgetting, _PATIENCE_S)
    assert desk.acked == ["pub"]
    assert "pub" not in desk.cancelled
    assert not desk.crashes


async def test_nothing_starts_in_a_slot_that_a_publish_freed_during_forget() -> None:
    """What waited is dropped before the first publish ends, not when the last one has."""
    desk = _Desk(max_running=2)
    await desk.submit_publishing(desk.item("first"))
    await desk.submit_publishing(desk.item("second"))
    await desk.submit(desk.item("wait"))
    forgetting = asyncio.create_task(desk.dispatcher.forget(_PATIENCE_S))
    await settle()

    await desk.decide("first")

    assert desk.started == ["first", "second"]
    await desk.decide("second")
    await asyncio.wait_for(forgetting, _PATIENCE_S)
    assert desk.acked == ["first", "second"]


async def test_a_publish_that_takes_too_long_is_given_up() -> None:
    """A rebalance waits for nobody for ever; what comes later of it acks nothing."""
    desk = _Desk()
    await desk.submit_publishing(desk.item("pub"))

    await desk.dispatcher.forget(0)
    await settle()

    assert desk.cancelled == ["pub"]
    assert desk.acked == []
    assert desk.dispatcher.idle


async def test_work_that_goes_on_after_its_publish_is_ended_by_forget() -> None:
    """Only the section itself is waited for, not whatever stands behind it."""
    ended: list[str] = []
    may_publish = asyncio.Event()

    async def work(item: Item[None], slot: Slot[None]) -> Verdict:
        with slot.publishing():
            await may_publish.wait()
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return Verdict.ACK

    crashes: list[BaseException] = []
    dispatcher = KeyedDispatcher[None](
        work, max_running=1, max_admitted=1, max_admitted_bytes=1, serial=True, on_crash=crashes.append
    )
    dispatcher.submit(
        Item(
            topic="t",
            partition=0,
            offset=0,
            lane=0,
            order=0,
            size_bytes=1,
            is_due=False,
            payload=None,
            ack=lambda: ended.append("acked"),
        )
    )
    await settle()
    forgetting = asyncio.create_task(dispatcher.forget(60))
    await settle()

    may_publish.set()

    await asyncio.wait_for(forgetting, _PATIENCE_S)
    assert ended == ["cancelled"]
    assert not crashes


async def test_nothing_is_published_after_it_was_forgotten() -> None:
    """Another worker has the event by then: the section refuses to be entered."""
    desk = _Desk()
    await desk.submit(desk.item("a"))
    slot = desk.slots["a"]
    await desk.dispatcher.forget(_PATIENCE_S)

    with pytest.raises(asyncio.CancelledError), slot.publishing():
        raise AssertionError("the section was entered")


async def test_work_that_swallows_its_cancellation_still_acks_nothing() -> None:
    """However a handler behaves, an item of a former assignment moves no offset of the next one."""
    desk = _Desk()
    acked: list[str] = []
    done = asyncio.Event()

    async def work(item: Item[None], slot: Slot[None]) -> Verdict:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            done.set()
        return Verdict.ACK

    dispatcher = KeyedDispatcher[None](
        work, max_running=1, max_admitted=9, max_admitted_bytes=9, serial=True, on_crash=desk.crashes.append
    )
    dispatcher.submit(
        Item(
            topic="t",
            partition=0,
            offset=0,
            lane=0,
            order=0,
            size_bytes=1,
            is_due=False,
            payload=None,
            ack=lambda: acked.append("late"),
        )
    )
    await settle()

    await dispatcher.forget(_PATIENCE_S)
    await asyncio.wait_for(done.wait(), _PATIENCE_S)
    await settle()

    assert acked == []
    assert dispatcher.idle
    assert not desk.crashes


async def test_after_forget_the_same_records_may_come_again() -> None:
    """The next assignment uses the same dispatcher with all of its room."""
    desk = _Desk(max_admitted=4)
    await desk.submit(desk.item("a"), desk.item("b"))
    await desk.dispatcher.forget(_PATIENCE_S)
    assert desk.room(due=True) == 4

    await desk.submit(desk.item("a"))
    await desk.decide("a")

    assert desk.acked == ["a"]
    assert desk.dispatcher.idle


# --- drain ------------------------------------------------------------------------------------------


async def test_drain_finishes_what_runs_and_forgets_what_waits() -> None:
    """On SIGTERM work in progress ends and is acked; what has not started goes back to Kafka."""
    desk = _Desk(max_running=1)
    await desk.submit(desk.item("run"), desk.item("wait"))
    draining = asyncio.create_task(desk.dispatcher.drain(_PATIENCE_S))
    await settle()
    assert desk.dispatcher.waiting == 0

    await desk.decide("run")

    assert await asyncio.wait_for(draining, _PATIENCE_S)
    assert (desk.started, desk.acked) == (["run"], ["run"])
    assert desk.dispatcher.idle


async def test_drain_takes_nothing_more_for_good() -> None:
    """A rebalance in the middle of a shutdown does not start the intake again."""
    desk = _Desk()
    assert await desk.dispatcher.drain(_PATIENCE_S)

    await desk.dispatcher.forget(_PATIENCE_S)
    await desk.submit(desk.item("late"))

    assert desk.room() == desk.room(due=True) == 0
    assert desk.started == []
    assert desk.dispatcher.idle


async def test_drain_says_when_its_time_was_too_short_and_leaves_the_work_alone() -> None:
    """What still runs after the time goes on until it is forgotten."""
    desk = _Desk()
    await desk.submit(desk.item("slow"))

    assert not await desk.dispatcher.drain(0)

    assert desk.dispatcher.running == 1
    assert desk.cancelled == []
    await desk.decide("slow")
    assert desk.acked == ["slow"]


async def test_an_item_set_aside_during_a_drain_is_let_go() -> None:
    """There is nobody left whom it could wait for here."""
    desk = _Desk()
    await desk.submit(desk.item("a"))
    draining = asyncio.create_task(desk.dispatcher.drain(_PATIENCE_S))
    await settle()

    await desk.decide("a", Verdict.SET_ASIDE)

    assert await asyncio.wait_for(draining, _PATIENCE_S)
    assert desk.dispatcher.idle
    assert desk.acked == []


# --- holding ----------------------------------------------------------------------------------------


async def test_while_held_nothing_is_started_and_what_runs_goes_on() -> None:
    """An operator's pause reaches what was taken and not begun; nothing of it is lost or reordered."""
    desk = _Desk()
    await desk.submit(desk.item("a1", lane="a"), desk.item("a2", lane="a"))
    desk.dispatcher.hold(True)
    await desk.submit(desk.item("b1", lane="b"), desk.item("d1", lane="d", due=True))
    await desk.decide("a1")
    assert desk.started == ["a1"]
    assert desk.acked == ["a1"]
    assert desk.dispatcher.admitted == 3

    desk.dispatcher.hold(False)
    await settle()

    assert desk.started == ["a1", "d1", "b1", "a2"]


async def test_a_held_dispatcher_drains() -> None:
    """A paused worker stops as quickly as any other."""
    desk = _Desk()
    desk.dispatcher.hold(True)
    await desk.submit(desk.item("a1"))

    assert await desk.dispatcher.drain(_PATIENCE_S)
    assert desk.started == []
    assert desk.dispatcher.admitted == 0
