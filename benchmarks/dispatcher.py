"""How many events a second the keyed dispatcher and the offset tracker manage when the work is nothing."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict
from sluicegate.delivery.offsets import OffsetTracker

_EVENTS = 100_000
_PARTITIONS = 12
_KEYS = 2_000
_COMMIT_EVERY = 5_000


async def _work(item: Item[None], slot: Slot[None]) -> Verdict:
    await asyncio.sleep(0)
    with slot.publishing():
        return Verdict.ACK


async def _run(*, serial: bool) -> float:
    """Return events per second through intake, lane, slot, ack and commit snapshot."""
    crashes: list[BaseException] = []
    dispatcher = KeyedDispatcher[None](
        _work,
        max_running=200,
        max_admitted=2_000,
        max_admitted_bytes=64 << 20,
        serial=serial,
        on_crash=crashes.append,
    )
    trackers = [OffsetTracker() for _ in range(_PARTITIONS)]
    started_at = time.perf_counter()
    for number in range(_EVENTS):
        partition, offset = number % _PARTITIONS, number // _PARTITIONS
        tracker = trackers[partition]
        while not dispatcher.room("input", partition, is_due=False) or tracker.must_stop:
            await dispatcher.room_made()
        tracker.delivered(offset)
        dispatcher.submit(
            Item(
                topic="input",
                partition=partition,
                offset=offset,
                lane=(partition, number % _KEYS),
                order=offset,
                size_bytes=500,
                is_due=False,
                payload=None,
                ack=partial(tracker.done, offset),
            )
        )
        if number % _COMMIT_EVERY == 0:
            for each in trackers:
                each.snapshot()
    while not dispatcher.idle:
        await dispatcher.room_made()
    rate = _EVENTS / (time.perf_counter() - started_at)
    if crashes or any(tracker.unfinished for tracker in trackers):
        raise AssertionError("the benchmark lost events: its figure means nothing")
    return rate


def main() -> None:
    """Print the figures."""
    for serial in (True, False):
        rate = asyncio.run(_run(serial=serial))
        print(f"dispatcher, {'one at a time per key' if serial else 'no lanes'}: {rate:,.0f} events/s")


if __name__ == "__main__":
    main()
