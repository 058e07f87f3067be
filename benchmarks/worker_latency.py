"""How long a lone event takes beyond the provider's own time: from publishing to reading its result.

Run with `python -m benchmarks.worker_latency` in the repository's root: 2 minutes, on a real Kafka (the one
at `--kafka` or SLUICEGATE_TEST_KAFKA, else Kafka's own jars). Events come one at a time, 50 to 100 ms apart,
each in a conversation of its own, and each makes one call of 30 ms, so that the one before has nearly always
ended. The clock starts before the event is handed to a producer without linger and stops when a reader of
the results has the result; what the provider took of it, by the simulator's own clock, is subtracted. The
first events are not counted: they open connections.

`before the call` is from publishing to the call's arrival at the provider, `after it` from the answer's last
byte to the reader. The bare loop and stock Faust on the same events, both without linger, show what Kafka
and the HTTP client take; a worker's results linger for 5 ms.

It misleads where the machine is busy: a lone event waits for whatever else runs, and its p99 is that of the
machine's scheduler. Publisher, reader and simulator are Python processes on the same cores; what they take
is in all rows. Kafka has one broker here: replication to others would add to every row.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from benchmarks.duel.table import print_table
from benchmarks.load import TEXT, EventPublisher, Load, check_results
from benchmarks.relay_figures import quantile
from benchmarks.relay_world import arguments, load_average, real_kafka
from benchmarks.tailing import TopicTail
from benchmarks.worker_world import CALL, Measured, MeasuredStream, WorkerWorld, end_in_order_when_told
from sluicegate.kafka.reading import record_of

_PROVIDER_MS = 30
_APART_S = (0.05, 0.1)
_NOT_COUNTED = 20
_RESULTS_TIMEOUT_S = 20.0
_JOIN_TIMEOUT_S = 60.0
_OUTPUTS = {"stock Faust": "faust", "bare loop": "bare"}
_HEAD = [
    *("process", "events", "beyond the provider: p50 ms", "p90 ms", "p99 ms", "most ms"),
    *("before the call: p50 ms", "p99 ms", "after it: p50 ms", "p99 ms"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lone:
    """One event's moments, in Unix seconds, and how the provider's part lay in them."""

    published_at: float
    received_at: float
    completed_at: float
    read_at: float

    @property
    def beyond_ms(self) -> float:
        """All of it less the provider's own time."""
        return 1000 * (self.read_at - self.published_at - (self.completed_at - self.received_at))

    @property
    def before_ms(self) -> float:
        """Until the provider had the call."""
        return 1000 * (self.received_at - self.published_at)

    @property
    def after_ms(self) -> float:
        """Since the provider had answered."""
        return 1000 * (self.read_at - self.completed_at)


