"""Mistakes that somebody will make one day, each with words of the sentence that must come of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.deploy.manifests import container, pod_spec
from tests.deploy.rendering import Object

Change = Callable[[list[Object]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake: how it is made, and what a check says against it."""

    name: str
    change: Change
    said: str

    def of(self, objects: Sequence[Object]) -> list[Object]:
        """Return changed copies of the objects."""
        copies = copy.deepcopy(list(objects))
        self.change(copies)
        return copies


def _find(objects: Sequence[Object], kind: str, name: str) -> Object:
    return next(
        thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"].startswith(name)
    )


def _set(kind: str, name: str, path: str, value: Any) -> Change:
    """Set one field; `path` is dotted, numbers are places in lists."""

    def change(objects: list[Object]) -> None:
        at: Any = _find(objects, kind, name)
        *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        for part in way:
            at = at[part]
        at[last] = value

    return change


def _drop(kind: str, name: str, path: str) -> Change:
    def change(objects: list[Object]) -> None:
        at: Any = _find(objects, kind, name)
        *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        for part in way:
            at = at[part]
        del at[last]

    return change


def _remove(kind: str, name: str) -> Change:
    return lambda objects: objects.remove(_find(objects, kind, name))


def _toml(old: str, new: str) -> Change:
    def change(objects: list[Object]) -> None:
        data = _find(objects, "ConfigMap", "sluicegate")["data"]
        assert old in data["sluicegate.toml"]
        data["sluicegate.toml"] = data["sluicegate.toml"].replace(old, new)

    return change


def _variable(name: str, value: str) -> Change:
    def change(objects: list[Object]) -> None:
        container(_find(objects, "Deployment", "relay"))["env"].append({"name": name, "value": value})

    return change


def _query(old: str, new: str) -> Change:
    def change(objects: list[Object]) -> None:
        metadata = _find(objects, "ScaledObject", "support-chat")["spec"]["triggers"][2]["metadata"]
        assert old in metadata["query"]
        metadata["query"] = metadata["query"].replace(old, new)

    return change


def _volume(objects: list[Object]) -> None:
    pod = pod_spec(_find(objects, "Deployment", "documents"))
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "tmp"]


_WORKER, _POD = "support-chat-worker", "spec.template.spec"
_relay = partial(_set, "Deployment", "relay")
_relay_without = partial(_drop, "Deployment", "relay")
_worker = partial(_set, "Deployment", _WORKER)
_worker_without = partial(_drop, "Deployment", _WORKER)
_job = partial(_set, "Job", "topics")
_job_without = partial(_drop, "Job", "topics")
_budget = partial(_set, "PodDisruptionBudget", _WORKER)
_monitor = partial(_set, "PodMonitor", "sluicegate")
_scaled = partial(_set, "ScaledObject", _WORKER)
_scaled_without = partial(_drop, "ScaledObject", _WORKER)
_FIRST, _SECOND, _THIRD = (f"spec.triggers.{number}.metadata" for number in range(3))
_OWN = f"{_POD}.containers.0"
_FORMULA = "spec.advanced.scalingModifiers.formula"
_LABELS = "spec.template.metadata.labels"

