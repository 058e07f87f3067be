"""The other service of the story: it publishes the events, in a thread of its own."""

from __future__ import annotations

import threading

from sluicegate.cli.demo.inputs import DemoInput, publish_events
from sluicegate.cli.demo.plan import DemoNames
from sluicegate.kafka.publisher import ConfluentPublisher


class PublishingThread:
    """Publishes all events at an even pace. `error` is what stopped it, if something did."""

    def __init__(self, demo: DemoInput, names: DemoNames, bootstrap_servers: str, *, run: str) -> None:
        self._demo = demo
        self._names = names
        self._bootstrap_servers = bootstrap_servers
        self._run_id = run
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishing")
        self.error: Exception | None = None

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether every event is published, or an error ended it."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Publish no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with ConfluentPublisher(self._bootstrap_servers, client_id="sluicegate-demo") as publisher:
                publish_events(self._demo, self._names, publisher, run=self._run_id, wait=self._stopping.wait)
        except Exception as exc:  # noqa: BLE001 - the thread's one loop: the run raises what ended it
            self.error = exc
