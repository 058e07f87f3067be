"""What the HTTP client alone costs for a call: the same requests as the worker's, and nothing else.

`--way transport` uses httpx as the worker's client does: a request straight to the aiohttp transport, the
answer read to its end and parsed. `--way client` goes through `httpx.AsyncClient` on the same transport, as
people write it. Prints one JSON line: calls, seconds and CPU seconds between the first and the last tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from benchmarks.load import TEXT
from benchmarks.plain_call import ask, open_client
from sluicegate.llm.api import CallRequest, conversation
from sluicegate.llm.formats import wire_format
from streams.prompts import prompt

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "sluicegate",
}

Call = Callable[[str], Awaitable[object]]


async def _through_transport(url: str, calls: int, running: int) -> dict[str, float]:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )
    transport = AiohttpTransport(client=lambda: session)
    wire = wire_format("openai")

    async def call(request_id: str) -> object:
        request = CallRequest(
            model="small",
            messages=conversation(prompt("support_chat"), (), TEXT),
            max_output_tokens=512,
            request_id=request_id,
        )
        body = orjson.dumps(wire.body(request))
        headers = {**_HEADERS, "X-Client-Request-Id": request_id}
        response = await transport.handle_async_request(
            httpx.Request("POST", url, headers=headers, content=body)
        )
        try:
            answer = await response.aread()
        finally:
            await response.aclose()
        if response.status_code != httpx.codes.OK:
            raise AssertionError(
                f"the provider answered {response.status_code}: no figure would mean anything"
            )
        return orjson.loads(answer)["choices"][0]["message"]["content"]

    async with transport:
        return await _measure(call, calls, running)


async def _through_client(url: str, calls: int, running: int) -> dict[str, float]:
    async with open_client() as client:
        return await _measure(lambda name: ask(client, url, TEXT, request_id=name), calls, running)


async def _measure(call: Call, calls: int, running: int) -> dict[str, float]:
    """Keep `running` calls going until all are made."""
    numbers = iter(range(calls))
    done = 0
    marks: dict[int, tuple[float, float]] = {}

    async def keep_calling() -> None:
        nonlocal done
        for number in numbers:
            await call(f"alone-{number}/reply/1")
            done += 1
            if done in (calls // 10, calls * 9 // 10):
                marks[done] = (time.monotonic(), time.process_time())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(running):
            tasks.create_task(keep_calling())
    (first, (began_at, cpu_before_s)), (last, (ended_at, cpu_after_s)) = sorted(marks.items())
    return {"calls": last - first, "seconds": ended_at - began_at, "cpu_s": cpu_after_s - cpu_before_s}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=8_000)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--way", choices=("transport", "client"), default="transport")
    options = parser.parse_args()
    way = _through_transport if options.way == "transport" else _through_client
    print(orjson.dumps(asyncio.run(way(options.url, options.calls, options.running))).decode())
