"""Plans a replay from Kafka and the state, runs it, and goes on with one that was interrupted.

A run sends a batch, waits until the broker has confirmed it, and only then commits its place: killed at any
point, the next run sends at most that batch again, as the same copies, which Take recognises. Nothing is
ever deleted or committed in anybody else's group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from consumers.replay.audit import Ended, History, Started, audit_record, read_audit
from consumers.replay.candidates import CandidateReader
from consumers.replay.filters import Matcher
from consumers.replay.places import ReplayReader, tally_of
from consumers.replay.plan import Command, Plan, Planner, Snapshot, replay_id
from consumers.replay.sending import Ask, Progress, Sender, SendPorts, place_of
from sluicegate.delivery.done_map import DoneMap, decode
from sluicegate.errors import ConfigurationError
from sluicegate.kafka.admin import Bounds, KafkaAdmin, Partition
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.security import librdkafka_security
from sluicegate.retry.headers import ReplaySource
from sluicegate.settings import Settings
from sluicegate.topics import audit_topic, onlookers_group, relay_group, stream_topics

_CLIENT_ID = "sluicegate-replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPorts:
    """What a replay needs of the world. `ask` returns how events stand, in their order, and may raise
    StateUnavailableError; `who` started it; `now_ms` is the wall clock."""

    admin: KafkaAdmin
    ask: Ask
    who: str
    now_ms: Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, and whether it goes on with what an earlier run began."""

    plan: Plan
    resumes: Started | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Released:
    """Offsets of a tier's partition that are not parked any more: all of `below`, and those named."""

    below: int = 0
    above: DoneMap | frozenset[int] = frozenset()


