"""The provider of the duel: one process that owns the quota and judges every call as it comes.

Run by `bout.py` as `python -m benchmarks.duel.judge FOLDER LIMITS_JSON`. It says `ready`, is told on stdin
which moment of the monotonic clock is a window's beginning, and when stdin closes it writes its log. The line
to it is FOLDER/judge, the log FOLDER/log.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from pathlib import Path

from benchmarks.duel.worker import QUESTION, VERDICT
from sluicegate.local.provider.quota import Dimension, Enforcement, Limits, Quota

# A multiple of every window's length, so that the quota's clock never is below zero.
_AHEAD_S = 3600.0


class Court:
    """The quota, and every call that was sent: (at, tokens, process, 0 or the wait it was told)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._zero = 0.0
        self._quota: Quota | None = None
        self.log: list[tuple[float, int, int, float]] = []

    def open(self, window_begins_at: float) -> None:
        """Start with an unused quota."""
        self._zero = window_begins_at - _AHEAD_S
        self._quota = Quota(self._limits, time.monotonic() - self._zero)

    def judge(self, tokens: int, process: int) -> float:
        """Admit a call or refuse it with a wait."""
        assert self._quota is not None
        now = time.monotonic()
        charge = {Dimension.REQUESTS: 1.0, Dimension.TOKENS: float(tokens)}
        wait_s = self._quota.take(charge, now - self._zero)
        if math.isinf(wait_s):
            raise AssertionError(f"a call of {tokens} tokens can never fit: the workload is wrong")
        self.log.append((now, tokens, process, wait_s))
        return wait_s


class _Bench(asyncio.Protocol):
    """One worker's line."""

    def __init__(self, court: Court) -> None:
        self._court = court
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._rest + data
        whole = len(data) - len(data) % QUESTION.size
        self._rest = data[whole:]
        verdicts = (self._court.judge(*question) for question in QUESTION.iter_unpack(data[:whole]))
        self._transport.write(b"".join(map(VERDICT.pack, verdicts)))


async def _main(folder: Path, limits: Limits) -> None:
    court = Court(limits)
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Bench(court), folder / "judge")
    async with server:
        print("ready", flush=True)
        court.open(float(await asyncio.to_thread(sys.stdin.readline)))
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        (folder / "log").write_text(json.dumps(court.log))


def _limits(text: str) -> Limits:
    fields = json.loads(text)
    return Limits(**{**fields, "enforcement": Enforcement(fields["enforcement"])})


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), _limits(sys.argv[2])))
