"""The yardstick: confluent-kafka, a semaphore, a task an event. It promises nothing and costs as little.

No state, order, limits, retries, validation, metrics or logs; offsets are committed by the clock, so that
a crash loses what was running. A process of its own, started by the benchmarks of the worker.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import orjson
from confluent_kafka import Consumer, Message, Producer

from benchmarks.handlers import ANSWER, WORK_S
from benchmarks.plain_call import ask, open_client

_BATCH = 500
_POLL_S = 0.05
_LARGEST_RECORD_BYTES = 4_000_000


class BareLoop:
    """Takes events, works on `running` of them at once, publishes what comes out.

    Work is a call to `url`, else a wait of `work_s` seconds.
    """

    def __init__(
        self, kafka: str, output: str, running: int, *, url: str | None, work_s: float, linger_ms: int
    ) -> None:
        self._output = output
        self._slots = asyncio.Semaphore(running)
        self._url = url
        self._work_s = work_s
        self._producer = Producer({"bootstrap.servers": kafka, "linger.ms": linger_ms, "acks": "all"})
        self._client = open_client()

    async def run(self, consumer: Consumer) -> None:
        """Run until killed."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for message in await asyncio.to_thread(_fetch, consumer):
                    await self._slots.acquire()
                    tasks.create_task(self._work(message))
                    self._producer.poll(0)
                self._producer.poll(0)

    async def _work(self, message: Message) -> None:
        try:
            event = orjson.loads(message.value() or b"")
            text = await self._answer(event)
            answer = {"conversation_id": event["conversation_id"], "turn": event["turn"], "reply": text}
            self._producer.produce(self._output, key=message.key(), value=orjson.dumps(answer))
        finally:
            self._slots.release()

    async def _answer(self, event: dict[str, str]) -> str:
        if self._url is not None:
            return await ask(
                self._client, self._url, event["text"], request_id=f"{event['conversation_id']}/reply/1"
            )
        if self._work_s:
            await asyncio.sleep(self._work_s)
        return ANSWER


def _fetch(consumer: Consumer) -> Sequence[Message]:
    # `consume` alone waits until its batch is full or its time is over: a lone event would wait as long.
    first = consumer.poll(_POLL_S)
    messages = () if first is None else (first, *consumer.consume(_BATCH - 1, 0))
    return [message for message in messages if message.error() is None]


async def _run(options: argparse.Namespace) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": options.kafka,
            "group.id": f"{options.output}.bare",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 50,
            "fetch.message.max.bytes": _LARGEST_RECORD_BYTES,
        }
    )
    consumer.subscribe([options.input])
    loop = BareLoop(
        options.kafka,
        options.output,
        options.running,
        url=options.url,
        work_s=options.work_s,
        linger_ms=options.linger_ms,
    )
    await loop.run(consumer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kafka")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--work-s", type=float, default=WORK_S, help="wait of an event without a call")
    parser.add_argument("--linger-ms", type=int, default=5, help="wait of a result for others to go with it")
    parser.add_argument("--url", help="where an event's call goes")
    asyncio.run(_run(parser.parse_args()))
