"""What an event's three scripts cost our process, beside redis-py's own way of calling them.

Run with `python -m benchmarks.state_scripts` in the repository's root. 200 events at a time are taken, wait
100 ms, are claimed and finished, against a Redis of its own. "one by one" sends each script by redis-py's
`evalsha` as soon as it is asked for; its commands hold the same keys and arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import redis.asyncio

from sluicegate.local.redis_server import RedisServer
from sluicegate.records import Origin
from sluicegate.settings import RedisSettings
from sluicegate.state.api import Copy, End, EndKind, EventRef, Run
from sluicegate.state.connecting import connect
from sluicegate.state.redis_state import RedisState

_AT_ONCE = 200
_WORK_S = 0.1
_END = End(kind=EndKind.RESULT, value=b"x" * 400, headers=(("ce_id", b"1" * 32),) * 8)
_SCRIPTS = 3

Once = Callable[[int], Awaitable[None]]


def main() -> None:
    """Print the table."""
    run(6_000)


def run(events: int) -> None:
    """Run both ways on fresh servers and print a row each."""
    with RedisServer() as server:
        ours = asyncio.run(_measured(server, events, one_by_one=False))
    with RedisServer() as server:
        plain = asyncio.run(_measured(server, events, one_by_one=True))
    print("| way | CPU µs/script | events/s | times our CPU |\n|---|---|---|---|")
    for name, (cpu_us, per_s) in {"together, 2 ms apart": ours, "one by one": plain}.items():
        print(f"| {name} | {cpu_us:.0f} | {per_s:,.0f} | {cpu_us / ours[0]:.2f} |")


async def _measured(server: RedisServer, events: int, *, one_by_one: bool) -> tuple[float, float]:
    """Return CPU microseconds per script of this process, and events per second."""
    async with connect(RedisSettings(url=server.url), max_connections=64, timeout_s=5.0) as client:
        once = _plainly(client) if one_by_one else _ours(client)

        async def share(first: int) -> None:
            for number in range(first, events, _AT_ONCE):
                await once(number)

        started_at, cpu_at = time.monotonic(), time.process_time()
        await asyncio.gather(*(share(first) for first in range(_AT_ONCE)))
        cpu_s, wall_s = time.process_time() - cpu_at, time.monotonic() - started_at
    return 1e6 * cpu_s / events / _SCRIPTS, events / wall_s


def _ours(client: redis.asyncio.Redis) -> Once:
    state = RedisState(client, group="bench", new_gen=lambda: "0123456789abcdef")

    async def once(number: int) -> None:
        ref = EventRef(
            stream="bench",
            origin=Origin(topic="bench", partition=number % 12, offset=number),
            key=f"key-{number % 500}",
            identity=f"{number:032x}",
            ordered=False,
        )
        taken = (await state.take(ref, Copy())).verdict
        if not isinstance(taken, Run):
            raise TypeError("an event that nobody had was not given to us")
        await asyncio.sleep(_WORK_S)
        await state.claim(ref, taken.gen, _END)
        await state.finish(ref, taken.gen, _END)

    return once


def _plainly(client: redis.asyncio.Redis) -> Once:
    script = client.register_script(
        "redis.call('HSET', KEYS[1], 'v', '1', 'state', ARGV[3]) return {ARGV[2], ARGV[1], 0, 0, -1}"
    )

    async def once(number: int) -> None:
        keys = [f"bench:{{bench/{number % 500:032x}}}:{name}:bench/{number % 12}/{number}" for name in "abcd"]
        arguments: list[str | bytes | int] = ["0" * 40, "run", "input", "", number, 0, 1, 1, 1, b"x" * 500]
        for step in range(_SCRIPTS):
            await script(keys=keys, args=arguments)
            if not step:
                await asyncio.sleep(_WORK_S)

    return once


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=6_000)
    run(parser.parse_args().events)
