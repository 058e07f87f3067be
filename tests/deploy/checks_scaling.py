"""Checks of the ScaledObjects: what KEDA would read is ours, and the formula means what it says."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sluicegate.settings import Settings
from sluicegate.telemetry.metrics import Metrics
from sluicegate.topics import stream_topics
from tests.deploy.manifests import named, of_kind, settings_of, title, workers
from tests.deploy.rendering import Object

# KEDA takes any key in a trigger's metadata and ignores the ones that it does not know.
TRIGGER_KEYS: Mapping[str, frozenset[str]] = {
    "kafka": frozenset(
        {
            "bootstrapServers",
            "consumerGroup",
            "topic",
            "lagThreshold",
            "activationLagThreshold",
            "offsetResetPolicy",
            "allowIdleConsumers",
            "scaleToZeroOnInvalidOffset",
            "limitToPartitionsWithLag",
            "partitionLimitation",
            "version",
            "sasl",
            "tls",
            "unsafeSsl",
        }
    ),
    "prometheus": frozenset(
        {
            "serverAddress",
            "query",
            "threshold",
            "activationThreshold",
            "namespace",
            "ignoreNullValues",
            "authModes",
            "customHeaders",
            "unsafeSsl",
            "timeout",
        }
    ),
}
_FUNCTIONS = {"min": min, "max": max, "ceil": math.ceil}
_SERIES = re.compile(r"(sluicegate_\w+)\{([^}]*)\}")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# What Prometheus itself puts on every series that the PodMonitor finds.
_FOUND_LABELS = {"namespace"}


def workers_wanted(scaled: Object, **values: float) -> float:
    """Compute the formula with these values of its triggers."""
    formula = scaled["spec"]["advanced"]["scalingModifiers"]["formula"]
    # Text of our own repository, which is arithmetic in both languages.
    return float(eval(formula, {"__builtins__": {}}, {**_FUNCTIONS, **values}))


def scaled_objects(objects: Sequence[Object]) -> Iterator[str]:
    """Every ScaledObject scales the workers of one stream by the backlog and the limits of that stream."""
    scaled = of_kind(objects, "ScaledObject")
    if scaled and len(scaled) != len(workers(objects)):
        yield "some workers scale and others do not"
    for thing in scaled:
        yield from _one(objects, thing)


def _one(objects: Sequence[Object], scaled: Object) -> Iterator[str]:
    spec = scaled["spec"]
    reference = spec["scaleTargetRef"]
    target = named(objects, reference["kind"], reference["name"])
    streams = [stream for stream, workload in workers(objects).items() if workload is target]
    if target is None or len(streams) != 1:
        yield f"{title(scaled)}: there is no {reference['kind']}/{reference['name']} of a stream"
        return
    if "replicas" in target["spec"]:
        yield f"{title(target)}: every apply would undo what KEDA scaled; remove replicas"
    settings = settings_of(objects, target)
    if spec["maxReplicaCount"] > settings.topics.partitions:
        yield f"{title(scaled)}: more workers than partitions"
    if spec.get("fallback", {}).get("behavior") != "currentReplicas":
        yield f"{title(scaled)}: without figures the number of workers must stay"
    yield from (f"{title(scaled)}: {fault}" for fault in _formula(scaled, settings, streams[0]))
    for trigger in spec["triggers"]:
        for fault in _trigger(trigger, settings, streams[0], scaled["metadata"]["namespace"]):
            yield f"{title(scaled)}: {trigger.get('name')}: {fault}"


def _formula(scaled: Object, settings: Settings, stream: str) -> Iterator[str]:
    modifiers = scaled["spec"]["advanced"]["scalingModifiers"]
    if (modifiers.get("metricType"), modifiers.get("target")) != ("AverageValue", "1"):
        yield "the formula's result must be the number of workers"
    names = {node.id for node in ast.walk(ast.parse(modifiers["formula"])) if isinstance(node, ast.Name)}
    triggers = [trigger.get("name", "") for trigger in scaled["spec"]["triggers"]]
    if sorted(names - set(_FUNCTIONS)) != sorted(triggers):
        yield f"the formula is about {sorted(names)}, the triggers about {sorted(triggers)}"
        return
    slots = settings.stream(stream).max_running
    plenty = 1e6
    for lag, calls, wanted in (
        (0, plenty, 0),
        (slots + 1, plenty, 2),
        (5 * slots, plenty, 5),
        (plenty, 0, 2),
        (plenty, 3 * slots, 3),
        (5 * slots, 3 * slots, 3),
    ):
        found = workers_wanted(scaled, lag_input=lag, lag_due=0, calls=calls)
        if found != wanted or found != workers_wanted(scaled, lag_input=0, lag_due=lag, calls=calls):
            yield f"{lag:g} events and room for {calls:g} calls ask for {wanted} workers, not {found:g}"


def _trigger(trigger: Mapping[str, Any], settings: Settings, stream: str, namespace: str) -> Iterator[str]:
    known, metadata = TRIGGER_KEYS.get(trigger["type"], frozenset()), trigger["metadata"]
    yield from (f"KEDA knows no {key}, or it is of no use here" for key in sorted(set(metadata) - known))
    yield from (f"{key} must be text" for key, value in metadata.items() if not isinstance(value, str))
    if not str(trigger.get("name", "")).isidentifier():
        yield "a formula needs names that are identifiers"
    match trigger["type"]:
        case "kafka":
            yield from _kafka(trigger, settings, stream)
        case "prometheus":
            if metadata.get("ignoreNullValues") != "false":
                yield "no figure must be an error, or a lost Prometheus scales down"
            yield from query_faults(metadata["query"], settings.routes(stream)[0].scope, namespace)


def _kafka(trigger: Mapping[str, Any], settings: Settings, stream: str) -> Iterator[str]:
    own, metadata = stream_topics(settings, stream), trigger["metadata"]
    topics = {"lag_input": own.input, "lag_due": own.due}
    wanted = {
        "bootstrapServers": settings.kafka.bootstrap_servers,
        "consumerGroup": own.group,
        "topic": topics.get(str(trigger.get("name")), "a topic of its own"),
        "lagThreshold": str(settings.stream(stream).max_running),
        "offsetResetPolicy": "earliest",  # as the worker's consumer
    }
    for key, value in wanted.items():
        if metadata.get(key) not in (value, _outside(value)):
            yield f"{key} is {metadata.get(key)}, the worker's is {value}"
    if int(metadata.get("activationLagThreshold", 0)) < settings.topics.partitions:
        yield "markers of transactions would count as work: activationLagThreshold below the partitions"


def _outside(value: str) -> str:
    """KEDA lives in another namespace and may name a service in full."""
    return value.replace(".svc:", ".svc.cluster.local:")


def query_faults(query: str, scope: str, namespace: str) -> Iterator[str]:
    """Name the series that no process exports, and labels with values that they never have."""
    exported, found = exported_series(), _SERIES.findall(query)
    if not found or len(found) != query.count("sluicegate_"):
        yield "every series must say which one is meant"
    for name, selector in found:
        labels = dict(_LABEL.findall(selector))
        if name not in exported:
            yield f"nothing exports {name}"
        elif unknown := set(labels) - exported[name] - _FOUND_LABELS:
            yield f"{name} has no label {', '.join(sorted(unknown))}"
        if labels.get("scope") != scope:
            yield f"{name} is of the scope {labels.get('scope')}, the stream's is {scope}"
        if labels.get("namespace") != namespace:
            yield f"{name} is of the namespace {labels.get('namespace')}"


@cache
def exported_series() -> Mapping[str, frozenset[str]]:
    """Return the labels of every series that a process exports, by its name in Prometheus."""
    return {
        series: frozenset(label.name for label in family.labels)
        for family in Metrics().families
        for series in family.series
    }


CHECKS = (scaled_objects,)
