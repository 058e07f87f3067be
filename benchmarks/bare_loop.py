"""The yardstick: confluent-kafka, a semaphore, a task an event. It promises nothing and costs as little.

No state, order, limits, retries, validation, metrics or logs; offsets are committed by the clock, so that
a crash loses what was running. Run as a process of its own by `worker_throughput`.
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
import httpx
import orjson
from confluent_kafka import Consumer, Message, Producer
from httpx_aiohttp import AiohttpTransport

from benchmarks.handlers import WORK_S
from streams.prompts import prompt

_BATCH = 500
_POLL_S = 0.05


class BareLoop:
    """Takes events, works on `running` of them at once, publishes what comes out."""

    def __init__(self, kafka: str, output: str, running: int, url: str | None) -> None:
        self._output = output
        self._slots = asyncio.Semaphore(running)
        self._url = url
        self._producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5, "acks": "all"})
        # A connector without a limit: the transport's own would stop at 100 connections.
        self._client = httpx.AsyncClient(
            timeout=30,
            transport=AiohttpTransport(
                client=lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            ),
        )

    async def run(self, consumer: Consumer) -> None:
        """Run until killed."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for message in await asyncio.to_thread(consumer.consume, _BATCH, _POLL_S):
                    await self._slots.acquire()
                    tasks.create_task(self._work(message))
                    self._producer.poll(0)
                self._producer.poll(0)

    async def _work(self, message: Message) -> None:
        try:
            event = orjson.loads(message.value() or b"")
            text = await self._answer(event["text"])
            answer = {"conversation_id": event["conversation_id"], "turn": event["turn"], "reply": text}
            self._producer.produce(self._output, key=message.key(), value=orjson.dumps(answer))
        finally:
            self._slots.release()

    async def _answer(self, text: str) -> str:
        if self._url is None:
            await asyncio.sleep(WORK_S)
            return text
        messages = [
            {"role": "system", "content": prompt("support_chat")},
            {"role": "user", "content": text},
        ]
        body = {"model": "small", "messages": messages, "max_tokens": 512}
        response = await self._client.post(self._url, json=body)
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])


async def _run(options: argparse.Namespace) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": options.kafka,
            "group.id": f"{options.output}.bare",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 50,
        }
    )
    consumer.subscribe([options.input])
    await BareLoop(options.kafka, options.output, options.running, options.url).run(consumer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("running", type=int)
    parser.add_argument("--url")
    asyncio.run(_run(parser.parse_args()))