def main(argv: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = arguments(__doc__, "worker_latency")
    parser.add_argument("--events", type=int, default=320, help=f"the first {_NOT_COUNTED} are not counted")
    parser.add_argument("--worker-only", action="store_true", help="leave out the peers")
    args = parser.parse_args(argv)
    if args.events <= _NOT_COUNTED:
        parser.error(f"--events must be above {_NOT_COUNTED}")
    end_in_order_when_told()
    load = load_average()
    rows: list[list[str]] = []
    with ExitStack() as stack:
        kafka = real_kafka(stack, args.kafka)
        world = stack.enter_context(WorkerWorld(kafka=kafka, latency_ms=_PROVIDER_MS))
        for process in ("worker",) if args.worker_only else ("worker", *_OUTPUTS):
            lone = _measure(world, process, args.events, random.Random(args.seed))
            rows.append(_row(process, lone))
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print()
    print_table(_HEAD, rows, markdown=args.markdown)
    print(f"\n{load} before it began", flush=True)


def _row(process: str, lone: Sequence[Lone]) -> list[str]:
    beyond = [each.beyond_ms for each in lone]
    before, after = [each.before_ms for each in lone], [each.after_ms for each in lone]
    figures = [
        *(quantile(beyond, share) for share in (0.5, 0.9, 0.99, 1.0)),
        *(quantile(before, 0.5), quantile(before, 0.99), quantile(after, 0.5), quantile(after, 0.99)),
    ]
    return [process, str(len(lone)), *(f"{figure:.1f}" for figure in figures)]


def _measure(world: WorkerWorld, process: str, events: int, chance: random.Random) -> Sequence[Lone]:
    name = process.lower().replace(" ", "-")
    load = Load(events=events, keys=events)
    calls_before = world.calls_made()
    with world.stream(Measured(name=f"lone-{name}", handler=CALL)) as stream:
        output = stream.results if process == "worker" else stream.output(_OUTPUTS[process])
        with (
            ResultReader(world.kafka, output, stream.measured.partitions) as reader,
            _running(stream, process),
        ):
            published = _publish_one_by_one(stream, load, reader, chance)
            reader.wait_for(events, _RESULTS_TIMEOUT_S)
        check_results(world.kafka, output, stream.measured.partitions, load)
    calls = {str(call["identity"]): call for call in world.provider_calls(calls_before)}
    lone = [_lone(published[key], found, calls) for key, found in reader.found.items()]
    return sorted(lone, key=lambda each: each.published_at)[_NOT_COUNTED:]


def _lone(published_at: float, found: Found, calls: Mapping[str, Mapping[str, Any]]) -> Lone:
    call = calls[found.identity]
    return Lone(
        published_at=published_at,
        received_at=call["received_at"],
        completed_at=call["completed_at"],
        read_at=found.read_at,
    )


@contextmanager
def _running(stream: MeasuredStream, process: str) -> Iterator[None]:
    url = ("--url", stream.world.provider_url)
    match process:
        case "worker":
            with stream.workers():
                yield
        case "stock Faust":
            with stream.faust_recipe(stream.measured.running, *url):
                yield
        case _:
            with stream.bare_loop(*url, "--linger-ms", "0"):
                yield


def _publish_one_by_one(
    stream: MeasuredStream, load: Load, reader: ResultReader, chance: random.Random
) -> Mapping[str, float]:
    """Publish the events at moments drawn beforehand, and return when by their conversation."""
    publisher = EventPublisher(stream.world.kafka, linger_ms=0)
    published: dict[str, float] = {}
    at = time.monotonic()
    for number in range(load.events):
        event = load.event(number)
        published[event[0]] = time.time()
        publisher.publish(stream.input, event, TEXT)
        if number == 0:
            # A peer is ready when its first result is there; only it knows when it has joined its group.
            publisher.flush()
            reader.wait_for(1, _JOIN_TIMEOUT_S)
            at = time.monotonic()
        at += chance.uniform(*_APART_S)
        time.sleep(max(0.0, at - time.monotonic()))
    publisher.flush()
    return published


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A result: when it was read, and the identity under which its call was made."""

    identity: str
    read_at: float


class ResultReader(TopicTail):
    """Notes when a reader had each result first."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        super().__init__(kafka, topic, partitions, self._answered)
        self.found: dict[str, Found] = {}

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Return once there are so many results. Raises AssertionError when the time is over before."""
        deadline = time.monotonic() + timeout_s
        while len(self.found) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(self.found)} of {count} results in {timeout_s:g} s: no figure")
            time.sleep(0.005)

    def _answered(self, message: Message, read_at: float) -> None:
        key = (message.key() or b"").decode()
        self.found.setdefault(key, Found(identity=_identity(message) or key, read_at=read_at))


def _identity(message: Message) -> str | None:
    """Return the result's `ce_id`, which names the calls of a worker; those of peers carry the key."""
    value = dict(record_of(message).headers).get("ce_id")
    return value.decode() if value is not None else None


if __name__ == "__main__":
    main(sys.argv[1:])