# Of prod with keda, monitoring and network-policy.
OF_DEPLOYMENTS = tuple(
    Mutant(name=name, change=change, said=said)
    for name, change, said in (
        ("a misspelt field", _relay("spec.replicaz", 2), "replicaz"),
        ("text for a number", _relay("spec.replicas", "2"), "replicas"),
        ("an unknown kind", _relay("kind", "Deploymint"), "no schema knows"),
        (
            "a field of another version",
            _set("PodDisruptionBudget", "relay", "apiVersion", "policy/v2"),
            "no schema",
        ),
        ("an unknown field of KEDA", _scaled("spec.minReplicas", 2), "minReplicas"),
        ("a wrong interval", _monitor("spec.podMetricsEndpoints.0.interval", "15"), "interval"),
        ("twice the same", lambda o: o.append(_find(o, "Deployment", "relay")), "is there 2 times"),
        ("another namespace", _relay("metadata.namespace", "default"), "no namespace of ours"),
        ("a label of the pods changed", _relay(_LABELS, {"app": "relay"}), "pods of []"),
        (
            "a selector that takes other pods",
            _relay("spec.selector", {"matchLabels": {"app.kubernetes.io/name": "sluicegate"}}),
            "selects the pods of",
        ),
        (
            "a budget for all",
            _set(
                "PodDisruptionBudget",
                "relay",
                "spec.selector.matchLabels",
                {"app.kubernetes.io/name": "sluicegate"},
            ),
            "is for the pods of",
        ),
        ("no budget", _remove("PodDisruptionBudget", _WORKER), "needs one budget"),
        ("a strict budget", _budget("spec.maxUnavailable", 0), "needs one budget"),
        ("no spread", _worker_without(f"{_POD}.topologySpreadConstraints"), "spread over zones"),
        ("a surge", _worker("spec.strategy.rollingUpdate.maxSurge", 1), "one by one"),
        ("more relays than partitions", _relay("spec.replicas", 13), "more replicas than"),
        ("root", _relay_without(f"{_POD}.securityContext.runAsNonRoot"), "runs as root"),
        ("no seccomp", _relay_without(f"{_POD}.securityContext.seccompProfile"), "seccomp"),
        ("capabilities", _job(f"{_OWN}.securityContext.capabilities.drop", []), "capabilities"),
        ("a writable root", _job(f"{_OWN}.securityContext.readOnlyRootFilesystem", False), "writable"),
        ("privileges", _job_without(f"{_OWN}.securityContext.allowPrivilegeEscalation"), "privileges"),
        ("a token", _relay(f"{_POD}.automountServiceAccountToken", True), "gets a token"),
        ("service links", _relay_without(f"{_POD}.enableServiceLinks"), "variables of services"),
        (
            "an open namespace",
            _set("Namespace", "sluicegate", "metadata.labels", {}),
            "does not enforce restricted",
        ),
        ("no account", _remove("ServiceAccount", "sluicegate"), "there is no ServiceAccount"),
        ("no memory limit", _relay_without(f"{_OWN}.resources.limits.memory"), "memory's request"),
        ("more memory than asked", _relay(f"{_OWN}.resources.limits.memory", "1Gi"), "memory's"),
        ("a CPU limit", _relay(f"{_OWN}.resources.limits.cpu", "1"), "do not limit it"),
        ("the latest image", _relay(f"{_OWN}.image", "sluicegate:latest"), "names no version"),
        ("an image without a tag", _relay(f"{_OWN}.image", "r:5000/sluicegate"), "no version"),
        ("an option that is none", _job(f"{_OWN}.args", ["topics", "--creat"]), "is refused"),
        ("a command that is none", _relay(f"{_OWN}.args", ["relais"]), "is refused"),
        ("no topics", _job(f"{_OWN}.args", ["topics", "--check"]), "must make topics"),
        ("a stream that is none", _worker(f"{_OWN}.args", ["worker", "chat"]), "no stream chat"),
        ("a stream that nobody serves", _remove("Deployment", "documents-worker"), "nobody serves"),
        ("a shell around it", _relay(f"{_OWN}.command", ["sh"]), "entrypoint"),
        ("a misspelt variable", _variable("SLUICEGATE_KAFKA__GROPU", "x"), "GROPU"),
        ("a variable that is ignored", _variable("SLUICEGATE_GROUP", "x"), "is no setting"),
        ("a number out of bounds", _variable("SLUICEGATE_WORKER__DRAIN_S", "900"), "drain_s"),
        ("processes that differ", _variable("SLUICEGATE_KAFKA__GROUP", "other"), "processes differ"),
        ("a misspelt key", _toml("bootstrap_servers", "bootstrap_server"), "bootstrap_server"),
        ("a broken file", _toml("[kafka]", "[kafka"), "not valid TOML"),
        ("the key elsewhere", _toml("/run/secrets/sluicegate/api-key", "/etc/key"), "no secret is mounted"),
        ("another name of the file", _relay(f"{_OWN}.env.0.value", "/etc/s.toml"), "nothing is"),
        ("no ConfigMap", _remove("ConfigMap", "sluicegate"), "there is no ConfigMap"),
        (
            "a secret that nobody makes",
            _worker(f"{_POD}.volumes.1.secret.secretName", "provider"),
            "nobody makes the secret",
        ),
        ("a key that the secret lacks", _relay(f"{_OWN}.env.3.valueFrom.secretKeyRef.key", "uri"), "uri"),
        ("no /tmp", _volume, "not both declared and mounted"),
        ("a probe of another port", _relay(f"{_OWN}.livenessProbe.httpGet.port", 9465), "asks port"),
        ("readiness as life", _relay(f"{_OWN}.livenessProbe.httpGet.path", "/readyz"), "must ask"),
        ("loopback only", _relay(f"{_OWN}.env.1.value", "127.0.0.1"), "listens on"),
        ("another port served", _relay(f"{_OWN}.env.2.value", "9000"), "asks port"),
        ("the port left to the file", _relay_without(f"{_OWN}.env.2"), "set the port by variable"),
        ("no readiness", _relay_without(f"{_OWN}.readinessProbe"), "readinessProbe must ask"),
        ("a short grace", _worker(f"{_POD}.terminationGracePeriodSeconds", 60), "to stop"),
        ("a long drain", _toml("drain_s = 20", "drain_s = 120"), "to stop"),
        ("long calls", _toml("timeout_s = 60", "timeout_s = 600"), "to stop"),
        ("a quick kill", _worker(f"{_OWN}.livenessProbe.failureThreshold", 1), "is killed after"),
        ("a late kill", _worker(f"{_OWN}.livenessProbe.periodSeconds", 90), "is killed after"),
        ("a hasty start", _worker(f"{_OWN}.startupProbe.failureThreshold", 3), "slow start"),
        ("probes that overlap", _worker(f"{_OWN}.readinessProbe.timeoutSeconds", 9), "asks again"),
        ("a hasty update", _worker("spec.minReadySeconds", 0), "the next pod goes"),
        ("an update given up soon", _worker("spec.progressDeadlineSeconds", 120), "called failed"),
        ("a lasting name in a Deployment", _variable("SLUICEGATE_KAFKA__INSTANCE_ID", "x"), "lasting name"),
        # --- scaling
        ("replicas beside KEDA", _worker("spec.replicas", 3), "remove replicas"),
        ("scaling nobody", _scaled("spec.scaleTargetRef.name", "worker"), "there is no"),
        ("scaling past the partitions", _scaled("spec.maxReplicaCount", 50), "more workers"),
        ("no scaling of a stream", _remove("ScaledObject", "documents"), "some workers scale"),
        ("down without figures", _scaled_without("spec.fallback"), "must stay"),
        ("a formula without the quota", _scaled(_FORMULA, "ceil(lag_input / 200)"), "about"),
        (
            "the larger one of the two",
            _scaled(_FORMULA, "max(ceil((lag_input + lag_due) / 200), ceil(calls / 200))"),
            "ask for",
        ),
        (
            "other slots",
            _toml("[worker]", "[streams.support-chat]\nmax_running = 100\n[worker]"),
            "lagThreshold",
        ),
        ("a number in metadata", _scaled(f"{_FIRST}.lagThreshold", 200), "200"),
        ("a key that KEDA ignores", _scaled(f"{_FIRST}.lagTreshold", "200"), "KEDA knows no lagTreshold"),
        (
            "throttled workers taken for stuck ones",
            _scaled(f"{_FIRST}.excludePersistentLag", "true"),
            "excludePersistentLag",
        ),
        ("scaling by a tier", _scaled(f"{_SECOND}.topic", "sluicegate.support-chat.retry.1"), "topic is"),
        (
            "another group's lag",
            _scaled(f"{_FIRST}.consumerGroup", "sluicegate.documents"),
            "consumerGroup is",
        ),
        ("other brokers", _scaled(f"{_FIRST}.bootstrapServers", "kafka:9092"), "bootstrapServers is"),
        ("a name with a dash", _scaled("spec.triggers.0.name", "lag-input"), ""),
        ("a lost Prometheus as nought", _scaled(f"{_THIRD}.ignoreNullValues", "true"), "scales down"),
        (
            "a metric that is none",
            _query("sluicegate_llm_calls_total", "sluicegate_calls_total"),
            "nothing exports",
        ),
        (
            "a counter without its ending",
            _query("sluicegate_llm_calls_total", "sluicegate_llm_calls"),
            "nothing exp",
        ),
        ("a label that is none", _query("outcome=", "result="), "has no label result"),
        ("another scope", _query('scope="main"', 'scope="backup"'), "of the scope"),
        (
            "another namespace's figures",
            _query('namespace="sluicegate"', 'namespace="prod"'),
            "of the namespace",
        ),
        # --- monitoring and network
        ("a monitor of nothing", _monitor("spec.selector.matchLabels", {"app": "sluicegate"}), "scrapes []"),
        ("a port that is none", _monitor("spec.podMetricsEndpoints.0.port", "web"), "no port web"),
        ("nothing closed", _remove("NetworkPolicy", "sluicegate-deny-all"), "what is not listed is open"),
        ("no names", _remove("NetworkPolicy", "sluicegate-kafka-and-names"), "cannot look up names"),
        ("no Redis", _remove("NetworkPolicy", "sluicegate-redis"), "cannot reach redis"),
        ("no scraping", _remove("NetworkPolicy", "sluicegate-metrics"), "cannot be scraped"),
        ("Kafka on another port", _toml(":9092", ":9093"), "cannot reach kafka"),
        ("Redis elsewhere", _toml("redis.redis.svc", "redis.cache.svc"), "cannot reach redis"),
        ("a provider on another port", _toml("llm.example/v1", "llm.example:8443/v1"), "cannot reach llm"),
        (
            "credentials of the machine",
            _set("NetworkPolicy", "sluicegate-provider", "spec.egress.0.to.0.ipBlock.except", ["10.0.0.0/8"]),
            "credentials",
        ),
        ("every port", _drop("NetworkPolicy", "sluicegate-provider", "spec.egress.0.ports"), "every port"),
    )
)

