"""`sluicegate forget` as its operator sees it: what it says, what it writes down, and its exit code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition

from sluicegate.cli.forget import forget
from sluicegate.local.broker import EmbeddedBroker
from sluicegate.state.api import Copy, End, EndKind, Run
from sluicegate.state.connecting import connect
from sluicegate.state.redis_state import RedisState
from tests.contract.state_stands import event

KEY = "canary-person"


@pytest.fixture
def config(tmp_path: Path, prefix: str, redis_url: str, embedded_broker: EmbeddedBroker) -> Path:
    """Return the settings of a deployment that has an audit topic."""
    embedded_broker.create_topics({f"{prefix}.audit": 1})
    tables = {
        "kafka": {"bootstrap_servers": embedded_broker.address, "group": prefix},
        "redis": {"url": redis_url},
    }
    lines = [
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()))
    ]
    path = tmp_path / "sluicegate.toml"
    path.write_text("\n".join(lines))
    return path


def take(redis_url: str, prefix: str, *, offset: int, ends: bool) -> None:
    """Have an event of the key taken, and ended if that is wished."""

    async def run() -> None:
        client = connect(redis_url, max_connections=1, timeout_s=2.0)
        state = RedisState(client, group=prefix, new_gen=lambda: "gen")
        ref, end = event(offset, key=KEY), End(kind=EndKind.RECORDED)
        verdict = (await state.take(ref, Copy())).verdict
        assert isinstance(verdict, Run)
        if ends:
            await state.claim(ref, verdict.gen, end)
            await state.finish(ref, verdict.gen, end)
        await client.aclose()

    asyncio.run(run())


def audited(address: str, topic: str) -> list[bytes]:
    """Return what was written down."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = [message.value() or b"" for message in consumer.consume(1, timeout=5)]
    consumer.close()
    return [value if isinstance(value, bytes) else value.encode() for value in values]


def test_a_person_is_forgotten_and_it_is_written_down_without_a_name(
    config: Path,
    prefix: str,
    redis_url: str,
    embedded_broker: EmbeddedBroker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The audit has the counts and the operator's reference, and neither the key nor its hash."""
    take(redis_url, prefix, offset=1, ends=True)

    assert forget("support-chat", key=KEY, reference="T-77", config=config) == 0

    assert capsys.readouterr().out == "removed from Redis: 1 keys\n"
    (value,) = audited(embedded_broker.address, f"{prefix}.audit")
    entry = orjson.loads(value)
    assert (entry["kind"], entry["stream"]) == ("forgotten", "support-chat")
    assert (entry["target"], entry["counts"]) == ({"reference": "T-77"}, {"removed": 1, "open": 0})
    assert b"canary" not in value


def test_an_open_event_is_told_and_is_no_success(
    config: Path, prefix: str, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that forgets people sees by the exit code that one of them is to be tried again."""
    take(redis_url, prefix, offset=1, ends=False)

    assert forget("support-chat", key=KEY, config=config) == 1
    assert "still open: nothing was removed" in capsys.readouterr().out
    assert forget("support-chat", key=KEY, also_open=True, json=True, config=config) == 0
    assert orjson.loads(capsys.readouterr().out) == {"stream": "support-chat", "removed": 1, "open": 1}
    assert forget("support-chat", key=KEY, config=config) == 0
