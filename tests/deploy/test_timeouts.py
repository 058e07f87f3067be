"""The chain of times, from the settings to SIGKILL: what docs say of it, and what Kafka's client gets."""

from __future__ import annotations

import re
from typing import cast

import pytest
import yaml

from sluicegate.settings import load_settings
from sluicegate.telemetry.pulse import STUCK_S
from streams.runtime.app import AppPlan, build_app
from streams.runtime.consumer import Gate
from streams.runtime.liveness import Vitals
from tests.deploy.checks_timing import worker_stop_s
from tests.deploy.manifests import container, pod_spec, settings_of, workers
from tests.deploy.rendering import ROOT, Combination, render


def documented(words: str) -> list[int]:
    """The numbers in the table's row that begins with these words."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {words}"))
    return [int(number) for number in re.findall(r"\d+", row)]


def test_the_documented_times_are_those_of_settings_and_manifests() -> None:
    """An operator changes a time by this table, so it must be the truth."""
    objects = render(Combination(overlay="prod", components=()))
    workload = workers(objects)["documents"]
    own, settings = container(workload), settings_of(objects, workload)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    *steps, total = documented("a worker's stop")
    assert sum(steps) == total == worker_stop_s(settings, "documents")
    assert steps[0] == settings.worker.drain_s
    assert documented("≤ `terminationGracePeriodSeconds`") == [
        pod_spec(workload)["terminationGracePeriodSeconds"],
        int(compose["services"]["documents"]["stop_grace_period"].removesuffix("m")) * 60,
    ]
    assert documented("≤ `progressDeadlineSeconds`") == [workload["spec"]["progressDeadlineSeconds"]]
    live, start = own["livenessProbe"], own["startupProbe"]
    assert documented("a worker calls itself stuck")[0] == STUCK_S
    assert documented("a worker calls itself stuck")[1] == live["periodSeconds"] * live["failureThreshold"]
    assert documented("a start may take") == [start["periodSeconds"] * start["failureThreshold"]]
    assert documented("`session_timeout_s`") == [
        settings.kafka.session_timeout_s,
        workload["spec"]["minReadySeconds"],
    ]
    lasting = render(Combination(overlay="prod", components=("static-membership",)))
    session_s = settings_of(lasting, workers(lasting)["documents"]).kafka.session_timeout_s
    assert documented("the same with static membership")[0] == session_s


@pytest.mark.parametrize("session_timeout_s", [6.0, 90.0])
def test_a_request_may_take_as_long_as_a_member_may_be_silent(session_timeout_s: float) -> None:
    """A join that is answered late would be given up by the client while the group still waits for it."""
    settings = load_settings(None, {})
    plan = AppPlan(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        group="g",
        input_topic="in",
        due_topic="due",
        session_timeout_s=session_timeout_s,
        rebalance_timeout_s=30.0,
        publish_timeout_s=10.0,
        max_request_bytes=1_000_000,
    )
    conf = build_app(plan, cast(Gate, None), Vitals()).conf
    assert conf.broker_session_timeout <= conf.broker_request_timeout
    assert conf.broker_heartbeat_interval * 3 <= conf.broker_session_timeout
