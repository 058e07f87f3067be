"""One stream's state and decoder, as its workers build them and operators' commands ask them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sluicegate.processing.decoding import EventDecoder
from sluicegate.processing.handlers import load_handler
from sluicegate.settings import Settings
from sluicegate.state.api import EventRef, Standing
from sluicegate.state.connecting import connect
from sluicegate.state.keeping import Keeping
from sluicegate.state.redis_state import RedisState

if TYPE_CHECKING:
    import redis.asyncio

STATE_TIMEOUT_S = 2.0
_CONNECTIONS = 2
_AT_ONCE = 200
_T = TypeVar("_T")


def new_id() -> str:
    """Return 16 random hex digits."""
    return secrets.token_hex(8)


def state_of(settings: Settings, stream: str, client: redis.asyncio.Redis) -> RedisState:
    """Return the stream's state; ConfigurationError when there is no such stream."""
    own = settings.stream(stream)
    keeping = Keeping(
        deadline_s=own.deadline_s,
        horizon_s=settings.retry.horizon_s,
        dead_letter_s=settings.topics.dlq_retention_s,
    )
    return RedisState(
        client, group=settings.kafka.group, new_gen=new_id, keeping=keeping, timeout_s=STATE_TIMEOUT_S
    )


def decoder_of(settings: Settings, stream: str) -> EventDecoder:
    """Return what reads the stream's events; ConfigurationError when its handler cannot be loaded."""
    own = settings.stream(stream)
    return EventDecoder(
        stream=stream,
        model=load_handler(own.agent).argument,
        ordered=own.ordered,
        max_event_bytes=own.max_event_bytes,
    )


def with_state(settings: Settings, stream: str, ask: Callable[[RedisState], Awaitable[_T]]) -> _T:
    """Run questions to the stream's state. Raises StateUnavailableError."""

    async def run() -> _T:
        client = connect(settings.redis, max_connections=_CONNECTIONS, timeout_s=STATE_TIMEOUT_S)
        try:
            return await ask(state_of(settings, stream, client))
        finally:
            await client.aclose()

    return asyncio.run(run())


def standings_of(settings: Settings, stream: str, refs: Sequence[EventRef]) -> list[Standing | None]:
    """Return how each event stands, asked a few hundred at a time. Raises StateUnavailableError."""

    async def ask(state: RedisState) -> list[Standing | None]:
        found: list[Standing | None] = []
        for first in range(0, len(refs), _AT_ONCE):
            found += await state.standings(refs[first : first + _AT_ONCE])
        return found

    return with_state(settings, stream, ask)
