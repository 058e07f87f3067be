"""What checks ask of rendered objects: pods, labels, and the settings that a pod's process would load."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sluicegate.cli.main import build_app
from sluicegate.settings import Settings, load_settings
from tests.deploy.rendering import Object

WORKLOADS = ("Deployment", "StatefulSet", "Job")
# What a person makes beside the manifests, because it holds a credential.
OUTSIDE_SECRETS = {
    "sluicegate-provider": {"api-key"},
    "sluicegate-redis": {"url"},
    "sluicegate-kafka-ca": {"ca.crt"},
    **{f"sluicegate-{role}": {"password"} for role in ("worker", "relay", "topics")},
}
# What such a secret holds; any value of the right kind will do.
_SECRET_VALUES = {"url": "redis://user:secret@redis.redis.svc:6379/0"}


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    """Return the objects of these kinds."""
    return [thing for thing in objects if thing["kind"] in kinds]


def title(thing: Object) -> str:
    """Name an object as people do: `Deployment/relay`."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


def named(objects: Sequence[Object], kind: str, name: str) -> Object | None:
    """Return the object of that kind and name."""
    return next((thing for thing in of_kind(objects, kind) if thing["metadata"]["name"] == name), None)


def pod_spec(workload: Object) -> dict[str, Any]:
    """Return the pod of a workload."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def container(workload: Object) -> dict[str, Any]:
    """Return the one container that our pods have."""
    (only,) = pod_spec(workload)["containers"]
    found: dict[str, Any] = only
    return found


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes an object with these labels; an empty one takes all."""
    equal: Mapping[str, str] = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in equal.items()):
        return False
    for rule in selector.get("matchExpressions") or ():
        assert rule["operator"] == "In", "the checks know no other operator; teach them"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def runs_sluicegate(workload: Object) -> bool:
    """Whether its container is our image: an overlay's registry ends with the name."""
    image = str(container(workload)["image"])
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0] == "sluicegate"


def command(workload: Object) -> str:
    """Return the sluicegate command that a workload runs."""
    return str(container(workload)["args"][0])


def processes(objects: Sequence[Object]) -> list[Object]:
    """Return the workloads that run for long: workers and relay."""
    ours = [thing for thing in of_kind(objects, *WORKLOADS) if runs_sluicegate(thing)]
    return [thing for thing in ours if command(thing) in {"worker", "relay"}]


def workers(objects: Sequence[Object]) -> dict[str, Object]:
    """Return the workers' workloads by the stream they serve."""
    return {container(thing)["args"][1]: thing for thing in processes(objects) if command(thing) == "worker"}


def with_settings(objects: Sequence[Object]) -> list[Object]:
    """Return the workloads whose process reads the settings."""
    ours = [thing for thing in of_kind(objects, *WORKLOADS) if runs_sluicegate(thing)]
    return [thing for thing in ours if command(thing) != "provider"]


def environment(workload: Object, *, with_secrets: bool = False) -> dict[str, str]:
    """Return a container's variables; what Kubernetes fills in stands as an example.

    A secret that need not be there is not, so that what the file says counts, unless `with_secrets`.
    """
    found = {}
    for variable in container(workload).get("env", ()):
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            if with_secrets or not source["secretKeyRef"].get("optional"):
                found[variable["name"]] = _SECRET_VALUES[source["secretKeyRef"]["key"]]
        elif "fieldRef" in source:
            found[variable["name"]] = f"{workload['metadata']['name']}-0"
        else:
            found[variable["name"]] = variable["value"]
    return found


def settings_of(objects: Sequence[Object], workload: Object, *, with_secrets: bool = False) -> Settings:
    """Load the settings as the process will, from its mounted file and its variables."""
    variables = environment(workload, with_secrets=with_secrets)
    path = Path(variables["SLUICEGATE_CONFIG"])
    for mount in container(workload)["volumeMounts"]:
        if Path(mount["mountPath"]) == path.parent:
            volume = next(entry for entry in pod_spec(workload)["volumes"] if entry["name"] == mount["name"])
            config = named(objects, "ConfigMap", volume["configMap"]["name"])
            assert config is not None, f"{title(workload)} mounts a ConfigMap that is not there"
            return _loaded(config["data"][path.name], tuple(sorted(variables.items())))
    raise AssertionError(f"{title(workload)}: nothing is mounted where SLUICEGATE_CONFIG points")


@cache
def _loaded(text: str, variables: tuple[tuple[str, str], ...]) -> Settings:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return load_settings(Path(file.name), dict(variables))


@cache
def usage_error(arguments: tuple[str, ...]) -> str | None:
    """Return what the real command line says against the arguments; None when it would run."""
    try:
        build_app().parse_args(list(arguments), print_error=False, exit_on_error=False)
    except Exception as exc:  # noqa: BLE001 - whatever the parser raises, the command would not run
        return f"{type(exc).__name__}: {exc}"
    return None


def variables_that_are_no_settings(names: Iterator[str] | Sequence[str]) -> list[str]:
    """Return the SLUICEGATE_ variables that would be ignored without a word."""
    return [
        name
        for name in names
        if name.startswith("SLUICEGATE_") and "__" not in name and name != "SLUICEGATE_CONFIG"
    ]
