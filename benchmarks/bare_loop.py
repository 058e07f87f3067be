"""The least that does a worker's visible work: consume, call, produce. What it lacks is what a worker is for.

It keeps no order, limits nothing, remembers nothing, retries nothing and commits nothing. Run by
`benchmarks.worker_throughput` as `python -m benchmarks.bare_loop SERVERS INPUT RESULTS URL COUNT RUNNING`.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import httpx
import orjson
from confluent_kafka import Consumer, Message, Producer
from httpx_aiohttp import AiohttpTransport

from benchmarks.tickets import SYSTEM

_POLL_S = 0.05
_FETCH = 500


async def _answer(client: httpx.AsyncClient, url: str, text: str) -> str:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "max_tokens": 64,
    }
    async with asyncio.timeout(30):
        response = await client.post(
            f"{url}/chat/completions",
            content=orjson.dumps(body),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
        )
    response.raise_for_status()
    return str(orjson.loads(response.content)["choices"][0]["message"]["content"])


async def _run(servers: str, source: str, results: str, url: str, count: int, running: int) -> None:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "bare-loop", "auto.offset.reset": "earliest"}
    )
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 5})
    slots = asyncio.Semaphore(running)

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async with (
        httpx.AsyncClient(transport=AiohttpTransport(client=session), timeout=None) as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def work(message: Message) -> None:
            try:
                ticket = orjson.loads(message.value() or b"")
                urgency = await _answer(client, url, ticket["text"])
                value = orjson.dumps({"ticket_id": ticket["ticket_id"], "urgency": urgency})
                producer.produce(results, key=message.key(), value=value)
                producer.poll(0)
            finally:
                slots.release()

        consumer.subscribe([source])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        taken = 0
        while taken < count:
            for message in await asyncio.to_thread(consumer.consume, _FETCH, _POLL_S):
                if message.error() is None:
                    await slots.acquire()
                    tasks.create_task(work(message))
                    taken += 1
    producer.flush(30)
    # Stays until its CPU time has been read.
    await asyncio.to_thread(sys.stdin.read)
    consumer.close()


if __name__ == "__main__":
    servers, source, results, url, count, running = sys.argv[1:]
    asyncio.run(_run(servers, source, results, url, int(count), int(running)))
