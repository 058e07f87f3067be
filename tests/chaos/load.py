"""What is published during a run: conversations, documents, and poison among them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import Producer

from tests.chaos.stand import PARTITIONS, Stand

CONVERSATIONS = 24
_BACKLOG_TURNS = 3
_CHATS_PER_S = 6.0
_DOCUMENT_EVERY = 8
_AGENT_SHARE = 0.1
_CLOUD_EVENT_SHARE = 0.5
_FLUSH_S = 60.0

Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One record as it is published."""

    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def poison(random: Random, key: bytes, canary: str) -> Raw:
    """Return one record that no sound publisher would send, under the key of a live conversation."""
    chat = {"conversation_id": key.decode(), "turn": 1000, "speaker": "customer", "text": f"{canary} again"}
    good = json.dumps(chat).encode()
    forged = (
        ("retry-origin-topic", b"elsewhere"),
        ("retry-origin-partition", b"-1"),
        ("retry-origin-offset", b"99999999999999999999"),
        ("retry-copy", b"7-forged"),
        ("retry-replaces", b"input"),
        ("retry-due-at-ms", b"99999999999999"),
        ("dlq-reason", "nicht ascii: \u00e4".encode()),
    )
    shapes = (
        Raw(key=key, value=b'{"conversation_id": "' + canary.encode()),
        Raw(key=key, value=b"\xff\xfe\x00" + canary.encode()),
        Raw(key=key, value=None),
        Raw(key=None, value=None),
        Raw(key=key, value=b""),
        Raw(key=key, value=b"[" * 5000 + b"]" * 5000),
        Raw(key=key, value=json.dumps({**chat, "turn": "three"}).encode()),
        Raw(key=key, value=json.dumps({**chat, "text": canary * 70_000}).encode()),
        Raw(key=key, value=b'{"turn": NaN, "turn": 1e999}'),
        Raw(key=None, value=good),
        Raw(key=b"\xff\x00\xfe", value=good),
        Raw(key=key, value=good, headers=forged),
        Raw(key=key, value=good, headers=(*forged, *forged, ("x", b"y" * 30_000))),
        Raw(key=key, value=good, headers=(("ce_id", b"\xff"), ("ce_specversion", b"9"), ("ce_time", b"no"))),
        Raw(key=key, value=b"null", headers=tuple((f"h{number}", b"") for number in range(300))),
    )
    return random.choice(shapes)


class Load:
    """Publishes from the seed alone: the same records in the same order, at an even pace."""

    def __init__(self, stand: Stand, seed: int, folder: Path) -> None:
        self._stand = stand
        self._random = Random(seed + 1)
        self._folder = folder
        self._turns = [0] * CONVERSATIONS
        self._documents = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        # Straight to the broker: what publishers do while it is away is not what is tested here.
        self._producer = Producer(
            {
                "bootstrap.servers": stand.broker.direct_address,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "delivery.timeout.ms": 60_000,
                "log_level": 0,
            }
        )

    def publish_backlog(self) -> None:
        """Publish a few turns of every conversation with `sluicegate publish`, before anybody works."""
        file = self._folder / "backlog.jsonl"
        chats = [self._chat(number) for _ in range(_BACKLOG_TURNS) for number in range(CONVERSATIONS)]
        file.write_text("\n".join(map(json.dumps, chats)))
        command = [sys.executable, "-m", "sluicegate", "publish", "support-chat", str(file)]
        config = str(self._stand.deployment.config)
        done = subprocess.run([*command, "--config", config], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def start(self) -> None:
        """Publish in a thread until `finish`."""
        self._thread = threading.Thread(target=self._run, name="publisher")
        self._thread.start()

    def finish(self) -> None:
        """Stop, and return when Kafka has accepted everything."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        assert self._producer.flush(_FLUSH_S) == 0, "Kafka did not take what was published"

    def publish_poison(self, count: int, over_s: float, pick: float) -> None:
        """Publish bad records among the good ones, spread over some seconds."""
        random = Random(pick)
        for _ in range(count):
            number = random.randrange(CONVERSATIONS)
            raw = poison(random, self._key(number), self._stand.canary)
            self._producer.produce(
                self._stand.deployment.input("support-chat"),
                key=raw.key,
                value=raw.value,
                headers=list(raw.headers),
                partition=number % PARTITIONS,
            )
            time.sleep(over_s / count)

    def _run(self) -> None:
        for index, number in enumerate(self._conversations()):
            if self._closing.wait(1 / _CHATS_PER_S):
                return
            self._send("support-chat", self._key(number), self._chat(number))
            if index % _DOCUMENT_EVERY == 0:
                document = self._document()
                self._send("documents", str(document["document_id"]).encode(), document)
            self._producer.poll(0)

    def _conversations(self) -> Iterator[int]:
        while True:
            yield self._random.randrange(CONVERSATIONS)

    def _send(self, stream: str, key: bytes, event: dict[str, Any]) -> None:
        headers: Headers = []
        if self._random.random() < _CLOUD_EVENT_SHARE:
            id = f"{key.decode()}-{self._random.getrandbits(64):x}"
            headers = [
                ("ce_specversion", b"1.0"),
                ("ce_id", id.encode()),
                ("ce_source", b"/chaos"),
                ("ce_type", f"sluicegate.{stream}.v1".encode()),
            ]
        self._producer.produce(
            self._stand.deployment.input(stream), key=key, value=json.dumps(event).encode(), headers=headers
        )

    @staticmethod
    def _key(number: int) -> bytes:
        return f"c-{number}".encode()

    def _chat(self, number: int) -> dict[str, Any]:
        turn = self._turns[number]
        self._turns[number] += 1
        return {
            "conversation_id": self._key(number).decode(),
            "turn": turn,
            "speaker": "agent" if self._random.random() < _AGENT_SHARE else "customer",
            "text": f"{self._stand.canary} {turn}: where is my parcel {number}?",
        }

    def _document(self) -> dict[str, Any]:
        self._documents += 1
        sentence = f"Note {self._documents} about {self._stand.canary} and queues. It is short. "
        return {
            "document_id": f"d-{self._documents}",
            "title": f"Notes {self._documents}",
            "media_type": "text/plain",
            "text": sentence * self._random.randint(2, 10),
        }