class Replay:
    """Replays of one stream from one source."""

    def __init__(
        self, settings: Settings, command: Command, candidates: CandidateReader, ports: ReplayPorts
    ) -> None:
        self._settings = settings
        self._command = command
        self._candidates = candidates
        self._ports = ports
        self._topics = stream_topics(settings, command.stream)
        self._audit = audit_topic(settings)

    def plan(self, *, afresh: bool = False, name: str | None = None) -> Planned:
        """Read everything and decide; an unfinished replay of the same command is gone on with.

        `afresh` starts another one all the same; `name` goes on with the named one, whose own filters count.
        Raises ConfigurationError when that cannot be, BrokerError, StateUnavailableError.
        """
        counts = self._ports.admin.partition_counts()
        if self._audit not in counts:
            raise _no_topic(self._audit)
        resumes = None if afresh else self._to_resume(self._history(counts), name)
        bounds = self._ports.admin.bounds(self._places(counts))
        if resumes is not None:
            self._command, snapshot = resumes.command, resumes.snapshot
            handled, tally = self._handled(resumes.replay_id, snapshot)
            return Planned(
                plan=self._read(resumes.replay_id, snapshot, bounds, handled, tally), resumes=resumes
            )
        snapshot = self._snapshot(bounds)
        plan = self._read(replay_id(self._command, snapshot.bounds), snapshot, bounds, {}, Counter())
        return Planned(plan=plan, resumes=None)

    def run(self, planned: Planned, *, rate_per_s: float, progress: Callable[[int], None]) -> Counter[str]:
        """Send what was planned at this rate and return what came of the whole replay, by SENT and LeftOut.

        A plan that sends nothing leaves no trace. `progress` hears how many more were sent. Raises
        PublishError when the broker does not take a copy, BrokerError and StateUnavailableError: then the
        same command goes on where this run stopped.
        """
        plan = planned.plan
        if planned.resumes is None and not plan.sends:
            return Counter({why.value: count for why, count in plan.left_out.items()})
        group, kafka = self._group(plan.replay_id), self._settings.kafka
        with (
            ConfluentPublisher(
                kafka.bootstrap_servers, client_id=_CLIENT_ID, security=librdkafka_security(kafka)
            ) as publisher,
            self._reader(group) as reader,
        ):
            places = self._beginning(planned)
            if planned.resumes is None:
                # An earlier run of the same name, started afresh, may have left its places there.
                reader.commit({place: (each.next_offset, each.tally) for place, each in places.items()})
            self._tell(publisher, self._started(planned, rate_per_s))
            sender = Sender(
                plan,
                candidates=self._candidates,
                due_topic=self._topics.due,
                progress=places,
                rate_per_s=rate_per_s,
                ports=SendPorts(
                    publisher=publisher,
                    ask=self._ports.ask,
                    commit=reader.commit,
                    sent=progress,
                    now_ms=self._ports.now_ms,
                ),
            )
            left = {
                place: _from(places[place].next_offset, bound)
                for place, bound in plan.snapshot.bounds.items()
            }
            for batch in reader.batches(left):
                sender.handle(batch)
            tally: Counter[str] = sum((each.tally for each in places.values()), Counter())
            self._tell(publisher, self._ended(plan, tally))
        return tally

    # --- reading --------------------------------------------------------------------------------------

    def _read(
        self,
        name: str,
        snapshot: Snapshot,
        bounds: Mapping[Partition, Bounds],
        handled: Mapping[Partition, int],
        done_before: Counter[str],
    ) -> Plan:
        planner = Planner(self._command, snapshot, name, handled=handled, done_before=done_before)
        released = self._released(tuple(bounds))
        # From what the snapshot began with to the end of today: what died again since must be known.
        ranges = {
            place: _from(max(snapshot.bounds[place].low, released[place].below), bound)
            for place, bound in bounds.items()
            if place in snapshot.bounds
        }
        with self._reader(self._group(name)) as reader:
            for batch in reader.batches(ranges):
                now_ms = self._ports.now_ms()
                kept = [r for r in batch if r.offset not in released[place_of(r)].above]
                asked = planner.note(self._candidates.read(record, now_ms) for record in kept)
                if asked:
                    planner.judge(asked, self._ports.ask([each.ref for each in asked]))
        return planner.plan()

    def _snapshot(self, bounds: Mapping[Partition, Bounds]) -> Snapshot:
        now_ms = self._ports.now_ms()
        matcher = Matcher.at(self._command.filters, now_ms)
        return Snapshot(at_ms=now_ms, bounds=bounds, since_ms=matcher.since_ms, until_ms=matcher.until_ms)

    def _released(self, places: Sequence[Partition]) -> Mapping[Partition, _Released]:
        """Return what the relay has handed on: a tier keeps such records, though they are not parked."""
        if self._command.source is ReplaySource.DLQ:
            return dict.fromkeys(places, _Released())
        found = self._ports.admin.committed(relay_group(self._settings), places)
        return {
            place: (
                _Released()
                if each is None
                else _Released(below=each.offset, above=decode(each.offset, each.metadata).done)
            )
            for place, each in found.items()
        }

    def _places(self, counts: Mapping[str, int]) -> list[Partition]:
        match self._command.source:
            case ReplaySource.DLQ:
                names: tuple[str, ...] = (self._topics.dlq,)
            case ReplaySource.RETRY:
                names = self._topics.tiers
        if missing := [name for name in (*names, self._topics.due) if name not in counts]:
            raise _no_topic(missing[0])
        return [Partition(topic=name, number=number) for name in names for number in range(counts[name])]

    def _history(self, counts: Mapping[str, int]) -> History:
        places = [Partition(topic=self._audit, number=number) for number in range(counts[self._audit])]
        bounds = self._ports.admin.bounds(places)
        with self._reader(onlookers_group(self._settings)) as reader:
            batches = reader.batches(bounds)
            return History.of(read_audit(record) for batch in batches for record in batch)

    def _to_resume(self, history: History, name: str | None) -> Started | None:
        if name is None:
            return history.unfinished(self._command)
        found = history.named(name)
        if found is None:
            raise ConfigurationError(f"there is no replay {name} in {self._audit}")
        if (found.command.source, found.command.stream) != (self._command.source, self._command.stream):
            raise ConfigurationError(
                f"replay {name} is one of {found.command.source} {found.command.stream}: name these two"
            )
        if name in history.ended:
            raise ConfigurationError(f"replay {name} has ended: without --id a new one is planned")
        return found

    def _handled(self, name: str, snapshot: Snapshot) -> tuple[Mapping[Partition, int], Counter[str]]:
        committed = self._ports.admin.committed(self._group(name), tuple(snapshot.bounds))
        found = {place: each for place, each in committed.items() if each is not None}
        tally: Counter[str] = sum((tally_of(each) for each in found.values()), Counter())
        return {place: each.offset for place, each in found.items()}, tally

    def _reader(self, group: str) -> ReplayReader:
        return ReplayReader(self._settings.kafka, group=group)

    # --- writing --------------------------------------------------------------------------------------

    def _beginning(self, planned: Planned) -> dict[Partition, Progress]:
        """Return where each partition stands: at its start, or where the run before this one came to."""
        plan = planned.plan
        places = {place: Progress(next_offset=bound.low) for place, bound in plan.snapshot.bounds.items()}
        if planned.resumes is not None:
            group = self._group(plan.replay_id)
            for place, found in self._ports.admin.committed(group, tuple(places)).items():
                if found is not None:
                    places[place] = Progress(next_offset=found.offset, tally=tally_of(found))
        return places

    def _started(self, planned: Planned, rate_per_s: float) -> Started:
        plan = planned.plan
        return Started(
            replay_id=plan.replay_id,
            command=plan.command,
            snapshot=plan.snapshot,
            who=self._ports.who,
            at_ms=self._ports.now_ms(),
            is_resumed=planned.resumes is not None,
            rate_per_s=rate_per_s,
            by_reason=plan.by_reason,
        )

    def _ended(self, plan: Plan, tally: Counter[str]) -> Ended:
        return Ended(replay_id=plan.replay_id, who=self._ports.who, at_ms=self._ports.now_ms(), tally=tally)

    def _tell(self, publisher: ConfluentPublisher, entry: Started | Ended) -> None:
        (error,) = publisher.publish_all([audit_record(self._audit, entry)])
        if error is not None:
            raise error

    def _group(self, name: str) -> str:
        # Left behind, the broker drops it when it has been idle for offsets.retention.minutes. Deleting it
        # would be tidier, but a broker that cannot (the embedded one) makes librdkafka 2.16 abort.
        return f"{self._topics.group}.replay.{name}"


def _no_topic(name: str) -> ConfigurationError:
    return ConfigurationError(f"there is no topic {name}: `sluicegate topics --create` makes it")


def _from(offset: int, bound: Bounds) -> Bounds:
    """Return what a partition holds from this offset on."""
    return replace(bound, low=min(max(bound.low, offset), bound.high))
