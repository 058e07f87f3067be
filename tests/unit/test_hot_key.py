"""A key with thousands of events behind a parked one: what it holds in hand, and whom it holds up."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from dataclasses import replace

from sluicegate.delivery.dispatcher import KeyedDispatcher
from sluicegate.llm.outcomes import Failed, Outcome, Reason
from sluicegate.processing.reading import Delivered
from sluicegate.records import OutgoingRecord, Record
from tests.unit.processing_world import World, answer, headers_of

FOLLOWERS = 1000
PER_LANE = 32
HOT, COOL = 0, 1  # partitions
A_WHILE_S = 1.0  # brings more copies at once than a key may hold in hand
REFUSED = Failed(
    reason=Reason.SERVER_ERROR, counts=True, on_the_wire=True, http_status=500, retry_after_s=20.0
)


class _Shop:
    """A worker's dispatcher and processor, an intake that takes what there is room for, and a relay."""

    def __init__(self) -> None:
        self.refusal: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.world = World()
        self.world.caller.script = lambda request: (
            self.refusal if len(self.world.caller.requests) == 1 else answer()
        )
        self.crashes: list[BaseException] = []
        self.dispatcher: KeyedDispatcher[Delivered] = KeyedDispatcher(
            self.world.processor.work,
            max_running=8,
            max_admitted=200,
            max_admitted_bytes=1 << 24,
            max_waiting_per_lane=PER_LANE,
            serial=True,
            on_crash=self.crashes.append,
        )
        self.world.waits_here = self.dispatcher.waits_here
        self.logs: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.taken: Counter[tuple[str, int]] = Counter()
        self.in_hand: Counter[tuple[str, int]] = Counter()
        self.waiting: list[tuple[int, int, OutgoingRecord]] = []
        self.seen = 0
        self.most_in_hand: Counter[tuple[str, int]] = Counter()

    @property
    def input(self) -> str:
        return self.world.topics.input

    def publish(self, key: str, turn: int, partition: int) -> None:
        chat = self.world.chat(turn=turn, key=key.encode(), partition=partition)
        self.logs[self.input, partition].append(chat)

    async def go_on(self) -> None:
        """Take and work until nothing more can be done without time passing."""
        while True:
            before = (sum(self.taken.values()), len(self.world.publisher.records))
            for place in list(self.logs):
                self._take_from(place)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not self.crashes
            if before == (sum(self.taken.values()), len(self.world.publisher.records)):
                return

    def _take_from(self, place: tuple[str, int]) -> None:
        is_due = place[0] == self.world.topics.due
        while self.taken[place] < len(self.logs[place]) and self.dispatcher.room(*place, is_due):
            item = self.world.item(self.logs[place][self.taken[place]])
            self.taken[place] += 1
            self.in_hand[place] += 1
            self.most_in_hand[place] = max(self.most_in_hand[place], self.in_hand[place])
            self.dispatcher.submit(replace(item, ack=lambda: self.in_hand.subtract([place])))

    def release(self) -> bool:
        """Let time pass until the next copies are due, and move those; false when nothing is parked."""
        for copy in self.world.publisher.records[self.seen :]:
            self.seen += 1
            if copy.topic in self.world.topics.tiers:
                heapq.heappush(self.waiting, (due_at_ms(copy), self.seen, copy))
        if not self.waiting:
            return False
        self.world.advance(max(0, self.waiting[0][0] - self.world.clock.ms) / 1000 + A_WHILE_S)
        while self.waiting and self.waiting[0][0] <= self.world.clock.ms:
            _, _, copy = heapq.heappop(self.waiting)
            self.logs[self.world.topics.due, HOT].append(self.world.due_record(copy))
        return True


def due_at_ms(copy: OutgoingRecord) -> int:
    """Return when a parked copy is due."""
    return int(headers_of(copy)["retry-due-at-ms"])


async def test_a_hot_key_behind_a_parked_event_holds_little_and_holds_up_nobody() -> None:
    """G4: at most 32 of it wait in hand, other partitions go on, and it ends in order soon after its head."""
    shop = _Shop()
    for turn in range(FOLLOWERS + 1):
        shop.publish("hot", turn, HOT)
    for number in range(50):
        shop.publish(f"cool-{number}", 0, COOL)

    await shop.go_on()
    assert shop.dispatcher.room(shop.input, HOT, False) == 0, "the key's partition is paused"
    assert shop.dispatcher.room(shop.input, COOL, False) > 0
    assert shop.in_hand[shop.input, HOT] == PER_LANE + 1
    assert len(shop.world.results) == 50, "the other partition is not held up"

    shop.refusal.set_result(REFUSED)
    await shop.go_on()
    assert len(shop.world.results) == 50, "nobody overtakes the head"
    head_due_ms = min(due_at_ms(copy) for copy in shop.world.parked)
    while shop.release():
        await shop.go_on()

    hot = [result for result in shop.world.results if result.key == b"hot"]
    offsets = [int(headers_of(result)["retry-origin-offset"]) for result in hot]
    assert offsets == list(range(FOLLOWERS + 1))
    assert len(shop.world.caller.requests) == FOLLOWERS + 1 + 1 + 50
    assert shop.most_in_hand[shop.input, HOT] == PER_LANE + 1
    assert shop.most_in_hand[shop.world.topics.due, HOT] == PER_LANE + 1
    assert shop.world.clock.ms - head_due_ms <= FOLLOWERS * 11 + 2 * A_WHILE_S * 1000
    assert max(int(headers_of(copy)["retry-deferrals"]) for copy in shop.world.parked) <= 2
