"""A small world around the state: Kafka, a worker, zombies and a relay, moved one step at a time by chance.

Every step between two effects (script, publish, ack) is a place where anything else may happen: another
worker takes over and the old one goes on as a zombie, the worker or the relay dies, an answer of Redis is
lost, Redis is flushed, an operator replays a dead letter or a parked event. What must hold at the end is
in `verify`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

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
from tests.contract.state_stands import Stand, event

_MOST_STEPS = 400
_MOST_DRAIN_STEPS = 600
_WEIGHTS = (0.01, 0.1, 1.0, 10.0)
_CHANGE_OF_TEMPER = 0.02
_FROM_THE_EDGE = 0.9
_FAULTS = {"crash", "takeover", "relay_crash", "flush", "replay", "replay_again"}
_RARE = {*_FAULTS, "zombie"}
_WEIGHT_OF_THE_RARE = 0.1  # faults are few, so not all at the beginning; zombies sleep long


class ViolationError(AssertionError):
    """Something that must never happen has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How much may go wrong in one run. `large` events have results that their topic never takes.

    A replay may be sent a second time by the command that follows one that was killed.
    """

    events: int = 2
    large: int = 0
    refusals: int = 2
    takeovers: int = 2
    relay_crashes: int = 1
    lost_answers: int = 1
    flushes: int = 0
    replays: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """How the worker plays its part; the defaults are right, the others are known to be wrong."""

    switches_before_publishing: bool = False
    replaces_refused_claims: bool = True
    lower_origins_overtake: bool = True
    only_the_replays_copy_reopens: bool = True


class Place(Enum):
    """Where a record of the input or of `due` is, as its consumer group sees it."""

    WAITING = auto()
    IN_LANE = auto()
    RUNNING = auto()
    ACKED = auto()
    COMMITTED = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class Delivered:
    """A record of the input (`copy` is the input's) or of `due`."""

    ref: EventRef
    copy: Copy
    place: Place = Place.WAITING


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
        self._events = [event(offset, key=key) for offset in range(faults.events)]
        self._input = [Delivered(ref=ref, copy=Copy()) for ref in self._events]
        self._due: list[Delivered] = []
        self._tier: list[tuple[EventRef, Copy]] = []
        self._lane: list[Delivered] = []
        self._task: Task | None = None
        self._zombies: list[Task] = []
        self._large = range(faults.large)
        self._refusals = Counter({ref.origin.offset: faults.refusals for ref in self._events})
        self._left = Counter(
            takeover=faults.takeovers,
            relay_crash=faults.relay_crashes,
            lost_answer=faults.lost_answers,
            flush=faults.flushes,
            replay=faults.replays,
        )
        self._weights: dict[str, float] = {}
        self._copies_made = {Copy().id: 0}
        self._live: dict[int, int] = {}
        self._replays_made: list[Delivered] = []
        self._reopenings: Counter[int] = Counter()
        self._replayed_dead: set[int] = set()
        self.was_flushed = False
        self.published: list[tuple[int, End]] = []
        self.trace: list[str] = []

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
        if self._left["flush"] and (self._zombies or len(self._copies_made) > 1):
            actions.append(("flush", self._flush))
        if self._left["replay"] and (self._tier or self._dead):
            actions.append(("replay", self._replay))
        if self._left["replay_again"]:
            actions.append(("replay_again", self._replay_again))
        may_go_on = self._progress() or self._zombies or (self._left["replay"] and self._dead)
        return actions if may_go_on else []

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
        """Look for the lost, the twice ended, the overtaken and a gate left open; after a flush for fewer."""
        first: dict[int, End] = {}
        for offset, end in self.published:
            first.setdefault(offset, end)
        for offset in first:
            self._verify_ends(offset)
        if lost := {ref.origin.offset for ref in self._events} - first.keys():
            raise ViolationError(f"lost: {lost}")
        if list(first) != sorted(first) and not self.was_flushed:
            raise ViolationError(f"out of order: {list(first)}")
        if still_open := await self._stand.open_origins(self._events[0]):
            raise ViolationError(f"the gate stays open: {still_open}")

    def _verify_ends(self, offset: int) -> None:
        """An event has one end; only dead letters are followed by another, one for each reopening."""
        if self.was_flushed:
            return
        ends = list(dict.fromkeys(end for of, end in self.published if of == offset))
        if len(ends) > 1 + self._reopenings[offset]:
            raise ViolationError(f"event {offset} ended twice, differently")
        if self._reopenings[offset] > sum(sent.ref.origin.offset == offset for sent in self._replays_made):
            raise ViolationError(f"event {offset} has had more lives than replays")
        if offset in self._replayed_dead and not self._reopenings[offset]:
            raise ViolationError(f"the replay of the dead letter of event {offset} came to nothing")
        if len(ends) < 1 + self._reopenings[offset]:
            raise ViolationError(f"the replay of event {offset} has no end of its own")
        if any(end.kind is not EndKind.DEAD_LETTER for end in ends[:-1]):
            raise ViolationError(f"event {offset} was answered and ended again")

    @property
    def _dead(self) -> set[int]:
        """The origins that have a dead letter in Kafka."""
        return {offset for offset, end in self.published if end.kind is EndKind.DEAD_LETTER}

    def _situation(self) -> Situation:
        """Return where everything is; copies go by the order in which they were made."""
        made = self._copies_made
        tasks = ([self._task] if self._task else []) + self._zombies
        return (
            self.was_flushed,
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
            frozenset(offset for offset, _ in self.published),
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
        """Plan by how the events stand, and send one copy; nothing where no event can be replayed."""
        found = await self._state.standings(self._events)
        choices: list[tuple[EventRef, str | None]] = []
        for ref, standing in zip(self._events, found, strict=True):
            if standing is None:
                continue
            is_dead = standing.phase is Phase.DONE and standing.kind is EndKind.DEAD_LETTER
            if is_dead and ref.origin.offset in self._dead:
                choices.append((replace(ref, ordered=False), standing.live))
            parked = {copy.id: its for its, copy in self._tier if its.origin == ref.origin}
            if standing.phase is Phase.OPEN and standing.live in parked:
                choices.append((parked[standing.live], standing.live))
        if not choices:
            return
        self._left["replay"] -= 1
        self._left["replay_again"] += 1
        ref, live = self._chance.choice(choices)
        if not ref.ordered:
            self._replayed_dead.add(ref.origin.offset)
        hop = Copy(id=live or "input").hop + 1
        copy = Copy(id=f"{hop}-{self._chance.randbytes(4).hex()}", replaces=live, is_replay=True)
        self._copies_made[copy.id] = len(self._copies_made)
        self._replays_made.append(Delivered(ref=ref, copy=copy))
        self._due.append(Delivered(ref=ref, copy=copy))
        self._note(f"a replay sends {copy.id} of {ref.origin.offset} in place of {live}")

    async def _replay_again(self) -> None:
        """The command was killed before its checkpoint: the next one sends the same copy once more."""
        self._left["replay_again"] -= 1
        sent = self._chance.choice(self._replays_made)
        self._due.append(Delivered(ref=sent.ref, copy=sent.copy))
        self._note(f"the replay is resumed and sends {sent.copy.id} again")

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

    async def _flush(self) -> None:
        self._left["flush"] -= 1
        self.was_flushed = True
        self._live.clear()
        await self._stand.flush()
        self._note("Redis is flushed")

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
            self._live[ref.origin.offset] = self._copies_made[copy.id]
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
            case Cancelled():
                raise ViolationError("nobody cancelled anything")

    async def _take(self, ref: EventRef, copy: Copy) -> Verdict:
        (before,) = await self._state.standings([ref])
        verdict = (await self._state.take(ref, copy)).verdict
        if before is not None and before.phase is Phase.DONE and not isinstance(verdict, Stale):
            self._reopenings[ref.origin.offset] += 1
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
        self.published.append((ref.origin.offset, end))
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
        self._copies_made[new.id] = len(self._copies_made)
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
            self._live[ref.origin.offset] = self._copies_made[new.id]
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
        self.trace.append(what)


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
