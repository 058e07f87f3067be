"""A delay topic as Spring Kafka, Uber and others have it: read from the front, wait until the head is due.

`python -m benchmarks.fifo_tier KAFKA TIER DUE`. Each partition is paused while its head waits, and polling
goes on; what is due is forwarded with a confirmed produce. It is kinder than those it stands for: the
head stays in memory instead of being fetched again, and it wakes within a millisecond.
"""

from __future__ import annotations

import sys
import time
from collections import deque

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from sluicegate.kafka.reading import record_of

_LONGEST_POLL_S = 0.1


def main(kafka: str, tier: str, due: str) -> None:
    """Forward for ever."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"{tier}.fifo",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 20,
        }
    )
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 1})
    consumer.subscribe([tier])
    waiting: dict[int, deque[tuple[int, Message]]] = {}
    while True:
        wake_ms = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        wait_s = _LONGEST_POLL_S if wake_ms is None else wake_ms / 1000 - time.time()
        first = consumer.poll(min(max(wait_s, 0.0), _LONGEST_POLL_S))
        if first is not None:
            for message in (first, *consumer.consume(500, timeout=0)):
                if message.error() is None:
                    waiting.setdefault(message.partition() or 0, deque()).append((_due_ms(message), message))
        for partition, queue in waiting.items():
            had_some = bool(queue)
            while queue and queue[0][0] <= time.time() * 1000:
                _, message = queue.popleft()
                producer.produce(
                    due,
                    message.value(),
                    message.key(),
                    partition=partition,
                    headers=list(record_of(message).headers),
                )
            if queue:
                consumer.pause([TopicPartition(tier, partition)])
            elif had_some:
                consumer.resume([TopicPartition(tier, partition)])
        producer.poll(0)


def _due_ms(message: Message) -> int:
    return int(dict(record_of(message).headers)["retry-due-at-ms"])


if __name__ == "__main__":
    main(*sys.argv[1:4])
