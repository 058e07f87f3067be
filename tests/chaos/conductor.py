"""One run: processes at work, faults from a seed, a drain, and the verdict."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from tests.chaos.checker import judge, waiting
from tests.chaos.faults import Fault, Lane, draw_schedule
from tests.chaos.injectors import Injection
from tests.chaos.load import Load
from tests.chaos.reading import CommitReader, Sampler
from tests.chaos.stand import Broker, Stand, standing
from tests.chaos.verdict import Verdict
from tests.waiting import wait_until_sync

LOAD_S = 36.0
DRAIN_S = 120.0
_CREW = (
    *(("support-chat-1", "support-chat"), ("support-chat-2", "support-chat")),
    *(("documents-1", "documents"), ("relay-1", None)),
)
_FIRST_ENDS_TIMEOUT_S = 60.0
_LOOKED_AT_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one seed came to."""

    seed: int
    schedule: tuple[Fault, ...]
    verdict: Verdict
    troubles: tuple[str, ...]
    said_dead: tuple[str, ...]
    seconds: float
    drained_s: float
    largest_log_bytes: int
    folder: Path

    @property
    def is_good(self) -> bool:
        """Whether every promise held, and the machinery of the run did its part."""
        return not self.verdict.failures and not self.troubles


def run_seed(seed: int, broker: Broker, folder: Path, schedule: Sequence[Fault] | None = None) -> Run:
    """Do one run. `schedule` takes the place of the seed's own faults; the load stays the seed's."""
    started_s = time.monotonic()
    faults = tuple(schedule) if schedule is not None else draw_schedule(seed)
    with ExitStack() as stack:
        stand = stack.enter_context(standing(broker, folder, seed))
        commits = stand.commit_reader()
        stack.callback(commits.close)
        watch = threading.Thread(target=stand.crew.watch, name="watch")
        load = Load(stand, seed, folder)
        load.publish_backlog()
        with Sampler(commits) as sampler:
            for name, stream in _CREW:
                stand.crew.start(name, stream)
            watch.start()
            stack.callback(watch.join)
            stack.callback(stand.crew.close)
            _wait_for_first_ends(stand)
            troubles = _storm(stand, load, faults)
            calm_s = time.monotonic()
            _drain(stand, commits)
            drained_s = time.monotonic() - calm_s
            stand.crew.look()
            stand.crew.close()
            watch.join()
            stand.crew.dismiss_all()
        history = stand.history(commits.read(), sampler.samples)
        said_dead = tuple(stand.crew.deaths_by_liveness)
        logs = [process.log.stat().st_size for process in stand.deployment.processes]
    return Run(
        seed=seed,
        schedule=faults,
        verdict=judge(history),
        troubles=tuple(troubles),
        said_dead=said_dead,
        seconds=time.monotonic() - started_s,
        drained_s=drained_s,
        largest_log_bytes=max(logs),
        folder=folder,
    )


def _wait_for_first_ends(stand: Stand) -> None:
    """Return when work flows: a fault before that would strike nobody."""
    deployment = stand.deployment
    wait_until_sync(
        lambda: len(deployment.read(deployment.results("support-chat"))) >= 5,
        timeout_s=_FIRST_ENDS_TIMEOUT_S,
        what="first results",
    )


def _storm(stand: Stand, load: Load, faults: Sequence[Fault]) -> list[str]:
    """Publish and break things until both are over; return what went wrong with the breaking itself."""
    lanes: defaultdict[Lane, list[Fault]] = defaultdict(list)
    for fault in faults:
        lanes[fault.lane].append(fault)
    troubles: list[str] = []
    start_s = time.monotonic()

    def strike(lane: Sequence[Fault]) -> None:
        for fault in lane:
            time.sleep(max(0.0, start_s + fault.at_s - time.monotonic()))
            try:
                Injection(stand, load, fault).run()
            except Exception as error:  # noqa: BLE001 - a fault that could not be done must fail the run
                troubles.append(f"{fault}: {error!r}")

    load.start()
    threads = [threading.Thread(target=strike, args=[lane], name=name) for name, lane in lanes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(max(0.0, start_s + LOAD_S - time.monotonic()))
    load.finish()
    stand.clear_provider()
    return troubles


def _drain(stand: Stand, commits: CommitReader) -> None:
    """Return when every event has ended, or at the deadline: the checker says what is left."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        try:
            if waiting(stand.history(commits.read())) == 0:
                return
        except (KafkaException, TimeoutError):
            continue  # a broker that was just restarted
        time.sleep(_LOOKED_AT_EVERY_S)
