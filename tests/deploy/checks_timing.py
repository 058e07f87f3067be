"""Checks of times that must fit each other: how a process stops, how it is watched, how it is exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sluicegate.cli.worker as worker_command
from sluicegate.settings import Settings
from sluicegate.telemetry.pulse import STUCK_S
from streams.runtime import runner
from tests.deploy.manifests import command, container, pod_spec, processes, settings_of, title
from tests.deploy.rendering import Object

# A relay finishes what it publishes and leaves its group, both bounded by the Kafka client.
RELAY_STOP_S = 30.0
# From the container's start to the group's door: the interpreter, Kafka's and Redis's first answers.
_START_S = 30.0
_NOTICED_WITHIN_S = 120.0


def worker_stop_s(settings: Settings, stream: str) -> float:
    """Return how long a worker may take from SIGTERM to its end, step by step as the runner does it."""
    longest_call_s = max(settings.providers[way.provider].timeout_s for way in settings.routes(stream))
    return (
        settings.worker.drain_s
        + worker_command._REVOKE_TIMEOUT_S  # publishes that are under way when the drain ends
        + runner._STOP_TIMEOUT_S  # commit and leave the group
        + longest_call_s  # calls on the wire, whose answers are kept
        + runner._STOP_TIMEOUT_S  # services
        + worker_command._CLOSE_TIMEOUT_S
    )


def stopping(objects: Sequence[Object]) -> Iterator[str]:
    """SIGKILL comes after the last step of a stop."""
    for workload in processes(objects):
        given_s = pod_spec(workload)["terminationGracePeriodSeconds"]
        needed_s = RELAY_STOP_S
        if command(workload) == "worker":
            needed_s = worker_stop_s(settings_of(objects, workload), container(workload)["args"][1])
        if given_s < needed_s:
            yield f"{title(workload)} gets {given_s} s to stop and may need {needed_s:g} s"


def watching(objects: Sequence[Object]) -> Iterator[str]:
    """The kubelet is slower to kill than the process to call itself stuck, and not much slower."""
    for workload in processes(objects):
        own = container(workload)
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = own.get(name, {})
            if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10):
                yield f"{title(workload)}: {name} asks again before it gave up"
        killed_s = _patience_s(own.get("livenessProbe", {}))
        if not STUCK_S < killed_s <= _NOTICED_WITHIN_S:
            yield f"{title(workload)}: a silent process is killed after {killed_s} s"
        if _patience_s(own.get("startupProbe", {})) < 2 * _START_S:
            yield f"{title(workload)}: a slow start is taken for none"


def exchanging(objects: Sequence[Object]) -> Iterator[str]:
    """An update waits until the group has settled, and is not given up while a pod drains."""
    for workload in processes(objects):
        spec, session_s = workload["spec"], settings_of(objects, workload).kafka.session_timeout_s
        if workload["kind"] == "Deployment":
            if spec.get("minReadySeconds", 0) < session_s:
                yield f"{title(workload)}: the next pod goes before the group has settled"
            longest_s = (
                pod_spec(workload)["terminationGracePeriodSeconds"]
                + _patience_s(container(workload)["startupProbe"])
                + spec.get("minReadySeconds", 0)
            )
            if spec.get("progressDeadlineSeconds", 600) <= longest_s:
                yield f"{title(workload)}: an update is called failed while a pod still drains"
            continue
        settings = settings_of(objects, workload)
        away_s = (
            max(
                settings.providers[way.provider].timeout_s
                for way in settings.routes(container(workload)["args"][1])
            )
            + _START_S
        )
        if session_s < away_s:
            yield f"{title(workload)} is away for {away_s:g} s, its place is kept for {session_s:g} s"


def _patience_s(probe: dict[str, int]) -> int:
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


CHECKS = (stopping, watching, exchanging)
