"""Where to go on when Kafka does not have the record that comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.consumer.fetcher import OffsetResetStrategy
from faust.types import TP

_ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """From the offset that came next to the oldest that there is: lower when the topic was made anew."""

    wanted: int
    oldest: int

    @property
    def missed(self) -> int:
        """How many offsets Kafka deleted before they were read."""
        return max(0, self.oldest - self.wanted)


class LostPlaces:
    """Positions that the broker refused; aiokafka by itself would replace them without a word.

    Belongs to the consumer's thread.
    """

    def __init__(self) -> None:
        self._wanted: dict[Any, int] = {}

    def note(self, error: errors.KafkaError, consumer: aiokafka.AIOKafkaConsumer) -> bool:
        """Take a fetch error that only means a missing position; False for any other."""
        match error:
            case errors.OffsetOutOfRangeError():
                self._wanted.update(error.args[0])
            case errors.NoOffsetForPartitionError():
                begin_at_the_oldest(consumer, error.args[0])
            case _:
                return False
        return True

    async def find(self, consumer: aiokafka.AIOKafkaConsumer) -> Mapping[TP, Jump]:
        """Seek each to the oldest record; raises KafkaError when the broker does not say which that is."""
        found: dict[TP, Jump] = {}
        for partition, wanted in tuple(self._wanted.items()):
            if _is_at(consumer, partition, wanted):
                try:
                    oldest = await _oldest(consumer, partition)
                except errors.KafkaError:
                    if found:
                        return found  # what was found must be told; the rest is asked for again
                    raise
                if _is_at(consumer, partition, wanted):
                    consumer._fetcher.seek_to(partition, oldest)
                    found[TP(partition.topic, partition.partition)] = Jump(wanted=wanted, oldest=oldest)
            del self._wanted[partition]
        return found


async def _oldest(consumer: aiokafka.AIOKafkaConsumer, partition: Any) -> int:
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            return int((await consumer.beginning_offsets([partition]))[partition])
    except TimeoutError:
        raise errors.KafkaTimeoutError from None


def begin_at_the_oldest(consumer: aiokafka.AIOKafkaConsumer, partition: Any) -> None:
    """Read a partition that has no commit from its beginning on."""
    if consumer._subscription.is_assigned(partition):
        reset = consumer._fetcher.request_offset_reset([partition], OffsetResetStrategy.EARLIEST)
        reset.add_done_callback(lambda future: future.cancelled() or future.exception())


def _is_at(consumer: aiokafka.AIOKafkaConsumer, partition: Any, offset: int) -> bool:
    """Whether nobody gave the partition away or sought elsewhere meanwhile."""
    if not consumer._subscription.is_assigned(partition):
        return False
    state = consumer._subscription.subscription.assignment.state_value(partition)
    return bool(state._position == offset)
