"""A small world around the state: Kafka, a worker, zombies and a relay, moved one step at a time by chance.

Every step between two effects (script, publish, ack) is a place where anything else may happen: another
worker takes over and the old one goes on as a zombie, the worker or the relay dies, an answer of Redis is
lost, Redis is flushed or set back to what it was some steps before, an operator replays a dead letter or a
parked event, or cancels one. What must hold at the end is in `verify`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sluicegate.state.api import (
    Behind,
    Cancelled,
    Claimed,
    Copy,
    End,
    EndKind,
    EndVerdict,
    EventRef,
    Finish,
    ParkVerdict,
    Phase,
    Run,
    Stale,
)
from tests.contract.protocol_operator import Operator
from tests.contract.protocol_topics import Delivered, Place, Topics
from tests.contract.state_stands import Stand, event

_MOST_STEPS = 400
_MOST_DRAIN_STEPS = 600
_WEIGHTS = (0.01, 0.1, 1.0, 10.0)
_CHANGE_OF_TEMPER = 0.02
_FROM_THE_EDGE = 0.9
_FAULTS = {"crash", "takeover", "relay_crash", "flush", "set_back", "replay", "replay_again", "cancel"}
_RARE = {*_FAULTS, "zombie", "save", "minute"}
_WEIGHT_OF_THE_RARE = 0.1  # faults are few, so not all at the beginning; zombies sleep long


class ViolationError(AssertionError):
    """Something that must never happen has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How much may go wrong in one run. `large` events have results that their topic never takes.

    A replay may be sent a second time by the command that follows one that was killed. Before each
    `set_backs` there is a moment whose state was saved.
    """

    events: int = 2
    large: int = 0
    refusals: int = 2
    takeovers: int = 2
    relay_crashes: int = 1
    lost_answers: int = 1
    flushes: int = 0
    set_backs: int = 0
    replays: int = 0
    cancels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """How the worker plays its part; the defaults are right, the others are known to be wrong."""

    switches_before_publishing: bool = False
    replaces_refused_claims: bool = True
    lower_origins_overtake: bool = True
    only_the_replays_copy_reopens: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """An event at work. A zombie's acks reach nobody."""

    record: Delivered
    steps: AsyncIterator[None] = field(init=False)
    is_zombie: bool = False
    doing: str = "takes"


Verdict = Run | Stale | Finish | Behind | Cancelled
Action = Callable[[], Awaitable[None]]
Situation = tuple[object, ...]


