"""A replay's reader, which also keeps the replay's place in what it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import orjson
from confluent_kafka import KafkaException, TopicPartition

from consumers.ranges import RangeReader
from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import Committed, Partition
from sluicegate.settings import KafkaSettings

_SILENCE_S = 30.0


class ReplayReader(RangeReader):
    """Commits go to `group`, which has no members: it only remembers how far a replay came."""

    def __init__(self, kafka: KafkaSettings, *, group: str) -> None:
        super().__init__(kafka, client_id="sluicegate-replay", group=group, silence_s=_SILENCE_S)

    def commit(self, offsets: Mapping[Partition, tuple[int, Counter[str]]]) -> None:
        """Keep the next offset and the tally so far of each partition. Raises BrokerError."""
        places = [
            TopicPartition(place.topic, place.number, offset, orjson.dumps(tally).decode())
            for place, (offset, tally) in offsets.items()
        ]
        try:
            committed = self._consumer.commit(offsets=places, asynchronous=False) or []
        except KafkaException as exc:
            raise BrokerError(f"Kafka did not keep the replay's place: {exc.args[0].str()}") from exc
        if failed := next((place.error for place in committed if place.error is not None), None):
            raise BrokerError(f"Kafka did not keep the replay's place: {failed.str()}")


def tally_of(committed: Committed) -> Counter[str]:
    """Return the tally that was kept with an offset; an unreadable one counts nothing."""
    try:
        found = orjson.loads(committed.metadata or b"{}")
    except orjson.JSONDecodeError:
        return Counter()
    if not isinstance(found, dict):
        return Counter()
    return Counter({name: count for name, count in found.items() if isinstance(count, int) and count > 0})
