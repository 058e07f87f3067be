"""Checks of what points at what: selectors, namespaces, topics, budgets, replicas, policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sluicegate.settings import Settings
from sluicegate.topics import topic_table
from tests.deploy.manifests import (
    WORKLOADS,
    command,
    container,
    matches,
    named,
    of_kind,
    pod_labels,
    pod_spec,
    processes,
    runs_sluicegate,
    settings_of,
    title,
    with_settings,
)
from tests.deploy.rendering import Object

_CLUSTER_WIDE = ("Namespace",)


def names(objects: Sequence[Object]) -> Iterator[str]:
    """Nothing is there twice, and everything is in the one namespace that the manifests make."""
    for what, count in Counter(map(title, objects)).items():
        if count > 1:
            yield f"{what} is there {count} times"
    spaces = [thing["metadata"]["name"] for thing in of_kind(objects, "Namespace")]
    for thing in objects:
        if thing["kind"] not in _CLUSTER_WIDE and [thing["metadata"].get("namespace")] != spaces:
            yield f"{title(thing)} is in no namespace of ours"


def selectors(objects: Sequence[Object]) -> Iterator[str]:
    """A workload selects its own pods and no other's; so do its spread and its budget; services hit a pod."""
    workloads = of_kind(objects, *WORKLOADS)
    lasting = of_kind(objects, "Deployment", "StatefulSet")
    for workload in lasting:
        hit = [other for other in workloads if matches(workload["spec"]["selector"], pod_labels(other))]
        if hit != [workload]:
            yield f"{title(workload)} selects the pods of {[title(other) for other in hit]}"
        for spread in pod_spec(workload).get("topologySpreadConstraints", ()):
            chosen = [other for other in workloads if matches(spread["labelSelector"], pod_labels(other))]
            if chosen != [workload]:
                yield f"{title(workload)} spreads over the pods of {[title(other) for other in chosen]}"
    for budget in of_kind(objects, "PodDisruptionBudget"):
        hit = [other for other in workloads if matches(budget["spec"]["selector"], pod_labels(other))]
        if len(hit) != 1:
            yield f"{title(budget)} is for the pods of {[title(other) for other in hit]}"
    for service in of_kind(objects, "Service"):
        wanted = {"matchLabels": service["spec"]["selector"]}
        hit = [other for other in lasting if matches(wanted, pod_labels(other))]
        if not hit:
            yield f"{title(service)} selects no pod"
        for port in service["spec"]["ports"]:
            if any(not _has_port(other, port["targetPort"]) for other in hit):
                yield f"{title(service)}: a pod has no port {port['targetPort']}"
    for policy in of_kind(objects, "NetworkPolicy"):
        if not any(matches(policy["spec"]["podSelector"], pod_labels(other)) for other in workloads):
            yield f"{title(policy)} is for no pod"


def _has_port(workload: Object, port: str | int) -> bool:
    ports = container(workload).get("ports", ())
    return any(port in (entry.get("name"), entry["containerPort"]) for entry in ports)


def availability(objects: Sequence[Object]) -> Iterator[str]:
    """Each process has a budget, spreads, is exchanged one by one, and no worker is without partitions."""
    for workload in processes(objects):
        spec = workload["spec"]
        budgets = [
            budget["spec"]
            for budget in of_kind(objects, "PodDisruptionBudget")
            if matches(budget["spec"]["selector"], pod_labels(workload))
        ]
        if [budget.get("maxUnavailable") for budget in budgets] != [1]:
            yield f"{title(workload)} needs one budget, of maxUnavailable 1"
        spread = {rule["topologyKey"] for rule in pod_spec(workload).get("topologySpreadConstraints", ())}
        if "topology.kubernetes.io/zone" not in spread:
            yield f"{title(workload)} does not spread over zones"
        if workload["kind"] == "Deployment" and spec["strategy"].get("rollingUpdate") != {
            "maxSurge": 0,
            "maxUnavailable": 1,
        }:
            yield f"{title(workload)}: an update must take its pods one by one, without an extra one"
        if spec.get("replicas", 1) > settings_of(objects, workload).topics.partitions:
            yield f"{title(workload)}: more replicas than partitions"
    ids = [
        title(workload)
        for workload in processes(objects)
        if (settings_of(objects, workload).kafka.instance_id is not None)
        != (workload["kind"] == "StatefulSet")
    ]
    yield from (f"{name}: a lasting name in the group needs a StatefulSet, and has one" for name in ids)


def topics(objects: Sequence[Object]) -> Iterator[str]:
    """Either the job makes the topics or Strimzi does; Strimzi's are those of the topic table."""
    declared = of_kind(objects, "KafkaTopic")
    jobs = [thing for thing in of_kind(objects, "Job") if command(thing) == "topics"]
    if bool(declared) == bool(jobs):
        yield f"topics are made by {len(jobs)} jobs and {len(declared)} resources: one or the other"
    for job in jobs:
        if not {"--create", "--check"} <= set(container(job)["args"]):
            yield f"{title(job)} must make topics and check them"
    if not declared:
        return
    found = {
        thing["spec"]["topicName"]: (thing["spec"]["partitions"], thing["spec"].get("config"))
        for thing in declared
    }
    for workload in with_settings(objects):
        wanted = {
            spec.name: (spec.partitions, dict(spec.config))
            for spec in topic_table(settings_of(objects, workload))
        }
        for name in sorted(set(wanted) | set(found)):
            if wanted.get(name) != found.get(name):
                yield f"{title(workload)}: the topic {name} is not as its settings want it"