class World:
    """One key's events and everybody who touches them."""

    def __init__(
        self, stand: Stand, chance: random.Random, faults: Faults, conduct: Conduct, key: str
    ) -> None:
        self._stand, self._state, self._conduct = stand, stand.state, conduct
        self._numbers_from, self._chance = chance, random.Random(0)
        self.numbers: tuple[int, ...] = ()
        self.situations: list[tuple[int, Situation]] = []
        self._topics = Topics(events=[event(offset, key=key) for offset in range(faults.events)])
        self._input, self._due, self._tier = self._topics.input, self._topics.due, self._topics.tier
        self._operator = Operator(state=self._state, topics=self._topics, chance=self._chance)
        self._lane: list[Delivered] = []
        self._task: Task | None = None
        self._zombies: list[Task] = []
        self._large = range(faults.large)
        self._refusals = Counter({ref.origin.offset: faults.refusals for ref in self._topics.events})
        self._left = Counter(
            takeover=faults.takeovers,
            relay_crash=faults.relay_crashes,
            lost_answer=faults.lost_answers,
            flush=faults.flushes,
            save=faults.set_backs,
            replay=faults.replays,
            cancel=faults.cancels,
        )
        self._weights: dict[str, float] = {}
        self._live: dict[int, int] = {}
        self._saved: tuple[Any, dict[int, int]] | None = None
        self._saved_situation: Situation = ()
        self._reopenings: Counter[int] = Counter()
        self._losses = 0
        self._was_set_back = False
        self._cancelled: set[int] = set()

    @property
    def trace(self) -> list[str]:
        """All that happened, told."""
        return self._topics.trace

    # --- Moving the world ---------------------------------------------------------------------------

    async def run(self, beginning: tuple[int, ...] = ()) -> None:
        """Let chance act after a given beginning, then let everything end, and look at what came of it."""
        for step in range(_MOST_STEPS):
            actions = self._actions()
            if not actions:
                break
            number = beginning[step] if step < len(beginning) else self._numbers_from.getrandbits(32)
            self.numbers += (number,)
            self._chance.seed(number)
            if step == len(beginning) or self._chance.random() < _CHANGE_OF_TEMPER:
                self._weights.clear()
            # The step that leaves a known path is any of those possible, with equal chances.
            is_leaving = step == len(beginning) and step > 0
            weights = [1.0 if is_leaving else self._weight(kind) for kind, _ in actions]
            kind, act = self._chance.choices(actions, weights)[0]
            await act()
            if kind in _FAULTS:
                self._weights.clear()
            self.situations.append((step + 1, self._situation()))
        if self._was_set_back:
            await self._minute()
        await self._drain()
        for zombie in self._zombies:
            is_killed = self._chance.random() < 0.5
            while not is_killed and await self._advance(zombie):
                pass
        self._zombies.clear()
        await self._drain()
        await self.verify()

    def _weight(self, kind: str) -> float:
        """A run has a temper for a while: what is rare in one is frequent in another.

        Equal chances for everything would hardly ever let a zombie sleep through ten steps of others
        and then make two of its own.
        """
        if kind not in self._weights:
            scale = _WEIGHT_OF_THE_RARE if kind in _RARE else 1
            self._weights[kind] = scale * self._chance.choice(_WEIGHTS)
        return self._weights[kind]

    def _actions(self) -> list[tuple[str, Action]]:
        actions = self._progress()
        for zombie in self._zombies:
            actions.append(("zombie", lambda zombie=zombie: self._advance_zombie(zombie)))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        if self._left["takeover"] and self._task is not None:
            actions += [("crash", self._crash), ("takeover", self._take_over)]
        if self._left["relay_crash"]:
            actions += [("relay_crash", self._release_twice)] if self._tier else []
        if self._left["flush"] and (self._zombies or len(self._topics.made) > 1):
            actions.append(("flush", self._flush))
        actions += self._time_machine() + self._operators()
        may_go_on = self._progress() or self._zombies or (self._left["replay"] and self._topics.dead)
        return actions if may_go_on else []

    def _time_machine(self) -> list[tuple[str, Action]]:
        actions: list[tuple[str, Action]] = []
        if self._saved is not None:
            actions.append(("set_back", self._set_back))
        elif self._left["save"]:
            actions.append(("save", self._save))
        if self._left["minute"]:
            actions.append(("minute", self._minute))
        return actions

    def _operators(self) -> list[tuple[str, Action]]:
        actions: list[tuple[str, Action]] = []
        if self._left["replay"] and (self._tier or self._topics.dead):
            actions.append(("replay", self._replay))
        if self._left["replay_again"]:
            actions.append(("replay_again", self._replay_again))
        if self._left["cancel"] and self._tier:
            actions.append(("cancel", self._cancel))
        if self._operator.is_cancelling:
            actions.append(("hand_on", self._operator.hand_on))
        return actions

    def _progress(self) -> list[tuple[str, Action]]:
        actions: list[tuple[str, Action]] = []
        if self._task is not None:
            actions.append(("work", self._work))
        elif self._lane and not self._is_lane_blocked():
            actions.append(("start", self._start))
        for name, log in (("input", self._input), ("due", self._due)):
            if any(record.place is Place.WAITING for record in log):
                actions.append((name, lambda log=log: self._deliver(log)))  # type: ignore[misc]  # as above
        if self._tier:
            actions.append(("release", self._release))
        return actions

    async def _drain(self) -> None:
        for _ in range(_MOST_DRAIN_STEPS):
            actions = self._progress()
            if not actions:
                break
            await self._chance.choice(actions)[1]()
        stuck = self._task or self._lane or self._tier
        if stuck or any(record.place not in (Place.ACKED, Place.COMMITTED) for record in self._input):
            raise ViolationError("something is stuck")

    async def verify(self) -> None:
        """Look for the lost, the twice ended, the overtaken and a gate left open.

        After Redis lost what it knew the order may be another and an event may have one more end.
        """
        first: dict[int, End] = {}
        for offset, end in self._topics.published:
            first.setdefault(offset, end)
        for offset in first:
            self._verify_ends(offset)
        if lost := {ref.origin.offset for ref in self._topics.events} - first.keys():
            raise ViolationError(f"lost: {lost}")
        # Who is cancelled waits for nobody.
        in_turn = [offset for offset in first if offset not in self._cancelled]
        if in_turn != sorted(in_turn) and not self._losses:
            raise ViolationError(f"out of order: {list(first)}")
        await self._verify_gate()

    async def _verify_gate(self) -> None:
        """The gate is closed; one that was set back open is closed by whoever comes a minute later."""
        last = self._topics.events[-1]
        if self._was_set_back:
            await self._minute()
            later = event(last.origin.offset + 1, key=last.key)
            if not isinstance((await self._state.take(later, Copy())).verdict, Run):
                raise ViolationError("the gate is not healed after a minute")
        if still_open := await self._stand.open_origins(last):
            raise ViolationError(f"the gate stays open: {still_open}")

    def _verify_ends(self, offset: int) -> None:
        """An event has one end; only dead letters are followed by another, one for each reopening."""
        ends = list(dict.fromkeys(end for of, end in self._topics.published if of == offset))
        operator, lives = self._operator, 1 + self._reopenings[offset]
        if len(ends) > lives + self._losses:
            raise ViolationError(f"event {offset} ended twice, differently")
        if self._losses:
            return
        if self._reopenings[offset] > sum(sent.ref.origin.offset == offset for sent in operator.replays_made):
            raise ViolationError(f"event {offset} has had more lives than replays")
        if offset in operator.replayed_dead and not self._reopenings[offset]:
            raise ViolationError(f"the replay of the dead letter of event {offset} came to nothing")
        if len(ends) < lives:
            raise ViolationError(f"the replay of event {offset} has no end of its own")
        if any(end.kind is not EndKind.DEAD_LETTER for end in ends[:-1]):
            raise ViolationError(f"event {offset} was answered and ended again")

    def _situation(self) -> Situation:
        """Return where everything is; copies go by the order in which they were made."""
        made, operator = self._topics.made, self._operator
        tasks = ([self._task] if self._task else []) + self._zombies
        return (
            (self._losses, self._was_set_back, self._saved_situation),
            tuple(record.place for record in self._input),
            tuple(
                (made[record.copy.id], record.place)
                for record in self._due
                if record.place is not Place.COMMITTED
            ),
            frozenset(made[copy.id] for _, copy in self._tier),
            tuple(
                (task.is_zombie, task.record.ref.origin.offset, made[task.record.copy.id], task.doing)
                for task in tasks
            ),
            tuple(self._live.items()),
            tuple(self._refusals.values()),
            frozenset(offset for offset, _ in self._topics.published),
            (frozenset(operator.flagged), operator.looks_behind),
            tuple(made[record.copy.id] for record in operator.in_hand),
        )

    # --- The relay and Kafka ------------------------------------------------------------------------

    async def _release(self) -> None:
        ref, copy = self._tier.pop(self._chance.randrange(len(self._tier)))
        self._due.append(Delivered(ref=ref, copy=copy))
        self._note(f"relay releases {copy.id} of {ref.origin.offset}")

    async def _release_twice(self) -> None:
        self._left["relay_crash"] -= 1
        ref, copy = self._chance.choice(self._tier)
        self._due.append(Delivered(ref=ref, copy=copy))
        self._note(f"relay releases {copy.id} of {ref.origin.offset} and dies before its commit")

    async def _deliver(self, log: list[Delivered]) -> None:
        record = next(record for record in log if record.place is Place.WAITING)
        record.place = Place.IN_LANE
        self._lane.append(record)

    # --- The operator -------------------------------------------------------------------------------

    async def _replay(self) -> None:
        if await self._operator.replay():
            self._left["replay"] -= 1
            self._left["replay_again"] += 1

    async def _replay_again(self) -> None:
        self._left["replay_again"] -= 1
        await self._operator.replay_again()

    async def _cancel(self) -> None:
        self._left["cancel"] -= 1
        await self._operator.cancel()

    # --- What Redis loses ---------------------------------------------------------------------------

    async def _flush(self) -> None:
        self._left["flush"] -= 1
        self._lose({})
        await self._stand.flush()
        self._note("Redis is flushed")

    async def _save(self) -> None:
        self._left["save"] -= 1
        self._saved = await self._stand.saved(), dict(self._live)
        self._saved_situation = (tuple(self._live.items()), len(self._topics.published))
        self._note("this is what Redis will remember")

    async def _set_back(self) -> None:
        assert self._saved is not None
        (saved, live), self._saved, self._saved_situation = self._saved, None, ()
        self._lose(live)
        self._was_set_back = True
        self._left["minute"] += 1
        await self._stand.set_back(saved)
        self._note("Redis is set back")

    def _lose(self, live: dict[int, int]) -> None:
        self._losses += 1
        self._live = live
        self._operator.flagged.clear()

    async def _minute(self) -> None:
        """Wait until a gate of an earlier server is healed by whoever comes."""
        self._left["minute"] -= self._left["minute"] > 0
        await self._stand.pass_time(self._stand.keeping.heal_after_ms + 1)
        self._note("a minute passes")

    # --- The worker ---------------------------------------------------------------------------------

    def _head(self) -> Delivered:
        if self._conduct.lower_origins_overtake:
            return min(self._lane, key=lambda record: record.ref.origin.offset)
        return self._lane[0]

    def _waits_here(self, offset: int) -> bool:
        return any(record.ref.origin.offset == offset for record in self._lane)

    def _is_lane_blocked(self) -> bool:
        """A lane that keeps its order waits for ever once its head waits for one behind it."""
        return any(record.place is Place.RUNNING for record in self._lane)

    async def _start(self) -> None:
        record = self._head()
        self._lane.remove(record)
        record.place = Place.RUNNING
        self._task = task = Task(record=record)
        task.steps = self._life(task)
        await self._work()

    async def _work(self) -> None:
        task = self._task
        if task is not None and not await self._advance(task) and self._task is task:
            self._task = None

    async def _advance_zombie(self, zombie: Task) -> None:
        if not await self._advance(zombie):
            self._zombies.remove(zombie)

    async def _advance(self, task: Task) -> bool:
        """Let a task make one step; false when it was its last."""
        try:
            await anext(task.steps)
        except StopAsyncIteration:
            return False
        return True

    async def _crash(self) -> None:
        self._hand_over()
        self._note("the worker dies")

    async def _take_over(self) -> None:
        if self._task is not None:
            self._task.is_zombie = True
            self._zombies.append(self._task)
        self._hand_over()
        self._note("another worker takes over; the old one goes on as a zombie")

    def _hand_over(self) -> None:
        self._left["takeover"] -= 1
        self._task = None
        self._lane.clear()
        for record in (*self._input, *self._due):
            if record.place is Place.ACKED and self._chance.random() < 0.5:
                record.place = Place.COMMITTED
            elif record.place is not Place.COMMITTED:
                record.place = Place.WAITING

    def _ack(self, task: Task) -> None:
        if not task.is_zombie:
            task.record.place = Place.ACKED

    def _back_to_lane(self, task: Task) -> None:
        if not task.is_zombie:
            task.record.place = Place.IN_LANE
            self._lane.append(task.record)

    # --- An event's life ----------------------------------------------------------------------------

    async def _life(self, task: Task) -> AsyncIterator[None]:
        ref, copy = task.record.ref, task.record.copy
        async for _ in self._answers_lost(lambda: self._take(ref, copy)):
            yield
        verdict = await self._take(ref, copy)
        self._note(f"{_who(task)} takes {copy.id} of {ref.origin.offset}: {type(verdict).__name__}")
        if not isinstance(verdict, Stale):
            self._live[ref.origin.offset] = self._topics.made[copy.id]
        match verdict:
            case Stale():
                self._ack(task)
            case Behind(gen=gen, predecessor_offset=before):
                if not task.is_zombie and self._waits_here(before):
                    self._wait_in_lane(task)
                    return
                async for _ in self._park(task, gen):
                    yield
            case Finish(gen=gen, end=end):
                async for _ in self._publish_end(task, gen, end):
                    yield
            case Run(gen=gen):
                async for _ in self._handle(task, gen):
                    yield
            case Cancelled(gen=gen):
                self._cancelled.add(ref.origin.offset)
                letter = End(kind=EndKind.DEAD_LETTER, value=self._chance.randbytes(6))
                async for _ in self._claim(task, gen, letter):
                    yield

    async def _take(self, ref: EventRef, copy: Copy) -> Verdict:
        offset = ref.origin.offset
        (before,) = await self._state.standings([ref])
        verdict = (await self._state.take(ref, copy)).verdict
        if before is not None and before.phase is Phase.DONE and not isinstance(verdict, Stale):
            self._reopenings[offset] += 1
            self._operator.flagged.discard(offset)
        if isinstance(verdict, Run) and offset in self._operator.flagged:
            raise ViolationError(f"event {offset} runs although it was cancelled")
        return verdict

    def _wait_in_lane(self, task: Task) -> None:
        if self._conduct.lower_origins_overtake:
            self._back_to_lane(task)
        else:
            self._lane.insert(0, task.record)  # still RUNNING: it keeps the head of the lane

    async def _handle(self, task: Task, gen: str) -> AsyncIterator[None]:
        ref = task.record.ref
        yield
        if self._refusals[ref.origin.offset] and self._chance.random() < 0.6:
            self._refusals[ref.origin.offset] -= 1
            async for _ in self._park(task, gen):
                yield
            return
        # Every run of a handler would end differently: only the claim makes it one end.
        task.doing = "claims"
        end = End(kind=self._chance.choice(list(EndKind)), value=self._chance.randbytes(6))
        async for _ in self._claim(task, gen, end):
            yield

    async def _claim(
        self, task: Task, gen: str, end: End, *, replaces: EndKind | None = None
    ) -> AsyncIterator[None]:
        ref = task.record.ref
        async for _ in self._answers_lost(lambda: self._state.claim(ref, gen, end, replaces=replaces)):
            yield
        claimed = await self._state.claim(ref, gen, end, replaces=replaces)
        self._note(f"{_who(task)} claims {ref.origin.offset}: {type(claimed).__name__}")
        match claimed:
            case Claimed(end=counts):
                async for _ in self._publish_end(task, gen, counts):
                    yield
            case EndVerdict.TAKE_AGAIN:
                self._back_to_lane(task)
            case EndVerdict.ALREADY_DONE | EndVerdict.DONE:
                self._ack(task)

    async def _publish_end(self, task: Task, gen: str, end: End) -> AsyncIterator[None]:
        ref, task.doing = task.record.ref, "ends"
        yield
        if end.kind is EndKind.RESULT and ref.origin.offset in self._large:
            letter = End(kind=EndKind.DEAD_LETTER, value=self._chance.randbytes(6))
            self._note(f"the result of {ref.origin.offset} is refused")
            if self._conduct.replaces_refused_claims:
                async for _ in self._claim(task, gen, letter, replaces=EndKind.RESULT):
                    yield
                return
            end = letter
        task.doing = "finishes"
        self._topics.published.append((ref.origin.offset, end))
        self._note(f"{_who(task)} publishes the {end.kind.value} of {ref.origin.offset}")
        yield
        async for _ in self._answers_lost(lambda: self._state.finish(ref, gen, end)):
            yield
        verdict = await self._state.finish(ref, gen, end)
        self._note(f"{_who(task)} finishes {ref.origin.offset}: {verdict}")
        if verdict is EndVerdict.TAKE_AGAIN:
            self._back_to_lane(task)
        else:
            self._ack(task)

    async def _park(self, task: Task, gen: str) -> AsyncIterator[None]:
        ref, copy, task.doing = task.record.ref, task.record.copy, "parks"
        new = Copy(
            id=f"{copy.hop + 1}-{self._chance.randbytes(4).hex()}",
            replaces=copy.id,
            is_replay=copy.is_replay and not self._conduct.only_the_replays_copy_reopens,
        )
        self._topics.number(new)
        due_at_ms = await self._stand.now_ms()
        yield
        await self._state.intend_park(ref, due_at_ms)
        if self._conduct.switches_before_publishing:
            verdict = await self._state.park(ref, copy, new, gen, due_at_ms)
            yield
            self._tier.append((ref, new))
            self._ack(task)
            return
        yield
        task.doing = "switches"
        self._tier.append((ref, new))
        self._note(f"{_who(task)} publishes copy {new.id} of {ref.origin.offset}")
        yield
        async for _ in self._answers_lost(lambda: self._state.park(ref, copy, new, gen, due_at_ms)):
            yield
        verdict = await self._state.park(ref, copy, new, gen, due_at_ms)
        self._note(f"{_who(task)} switches {ref.origin.offset} to {new.id}: {verdict}")
        if verdict is ParkVerdict.SWITCHED:
            self._live[ref.origin.offset] = self._topics.made[new.id]
        if verdict is ParkVerdict.TAKE_AGAIN:
            self._back_to_lane(task)
        else:
            self._ack(task)

    async def _answers_lost(self, script: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
        """Now and then Redis runs a script and its answer is lost: the worker asks again, later."""
        while self._left["lost_answer"] and self._chance.random() < 0.1:
            self._left["lost_answer"] -= 1
            await script()
            yield

    def _note(self, what: str) -> None:
        self._topics.note(what)


def _who(task: Task) -> str:
    return "a zombie" if task.is_zombie else "the worker"


async def search(
    stand: Stand, *, seed: int, runs: int, faults: Faults, conduct: Conduct | None = None
) -> ViolationError | None:
    """Run that many worlds and return the first violation, told with all that happened before it.

    A run is a list of numbers, one a step. Whenever a run comes to a situation that none came to before,
    the numbers up to there are kept; nine runs of ten begin with one of those, rather one that was seldom
    chosen, and go on by chance. So the search walks on from the edge of what it knows.
    """
    chance = random.Random(seed)
    known: set[Situation] = set()
    beginnings: list[tuple[int, ...]] = [()]
    chosen = [0]
    for run in range(runs):
        pick = 0
        if chance.random() < _FROM_THE_EDGE:
            pick = min((chance.randrange(len(beginnings)) for _ in range(4)), key=chosen.__getitem__)
        chosen[pick] += 1
        if faults.set_backs:
            await stand.flush()  # what is saved is this run's alone
        world = World(stand, chance, faults, conduct or Conduct(), key=f"c-{seed}-{run}")
        try:
            await world.run(beginnings[pick])
        except ViolationError as violation:
            return ViolationError("\n  ".join([f"seed {seed}, run {run}: {violation}", *world.trace]))
        for steps, situation in world.situations:
            if situation not in known:
                known.add(situation)
                beginnings.append(world.numbers[:steps])
                chosen.append(0)
    return None
