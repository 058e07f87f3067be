"""One process of the duel: its callers ask the contender, then the judge, then pretend to make the call.

Run by `bout.py` with a JSON object as its argument: `Orders`. Standard library only, see `contender.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.duel.contender import Call, Contender, Plan

QUESTION = struct.Struct("<II")  # tokens, process
VERDICT = struct.Struct("<d")  # 0: admitted; else what Retry-After says (s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker is to do. With `calls` 0 each caller asks again and again, else all calls at once.

    Tokens are log-normal with `mean_tokens` and shape `sigma`, cut at the plan's largest call.
    """

    contender: str
    judge: str
    report: str
    plan: Plan
    callers: int
    calls: int
    latency_s: float
    mean_tokens: float
    sigma: float

    def to_json(self) -> str:
        """Return the worker's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Orders:
        """Read the worker's argument."""
        fields = json.loads(text)
        return cls(**{**fields, "plan": Plan(**fields["plan"])})


def token_draws(
    *, seed: int, process: int, caller: int, mean: float, sigma: float, largest: int
) -> Iterator[int]:
    """Give the tokens of a caller's calls, the same in every run with the same seed."""
    draw = random.Random(f"{seed}/{process}/{caller}")
    mu = math.log(mean) - sigma**2 / 2 if mean > 0 else 0.0
    while True:
        yield max(1, min(largest, round(draw.lognormvariate(mu, sigma)))) if mean > 0 else 0


class JudgeLine(asyncio.Protocol):
    """The line to the provider: questions go out at once, answers come in the same order."""

    def __init__(self) -> None:
        self._asked: deque[asyncio.Future[float]] = deque()
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self.round_trips_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand each answer to the oldest question."""
        data = self._rest + data
        whole = len(data) - len(data) % VERDICT.size
        self._rest = data[whole:]
        for (wait_s,) in VERDICT.iter_unpack(data[:whole]):
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_result(wait_s)

    async def ask(self, tokens: int, process: int) -> float:
        """Send one call to the provider; return 0 when it is admitted, else the wait that it asks for."""
        assert self._transport is not None
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        sent_at = time.monotonic()
        self._transport.write(QUESTION.pack(tokens, process))
        wait_s: float = await answer
        self.round_trips_s.append(time.monotonic() - sent_at)
        return wait_s


class Worker:
    """Runs the callers and writes down what became of each call (times of the monotonic clock)."""

    def __init__(self, orders: Orders, contender: Contender, line: JudgeLine) -> None:
        self._orders = orders
        self._contender = contender
        self._line = line
        self._served: list[tuple[float, float, int, int]] = []
        self._pending: dict[int, tuple[float, int]] = {}

    async def run(self, start_at: float, stop_at: float) -> None:
        """Start all callers at once, and stop them at `stop_at` at the latest."""
        await asyncio.sleep(start_at - time.monotonic())
        run = self._hungry if self._orders.calls == 0 else self._once
        count = self._orders.calls or self._orders.callers
        try:
            async with asyncio.timeout(stop_at - time.monotonic()), asyncio.TaskGroup() as tasks:
                for caller in range(count):
                    tasks.create_task(run(caller))
        except TimeoutError:
            pass

    def report(self, path: Path) -> None:
        """Write what happened: calls as (asked, sent, tokens, refusals), and who waits (asked, tokens)."""
        unfinished = path.with_suffix(".part")
        unfinished.write_text(
            json.dumps(
                {
                    "served": self._served,
                    "pending": list(self._pending.values()),
                    "judge_round_trips_s": self._line.round_trips_s,
                }
            )
        )
        unfinished.rename(path)

    async def _hungry(self, caller: int) -> None:
        for tokens in self._draws(caller):
            await self._call(caller, tokens)

    async def _once(self, caller: int) -> None:
        await self._call(caller, next(self._draws(caller)))

    async def _call(self, caller: int, tokens: int) -> None:
        asked_at, asked_at_ms, refusals = time.monotonic(), time.time_ns() // 1_000_000, 0
        self._pending[caller] = (asked_at, tokens)
        while True:
            call = Call(tokens=tokens, asked_at_ms=asked_at_ms, refusals=refusals)
            grant = await self._contender.acquire(call)
            sent_at = time.monotonic()
            retry_after_s = await self._line.ask(tokens, self._orders.plan.process)
            if retry_after_s <= 0:
                break
            refusals += 1
            await self._contender.refused(grant, call, retry_after_s)
        del self._pending[caller]
        self._served.append((asked_at, sent_at, tokens, refusals))
        await asyncio.sleep(self._orders.latency_s)
        await self._contender.done(grant, call)

    def _draws(self, caller: int) -> Iterator[int]:
        orders = self._orders
        return token_draws(
            seed=orders.plan.seed,
            process=orders.plan.process,
            caller=caller,
            mean=orders.mean_tokens,
            sigma=orders.sigma,
            largest=orders.plan.largest_call_tokens,
        )


class _FinishedError(Exception):
    """Ends the contender's tasks with everything else."""


async def _main(orders: Orders) -> None:
    module, _, name = orders.contender.partition(":")
    contender: Contender = getattr(importlib.import_module(module), name)()
    loop = asyncio.get_running_loop()
    transport, line = await loop.create_unix_connection(JudgeLine, orders.judge)
    try:
        async with asyncio.TaskGroup() as tasks:
            await contender.open(orders.plan, tasks)
            print("ready", flush=True)
            start_at, stop_at = map(float, (await asyncio.to_thread(sys.stdin.readline)).split())
            worker = Worker(orders, contender, line)
            await worker.run(start_at, stop_at)
            worker.report(Path(orders.report))
            await asyncio.to_thread(sys.stdin.read)  # its CPU time is read before it goes
            raise _FinishedError
    except* _FinishedError:
        transport.close()


if __name__ == "__main__":
    asyncio.run(_main(Orders.from_json(sys.argv[1])))
