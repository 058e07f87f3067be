"""The two states that the contract suites run on, behind what only a test may do to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.connection import AbstractConnection

from sluicegate.records import Origin
from sluicegate.state.api import Cancels, Copies, Ends, EventRef, Histories, Standings, Steps
from sluicegate.state.fake_state import FakeState
from sluicegate.state.keeping import Keeping
from sluicegate.state.keys import keys_of
from sluicegate.state.redis_state import RedisState
from sluicegate.state.scripts import ScriptRunner

GROUP = "g"
START_MS = 1_800_000_000_000


class State(Copies, Ends, Steps, Histories, Standings, Cancels, Protocol):
    """All six interfaces in one object."""


class Stand(Protocol):
    """A state under test and the outside powers over it."""

    state: State
    keeping: Keeping

    async def now_ms(self) -> int:
        """Return the time by the state's own clock."""

    async def pass_time(self, delay_ms: int) -> None:
        """Return when the state's clock is that much later."""

    async def flush(self) -> None:
        """Lose everything."""

    async def restart(self) -> None:
        """Make all that was written so far the work of an earlier server."""

    async def saved(self) -> Any:
        """Return all that is there, for `set_back`."""

    async def set_back(self, saved: Any) -> None:
        """Start an earlier server's successor on what was saved: whatever was written since is lost."""

    async def flag_cancelled(self, ref: EventRef) -> None:
        """Set the row's cancel flag."""

    async def open_origins(self, ref: EventRef) -> tuple[int, ...]:
        """Return the offsets open in the event's gate."""

    async def remembers_for_ms(self, ref: EventRef) -> int:
        """Return how long the event's row will stay."""

    async def remembers_steps_for_ms(self, ref: EventRef) -> int | None:
        """Return how long the event's steps will stay; None when there are none."""


def counted_ids() -> Callable[[], str]:
    """Return a source of ids that tests can read."""
    numbers = itertools.count(1)
    return lambda: f"gen-{next(numbers)}"


class FakeStand:
    """The state in memory on a clock that the test moves."""

    def __init__(self, keeping: Keeping, kind: type[FakeState] = FakeState) -> None:
        self._now = START_MS
        self.keeping = keeping
        self.fake = kind(lambda: self._now, counted_ids(), keeping)
        self.state: State = self.fake

    async def now_ms(self) -> int:
        """Return the time by the state's own clock."""
        return self._now

    async def pass_time(self, delay_ms: int) -> None:
        """Return when the clock is that much later."""
        self._now += delay_ms

    async def flush(self) -> None:
        """Lose everything."""
        self.fake.flush()

    async def restart(self) -> None:
        """Make all that was written the work of an earlier server."""
        self.fake.run_id += "+"

    async def saved(self) -> Any:
        """Return all that is there, for `set_back`."""
        return self.fake.saved()

    async def set_back(self, saved: Any) -> None:
        """Start a successor on what was saved."""
        self.fake.set_back(saved)
        await self.restart()

    async def flag_cancelled(self, ref: EventRef) -> None:
        """Set the row's cancel flag."""
        row = self.fake.row_of(ref)
        assert row is not None
        row.is_cancelled = True

    async def open_origins(self, ref: EventRef) -> tuple[int, ...]:
        """Return the offsets open in the event's gate."""
        return self.fake.open_origins(ref)

    async def remembers_for_ms(self, ref: EventRef) -> int:
        """Return how long the row will stay."""
        row = self.fake.row_of(ref)
        assert row is not None
        return row.expires_at_ms - self._now

    async def remembers_steps_for_ms(self, ref: EventRef) -> int | None:
        """Return how long the steps will stay, if there are any."""
        until_ms = self.fake.steps_kept_until_ms(ref)
        return None if until_ms is None else until_ms - self._now


class _SucceedingRunner(ScriptRunner):
    """Tells the scripts of another server after each `restart`."""

    restarts = 0

    async def _ask_run_id(self, connection: AbstractConnection) -> bytes:
        return await super()._ask_run_id(connection) + b"%d" % self.restarts

    def restart(self) -> None:
        self.restarts += 1
        self._run_ids.clear()


class RedisStand:
    """The real scripts on a real server."""

    def __init__(self, client: redis.asyncio.Redis, keeping: Keeping) -> None:
        # Typed loosely: redis-py's replies are unions of all that a protocol version might return.
        self._client: Any = client
        self.keeping = keeping
        state = RedisState(client, group=GROUP, new_gen=counted_ids(), keeping=keeping)
        # A new server for every restart would cost seconds; the scripts know it by its run_id alone.
        self._runner = state._runner = _SucceedingRunner(client, timeout_s=2.0)
        self.state: State = state

    async def now_ms(self) -> int:
        """Return the time by the state's own clock."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def pass_time(self, delay_ms: int) -> None:
        """Return when the clock is that much later."""
        loop_now = await self.now_ms()
        until_ms = loop_now + delay_ms
        while loop_now < until_ms:
            loop_now = await self.now_ms()

    async def flush(self) -> None:
        """Lose everything."""
        await self._client.flushdb()

    async def restart(self) -> None:
        """Make all that was written the work of an earlier server."""
        self._runner.restart()

    async def saved(self) -> Any:
        """Return all that is there, for `set_back`."""
        return {
            key: (await self._client.pttl(key), await self._client.dump(key))
            async for key in self._client.scan_iter()
        }

    async def set_back(self, saved: Any) -> None:
        """Start a successor on what was saved."""
        await self._client.flushdb()
        for key, (left_ms, value) in saved.items():
            await self._client.restore(key, max(left_ms, 0), value)
        await self.restart()

    async def flag_cancelled(self, ref: EventRef) -> None:
        """Set the row's cancel flag."""
        await self._client.hset(keys_of(GROUP, ref).row, "cancel", "1")

    async def open_origins(self, ref: EventRef) -> tuple[int, ...]:
        """Return the offsets open in the event's gate."""
        keys = keys_of(GROUP, ref)
        members = await self._client.zrange(keys.gate, 0, -1)
        assert sorted(members) == sorted(await self._client.hkeys(keys.gate_entries))
        return tuple(int(member) for member in members)

    async def remembers_for_ms(self, ref: EventRef) -> int:
        """Return how long the row will stay."""
        return int(await self._client.pttl(keys_of(GROUP, ref).row))

    async def remembers_steps_for_ms(self, ref: EventRef) -> int | None:
        """Return how long the steps will stay, if there are any."""
        left_ms = int(await self._client.pttl(keys_of(GROUP, ref).steps))
        return None if left_ms == -2 else left_ms


def event(offset: int, *, partition: int = 0, key: str = "c-1", ordered: bool = True) -> EventRef:
    """Return an event of one conversation."""
    return EventRef(
        stream="support-chat",
        origin=Origin(topic="support-chat", partition=partition, offset=offset),
        key=key,
        identity=f"identity-{key}-{partition}-{offset}",
        ordered=ordered,
    )