def agreement(objects: Sequence[Object]) -> Iterator[str]:
    """All processes of a deployment read the same topics, limits and Redis."""
    settings = [settings_of(objects, workload) for workload in with_settings(objects)]
    for key in ("topics", "providers", "limits", "streams", "retry", "worker"):
        if len({repr(getattr(one, key)) for one in settings}) > 1:
            yield f"processes differ in [{key}]"
    if len({(one.kafka.bootstrap_servers, one.kafka.group) for one in settings}) > 1:
        yield "processes differ in Kafka's address or the group"


def monitoring(objects: Sequence[Object]) -> Iterator[str]:
    """A PodMonitor scrapes every process and nothing else, on a port that it has."""
    for monitor in of_kind(objects, "PodMonitor"):
        spec = monitor["spec"]
        hit = [
            title(other)
            for other in of_kind(objects, *WORKLOADS)
            if matches(spec["selector"], pod_labels(other))
        ]
        if hit != [title(other) for other in processes(objects)]:
            yield f"{title(monitor)} scrapes {hit}"
        for endpoint in spec["podMetricsEndpoints"]:
            if endpoint.get("path") != "/metrics":
                yield f"{title(monitor)} scrapes {endpoint.get('path')}"
            for workload in processes(objects):
                if not _has_port(workload, endpoint["port"]):
                    yield f"{title(monitor)}: {title(workload)} has no port {endpoint['port']}"


def network(objects: Sequence[Object]) -> Iterator[str]:
    """Where policies close the pods, each process still reaches what its settings name, and no metadata."""
    if not any(
        thing["spec"] == {"podSelector": thing["spec"]["podSelector"], "policyTypes": ["Ingress", "Egress"]}
        for thing in of_kind(objects, "NetworkPolicy")
    ):
        if of_kind(objects, "NetworkPolicy"):
            yield "no policy closes both ways: what is not listed is open"
        return
    for workload in with_settings(objects):
        settings = settings_of(objects, workload)
        rules = _rules(objects, workload, "egress")
        if not any(_allows_port(rule, 53, "UDP") for rule in rules):
            yield f"{title(workload)} cannot look up names"
        for host, port in _addresses(workload, settings):
            if not any(_reaches(objects, rule, host, port) for rule in rules):
                yield f"{title(workload)} cannot reach {host}:{port}"
    for workload in processes(objects):
        if not any(_allows_port(rule, "http") for rule in _rules(objects, workload, "ingress")):
            yield f"{title(workload)} cannot be scraped"
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            if not rule.get("to") or not rule.get("ports"):
                yield f"{title(policy)} opens every address or every port"
            for block in (peer["ipBlock"] for peer in rule.get("to", ()) if "ipBlock" in peer):
                if "." in block["cidr"] and "169.254.0.0/16" not in block.get("except", ()):
                    yield f"{title(policy)} lets pods ask the machine for credentials"


def _addresses(workload: Object, settings: Settings) -> Iterator[tuple[str, int]]:
    for server in settings.kafka.bootstrap_servers.split(","):
        host, _, port = server.partition(":")
        yield host, int(port)
    if command(workload) in {"worker", "relay"}:
        redis = urlsplit(settings.redis.url)
        yield redis.hostname or "", redis.port or 6379
    if command(workload) == "worker":
        for way in settings.routes(container(workload)["args"][1]):
            url = urlsplit(settings.providers[way.provider].base_url)
            yield url.hostname or "", url.port or {"https": 443, "http": 80}[url.scheme]


def _rules(objects: Sequence[Object], workload: Object, way: str) -> list[Mapping[str, Any]]:
    return [
        rule
        for policy in of_kind(objects, "NetworkPolicy")
        if matches(policy["spec"]["podSelector"], pod_labels(workload))
        for rule in policy["spec"].get(way, ())
    ]


def _allows_port(rule: Mapping[str, Any], port: int | str, protocol: str = "TCP") -> bool:
    return any(
        entry["port"] == port and entry.get("protocol", "TCP") == protocol for entry in rule.get("ports", ())
    )


def _reaches(objects: Sequence[Object], rule: Mapping[str, Any], host: str, port: int) -> bool:
    """Whether a rule lets a connection out; names are read as the cluster's DNS would."""
    if not _allows_port(rule, port):
        return False
    own = next(thing["metadata"]["name"] for thing in of_kind(objects, "Namespace"))
    name, _, rest = host.partition(".")
    space = rest.removesuffix(".svc.cluster.local").removesuffix(".svc")
    is_inside = not rest or rest.endswith((".svc", ".svc.cluster.local"))
    service = named(objects, "Service", name) if is_inside and space in ("", own) else None
    for peer in rule.get("to", ()):
        if service is not None and "podSelector" in peer and "namespaceSelector" not in peer:
            wanted = {"matchLabels": service["spec"]["selector"]}
            served = [
                pod_labels(thing)
                for thing in of_kind(objects, *WORKLOADS)
                if matches(wanted, pod_labels(thing))
            ]
            if served and all(matches(peer["podSelector"], labels) for labels in served):
                return True
        elif service is None and is_inside and "namespaceSelector" in peer:
            if matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": space}):
                return True
        elif not is_inside and "ipBlock" in peer:
            return True
    return False


def references(objects: Sequence[Object]) -> Iterator[str]:
    """Names inside the namespace that the settings call are services that are there."""
    own = next((thing["metadata"]["name"] for thing in of_kind(objects, "Namespace")), "")
    for workload in with_settings(objects):
        if not runs_sluicegate(workload):
            continue
        for host, port in _addresses(workload, settings_of(objects, workload)):
            name, _, rest = host.partition(".")
            if rest not in ("", f"{own}.svc"):
                continue
            service = named(objects, "Service", name)
            if service is None or port not in [entry["port"] for entry in service["spec"]["ports"]]:
                yield f"{title(workload)}: nothing here is {host}:{port}"


CHECKS = (names, selectors, availability, topics, agreement, monitoring, network, references)