# Of dev with static-membership and strimzi.
OF_THE_REST = tuple(
    Mutant(name=name, change=change, said=said)
    for name, change, said in (
        ("fewer partitions", _set("KafkaTopic", "documents", "spec.partitions", 3), "is not as its"),
        ("a topic less", _remove("KafkaTopic", "sluicegate.documents.due"), "is not as its"),
        ("no append time", _drop("KafkaTopic", "sluicegate.documents.due", "spec.config"), "is not as its"),
        ("a topic that is none", _set("KafkaTopic", "documents", "spec.topicName", "a b"), "topicName"),
        (
            "another API of Strimzi",
            _set("KafkaTopic", "documents", "apiVersion", "kafka.strimzi.io/v1beta2"),
            "no schema",
        ),
        (
            "other partitions in the settings",
            _toml("[redis]", "[topics]\npartitions = 6\n[redis]"),
            "is not as its",
        ),
        ("two that share a name", _drop("StatefulSet", _WORKER, f"{_OWN}.env.4"), "lasting name"),
        ("a place not kept", _drop("StatefulSet", _WORKER, f"{_OWN}.env.5"), "its place is kept for"),
        ("no service", _set("Service", "workers", "spec.selector", {"app": "x"}), "selects no pod"),
        ("a service's port", _set("Service", "kafka", "spec.ports.0.targetPort", "broker"), "has no port"),
        ("a service less", _remove("Service", "redis"), "nothing here is redis"),
        (
            "another port of a service",
            _set("Service", "provider", "spec.ports.0.port", 80),
            "nothing here is provider",
        ),
        (
            "a simulator's option",
            _set("Deployment", "provider", f"{_OWN}.args.3", "--requests=6"),
            "is refused",
        ),
        (
            "another key in the secret",
            _set("Secret", "sluicegate-provider", "data", {"key": "eA=="}),
            "no secret is",
        ),
    )
)

_SOURCE = f"{_POD}.volumes.3.projected.sources.0.secret"

# Of prod with kafka-scram.
OF_LOCKED_DOORS = tuple(
    Mutant(name=name, change=change, said=said)
    for name, change, said in (
        ("no user", _worker_without(f"{_OWN}.env.7"), "needs sasl_username"),
        ("a password's file elsewhere", _worker(f"{_OWN}.env.5.value", "/run/x"), "where /run/x is"),
        ("an account that nobody makes", _worker(f"{_SOURCE}.name", "me"), "nobody makes the secret me/pass"),
        (
            "a password under another name",
            _worker(f"{_SOURCE}.items.0.path", "pw"),
            "where /run/secrets/kafka",
        ),
        ("files that are not mounted", _worker(f"{_OWN}.volumeMounts.3.name", "tmp"), "volume kafka is not"),
    )
)
