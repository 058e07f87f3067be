"""`python -m benchmarks.recovery`: how soon events flow again after a kill, an update or an outage.

Real processes on a real Kafka with the settings' defaults, under a steady load; judged from Kafka's own
append times and the simulator's record of calls. How to read the table: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer

from benchmarks.duel.table import print_table
from tests.fixtures.kafka import create_real_topics
from tests.fixtures.kafka_jars import JarKafka
from tests.integration.deployment import Deployment, Process, Seen, origin
from tests.integration.test_whole_way import out_of_order, paid_twice
from tests.waiting import wait_until_sync

_STREAM = "support-chat"
_PARTITIONS = 6
_KEYS = 600
_IN_FLIGHT = 50
_MAX_RUNNING = 67  # a quarter of the slots is kept for events that are due again
_ROUNDS = 5
_LONGEST_S = 90.0
# What a worker that was just killed may have handed to the broker still appears there.
_AFTERGLOW_MS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case: its times in seconds, and what it cost."""

    case: str
    times: str
    lost: int
    twice_paid: int
    disorder: int
    repeated: int


class Load:
    """A steady flow of events, published as another service would, for as long as it is entered."""

    def __init__(self, stand: Deployment, per_s: float) -> None:
        self._stand = stand
        self._pause_s = 1 / per_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.published = 0
        self.confirmed_at_s: list[float] = []

    def _run(self) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": self._stand.kafka,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "reconnect.backoff.max.ms": 500,
            "linger.ms": 1,
            "log_level": 2,
        }
        producer = Producer(settings)
        next_at_s = time.monotonic()
        while not self._stopping.wait(max(0.0, next_at_s - time.monotonic())):
            turn, key = divmod(self.published, _KEYS)
            event = {
                "conversation_id": f"c-{key}",
                "turn": turn,
                "speaker": "customer",
                "text": f"Message {turn} of conversation {key}",
            }
            producer.produce(
                self._stand.input(_STREAM),
                key=f"c-{key}".encode(),
                value=json.dumps(event).encode(),
                on_delivery=self._told,
            )
            producer.poll(0)
            self.published += 1
            next_at_s += self._pause_s
        assert producer.flush(60) == 0

    def _told(self, error: object, _: object) -> None:
        assert error is None, error
        self.confirmed_at_s.append(time.time())

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def _ends(stand: Deployment) -> list[Seen]:
    """Return every end so far, once the broker answers our own reader again."""
    found: list[Seen] = []

    def answered() -> bool:
        try:
            found[:] = stand.read(stand.results(_STREAM)) + stand.read(stand.internal(_STREAM, "dlq"))
        except KafkaException:
            return False
        return True

    wait_until_sync(answered, timeout_s=_LONGEST_S, what="the broker answers")
    return found


def _part(end: Seen) -> str:
    return str(end.header("retry-origin-partition"))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _wait_for_flow(stand: Deployment, since_ms: int) -> dict[str, int]:
    """Return when every partition gave an end after the moment; by partition, when its first came."""
    first: dict[str, int] = {}

    def all_flow() -> bool:
        first.clear()
        for end in _ends(stand):
            if end.timestamp_ms > since_ms:
                first[_part(end)] = min(end.timestamp_ms, first.get(_part(end), end.timestamp_ms))
        return len(first) == _PARTITIONS

    wait_until_sync(all_flow, timeout_s=_LONGEST_S, what="every partition flows again")
    return first


def _has_work(worker: Process) -> bool:
    return "delivery.done" in worker.log.read_text(errors="replace")


def _row(stand: Deployment, case: str, times: str, published: int) -> Row:
    wait_until_sync(
        lambda: len({origin(end) for end in _ends(stand)}) >= published,
        timeout_s=_LONGEST_S,
        what="the backlog is worked off",
    )
    ends = _ends(stand)
    of_origin = Counter(origin(end) for end in ends)
    return Row(
        case=case,
        times=times,
        lost=published - len(of_origin),
        twice_paid=paid_twice(stand.calls()),
        disorder=out_of_order(ends),
        repeated=len(ends) - len(of_origin),
    )


@contextmanager
def _stand(kafka: str, *, latency_ms: int, max_running: int) -> Iterator[Deployment]:
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-recovery-") as folder,
        Deployment(
            kafka=kafka,
            prefix=f"r{_now_ms()}",
            folder=Path(folder),
            partitions=_PARTITIONS,
            limits={"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000},
            stream={"max_running": max_running},
            retry={"in_place_max_s": 5, "base_s": 1},
            provider={"timeout_s": 60},
            worker={"drain_s": 20},
            provider_arguments=("--latency-ms", str(latency_ms), "--jitter-ms", "0"),
        ) as stand,
    ):
        create_real_topics(kafka, stand.topics)
        yield stand


def _start(stand: Deployment, count: int) -> list[Process]:
    workers = [stand.start_worker(_STREAM) for _ in range(count)]
    wait_until_sync(lambda: all(map(_has_work, workers)), timeout_s=_LONGEST_S, what="every worker has work")
    return workers


