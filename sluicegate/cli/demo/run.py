"""One run from start to ledger: start everything, publish, break things, wait, stop, count."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consumers.inspection.inspector import Inspector
from sluicegate.cli.demo.cleanup import delete_from_kafka, delete_from_redis
from sluicegate.cli.demo.crew import Crew
from sluicegate.cli.demo.inputs import DemoInput, demo_input
from sluicegate.cli.demo.naive import NaiveWorker
from sluicegate.cli.demo.plan import (
    CHAT,
    NOWHERE,
    STREAMS,
    Addresses,
    DemoNames,
    DemoOptions,
    write_settings,
)
from sluicegate.cli.demo.provider_records import ProviderRecords
from sluicegate.cli.demo.publishing import PublishingThread
from sluicegate.cli.demo.view import Scene, View
from sluicegate.errors import StackError
from sluicegate.events.models import Document, SupportChat
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.topic_check import create_missing
from sluicegate.local.ledger import Ledger, RunFacts, compute_ledger
from sluicegate.local.ledger.parsing import StreamRules
from sluicegate.local.ledger.reading import StreamPlaces, read_history
from sluicegate.local.ledger.stats import read_stats
from sluicegate.local.stack import LocalStack, StackPlan
from sluicegate.settings import RedisSettings, Settings
from sluicegate.topics import relay_group, stream_topics, topic_table

CUT_S = 10.0
_CUT_AT = 0.4  # of all answers
_KILL_AT = 0.2
_LOOK_EVERY_S = 0.5
_QUIET_LOOKS = 3
_STALLED_S = 180.0
_LATENCY_MS, _JITTER_MS = 300, 200


def run_demo(options: DemoOptions, view: View, folder: Path) -> Ledger:
    """Run the demo and return its ledger. `folder` takes configurations and logs."""
    demo = demo_input(options)
    own = options.kafka is None and options.redis is None
    names = DemoNames(prefix="" if own else f"demo-{secrets.token_hex(4)}.")
    plan = write_settings(folder / "names.toml", options, names, NOWHERE)
    stack_plan = StackPlan(
        topics={topic.name: topic.partitions for topic in topic_table(plan)},
        provider_options=(
            *("--requests-per-minute", f"{options.requests_per_minute:g}"),
            *("--tokens-per-minute", f"{options.tokens_per_minute:.0f}"),
            *("--latency-ms", str(_LATENCY_MS), "--jitter-ms", str(_JITTER_MS)),
            *("--seed", str(options.seed)),
        ),
        kafka=options.kafka,
        redis=options.redis,
        provider=options.provider,
    )
    with ExitStack() as stack:
        local = stack.enter_context(LocalStack(stack_plan, folder=folder))
        addresses = Addresses.of(local)
        settings = write_settings(folder / "demo.toml", options, names, addresses)
        if options.redis is not None:
            stack.callback(delete_from_redis, options.redis, names)
        if options.kafka is not None:
            stack.callback(delete_from_kafka, settings, view.note)
            create_missing(settings, KafkaAdmin.of(settings.kafka))
        records = ProviderRecords(local.provider)
        stack.callback(records.close)
        run = _Run(
            options=options,
            names=names,
            addresses=addresses,
            settings=settings,
            demo=demo,
            records=records,
            view=view,
            folder=folder,
        )
        return run.to_the_end()


@dataclass(kw_only=True)
class _Run:
    options: DemoOptions
    names: DemoNames
    addresses: Addresses
    settings: Settings
    demo: DemoInput
    records: ProviderRecords
    view: View
    folder: Path
    run_id: str = field(default_factory=lambda: secrets.token_hex(3))
    started_s: float = 0.0
    naive: NaiveWorker | None = None
    crew: Crew | None = None

    def to_the_end(self) -> Ledger:
        with self._processing():
            self.started_s = time.monotonic()
            self.view.note(
                f"publishing {len(self.demo.events)} events, of which {self.demo.answers} get an answer; "
                f"quota {self.options.requests_per_minute:g} requests and "
                f"{self.options.tokens_per_minute:g} tokens a minute; seed {self.options.seed}"
            )
            publishing = PublishingThread(self.demo, self.names, self.addresses.kafka, run=self.run_id)
            publishing.start()
            try:
                self._watch(publishing)
            finally:
                publishing.stop()
            if publishing.error is not None:
                raise publishing.error
        return self._ledger()

    @contextmanager
    def _processing(self) -> Iterator[None]:
        """Run the workers and the relay, or the recipe, as long as the context is open."""
        if self.options.naive:
            self.naive = NaiveWorker(
                self.settings, STREAMS, provider=self.names.provider, seed=self.options.seed
            )
            self.naive.start()
            try:
                yield
            finally:
                self.naive.stop()
            return
        self.crew = Crew(self.options, self.names, self.addresses, self.folder)
        self.view.note(f"starting {len(STREAMS) * self.options.workers} workers and a relay")
        try:
            self.crew.start_all()
            yield
        finally:
            self.view.note("stopping every worker and the relay with SIGTERM")
            for name, code in self.crew.stop_all().items():
                self.view.note(f"{name} ended with exit code {code}")

    def _watch(self, publishing: PublishingThread) -> None:
        """Show the run, break what is to be broken, and return when every event has ended or none moves."""
        cut_is_due, kill_is_due = self.options.cut, self.options.kill_worker
        quiet, moved_s, last_seen = 0, time.monotonic(), -1
        with Inspector(self.settings) as inspector:
            while quiet < _QUIET_LOOKS:
                self._check(publishing)
                scene = self._scene(inspector)
                self.view.show(scene)
                answered = sum(backlog.results + backlog.dead_letters for backlog in scene.backlogs)
                if kill_is_due and answered >= _KILL_AT * self.demo.answers:
                    kill_is_due = False
                    self._kill()
                if cut_is_due and answered >= _CUT_AT * self.demo.answers:
                    cut_is_due = False
                    self._cut()
                is_over = publishing.is_done and self._is_over(scene)
                quiet = quiet + 1 if is_over else 0
                seen = answered + sum(backlog.finished for backlog in scene.backlogs)
                if seen != last_seen or not publishing.is_done:
                    last_seen, moved_s = seen, time.monotonic()
                if time.monotonic() - moved_s > _STALLED_S:
                    self.view.note(
                        f"nothing has moved for {_STALLED_S:g} s: what still waits is counted as waiting"
                    )
                    return
                time.sleep(_LOOK_EVERY_S)

    def _is_over(self, scene: Scene) -> bool:
        if self.naive is not None:
            return self.naive.finished >= len(self.demo.events)
        return all(backlog.remaining == 0 for backlog in scene.backlogs)

    def _check(self, publishing: PublishingThread) -> None:
        if publishing.error is not None:
            raise publishing.error
        if self.crew is not None:
            self.crew.check()
        if self.naive is not None and self.naive.error is not None:
            raise StackError("the recipe's own consumer failed") from self.naive.error

    def _scene(self, inspector: Inspector) -> Scene:
        return Scene(
            at_s=time.monotonic() - self.started_s,
            now_ms=time.time_ns() // 1_000_000,
            backlogs=inspector.look(),
            provider=self.records.summary(),
            running=self._running(),
            is_naive=self.naive is not None,
        )

    def _running(self) -> dict[str, int]:
        return {} if self.crew is None else self.crew.running()

    def _cut(self) -> None:
        if self.records.cut(CUT_S):
            self.view.note(f"the quota is cut: for {CUT_S:g} s every call gets 429, and nobody was told")
        else:
            self.view.note("this provider cannot be told to cut its quota")

    def _kill(self) -> None:
        if self.crew is not None:
            killed, started = self.crew.kill_worker(CHAT)
            self.view.note(f"killed worker {killed} of {CHAT} with SIGKILL and started {started}")

    def _ledger(self) -> Ledger:
        places = [
            StreamPlaces(rules=rules, topics=stream_topics(self.settings, rules.name)) for rules in _RULES
        ]
        history = read_history(self.addresses.kafka, places, relay_group=relay_group(self.settings))
        stats = self.records.everything()
        burst_s = self.settings.limits[self.names.provider].burst_s
        facts = RunFacts(
            workers=self.options.workers,
            kafka=self.options.kafka or "embedded",
            redis=RedisSettings(url=self.options.redis).public_url if self.options.redis else "embedded",
            seed=self.options.seed,
        )
        return compute_ledger(history, None if stats is None else read_stats(stats, burst_s=burst_s), facts)


_RULES = (
    StreamRules(name=CHAT, id_field=SupportChat.id_field, is_ordered=True, silent_speaker="agent"),
    StreamRules(name=STREAMS[1], id_field=Document.id_field, is_ordered=False),
)