def killed(kafka: str) -> Row:
    """SIGKILL one of two workers with 50 calls on the wire, five times; the other takes over."""
    times: list[float] = []
    # A call takes a second: 95 events/s keep both workers' 50 slots full.
    with _stand(kafka, latency_ms=1000, max_running=_MAX_RUNNING) as stand:
        with Load(stand, per_s=95) as load:
            workers = _start(stand, 2)
            for _ in range(_ROUNDS):
                _wait_for_flow(stand, _now_ms())
                victim = workers.pop(0)
                killed_ms = _now_ms()
                victim.kill()
                first = _wait_for_flow(stand, killed_ms + _AFTERGLOW_MS)
                times.append((max(first.values()) - killed_ms) / 1000)
                print(f"  again in {times[-1]:.1f} s", file=sys.stderr, flush=True)
                workers += _start(stand, 1)
        for _ in range(2):
            stand.start_worker(_STREAM)  # what has piled up since
        said = f"again in {statistics.median(times):.1f} (worst {max(times):.1f})"
        return _row(stand, f"kill -9, {_IN_FLIGHT} in flight, {_ROUNDS} times", said, load.published)


def rolled(kafka: str) -> Row:
    """Exchange three workers one after the other, as an update does."""
    with _stand(kafka, latency_ms=300, max_running=100) as stand:
        with Load(stand, per_s=80) as load:
            workers = _start(stand, 3)
            began_ms = _now_ms()
            _wait_for_flow(stand, began_ms)
            for worker in workers:
                assert worker.stop() == 0
                _start(stand, 1)
            _wait_for_flow(stand, _now_ms())
            over_ms = _now_ms()
        row = _row(stand, "rolling restart of 3", "", load.published)
        stamps = [(end.timestamp_ms, _part(end)) for end in _ends(stand)]
        within = sorted(stamp for stamp in stamps if began_ms <= stamp[0] <= over_ms)
        whole = _longest_gap_s([stamp for stamp, _ in within])
        parts = {part for _, part in within}
        worst = max(_longest_gap_s([stamp for stamp, of in within if of == part]) for part in parts)
        said = f"longest pause {whole:.1f}; of one partition {worst:.1f}"
        return Row(
            case=row.case,
            times=said,
            lost=row.lost,
            twice_paid=row.twice_paid,
            disorder=row.disorder,
            repeated=row.repeated,
        )


def _longest_gap_s(stamps_ms: Sequence[int]) -> float:
    gaps_ms = [after - before for before, after in itertools.pairwise(stamps_ms)]
    return max(gaps_ms, default=0) / 1000


def _broker_restarted(case: str, strike: Callable[[JarKafka], None]) -> Row:
    with JarKafka() as broker, _stand(broker.address, latency_ms=300, max_running=100) as stand:
        with Load(stand, per_s=60) as load:
            _start(stand, 2)
            _wait_for_flow(stand, _now_ms())
            down_s = time.time()
            strike(broker)
            broker.start()
            back_ms = _now_ms()
            first = _wait_for_flow(stand, back_ms)
            raw_s = min(at_s for at_s in load.confirmed_at_s if at_s > down_s + 0.5)
        back_s = back_ms / 1000
        said = (
            f"down {back_s - down_s:.1f}; then raw producer {raw_s - back_s:.1f}, "
            f"flow {min(first.values()) / 1000 - back_s:.1f}, "
            f"all partitions {max(first.values()) / 1000 - back_s:.1f}"
        )
        return _row(stand, case, said, load.published)


def stopped_broker(_: str) -> Row:
    """Stop the broker in order and start it again."""
    return _broker_restarted("broker restarted (SIGTERM)", JarKafka.stop)


def killed_broker(_: str) -> Row:
    """Kill the broker and start it again."""
    return _broker_restarted("broker restarted (SIGKILL)", JarKafka.kill)


def redis_restarted(kafka: str) -> Row:
    """Kill Redis and start it with its data 3 s later."""
    with _stand(kafka, latency_ms=300, max_running=100) as stand:
        with Load(stand, per_s=60) as load:
            _start(stand, 2)
            _wait_for_flow(stand, _now_ms())
            stand.redis.kill()
            time.sleep(3)
            stand.redis.start()
            back_ms = _now_ms()
            first = _wait_for_flow(stand, back_ms)
        soonest_s, latest_s = ((pick(first.values()) - back_ms) / 1000 for pick in (min, max))
        said = f"again in {soonest_s:.1f}; all partitions {latest_s:.1f}"
        return _row(stand, "Redis killed, back after 3 s", said, load.published)


_CASES: dict[str, Callable[[str], Row]] = {
    "kill": killed,
    "rolling": rolled,
    "broker-stop": stopped_broker,
    "broker-kill": killed_broker,
    "redis": redis_restarted,
}


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*_CASES, []], default=list(_CASES))
    parser.add_argument("--kafka", help="a Kafka to use instead of an own one from its jars")
    parser.add_argument("--plain", action="store_true", help="a table for people, not for the docs")
    args = parser.parse_args(arguments)
    rows = []
    for name in args.cases:
        if args.kafka or name.startswith("broker"):
            row = _CASES[name](args.kafka or "")
        else:
            with JarKafka() as broker:
                row = _CASES[name](broker.address)
        print(f"{row.case}: {row.times} s", file=sys.stderr, flush=True)
        rows.append([row.case, row.times, *map(str, (row.lost, row.twice_paid, row.disorder, row.repeated))])
    head = ["fault", "seconds", "lost", "paid twice", "out of order", "repeated ends"]
    print_table(head, rows, markdown=not args.plain)


if __name__ == "__main__":
    main(sys.argv[1:])
