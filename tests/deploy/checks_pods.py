"""Checks of every pod: what it may, what it needs, and whether its process would start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sluicegate.errors import ConfigurationError
from tests.deploy.manifests import (
    OUTSIDE_SECRETS,
    WORKLOADS,
    command,
    container,
    environment,
    named,
    of_kind,
    pod_spec,
    processes,
    runs_sluicegate,
    settings_of,
    title,
    usage_error,
    variables_that_are_no_settings,
    with_settings,
)
from tests.deploy.rendering import Object

_HTTP_PATHS = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def restricted(objects: Sequence[Object]) -> Iterator[str]:
    """Pod Security `restricted`, and beyond it what no pod of ours needs."""
    for workload in of_kind(objects, *WORKLOADS):
        pod, own = pod_spec(workload), container(workload)
        of_pod, of_own = pod.get("securityContext", {}), own.get("securityContext", {})
        wanted = {
            "runs as root": of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser", 0) > 0,
            "has no seccomp profile": of_pod.get("seccompProfile") == {"type": "RuntimeDefault"},
            "may gain privileges": of_own.get("allowPrivilegeEscalation") is False,
            "keeps capabilities": of_own.get("capabilities") == {"drop": ["ALL"]},
            "has a writable root": of_own.get("readOnlyRootFilesystem") is True,
            "gets a token": pod.get("automountServiceAccountToken") is False,
            "gets variables of services": pod.get("enableServiceLinks") is False,
            "is initialised by a container unknown to the checks": "initContainers" not in pod,
        }
        yield from (f"{title(workload)} {fault}" for fault, holds in wanted.items() if not holds)
    for namespace in of_kind(objects, "Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{title(namespace)} does not enforce restricted pods"


def resources(objects: Sequence[Object]) -> Iterator[str]:
    """Memory is requested and limited alike; CPU is requested and not limited."""
    for workload in of_kind(objects, *WORKLOADS):
        asked = container(workload).get("resources", {})
        requests, limits = asked.get("requests", {}), asked.get("limits", {})
        if "cpu" not in requests or "cpu" in limits:
            yield f"{title(workload)}: request CPU, and do not limit it"
        if "memory" not in limits or requests.get("memory") != limits["memory"]:
            yield f"{title(workload)}: memory's request and limit must be one"


def images(objects: Sequence[Object]) -> Iterator[str]:
    """Every image says which version it is."""
    for workload in of_kind(objects, *WORKLOADS):
        image = container(workload)["image"]
        if not re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", image):
            yield f"{title(workload)}: {image} names no version"


def mounts(objects: Sequence[Object]) -> Iterator[str]:
    """What is mounted is there, and what the process writes or reads is mounted."""
    for workload in of_kind(objects, *WORKLOADS):
        own = container(workload)
        volumes = {volume["name"]: volume for volume in pod_spec(workload).get("volumes", ())}
        places = {mount["mountPath"]: mount["name"] for mount in own.get("volumeMounts", ())}
        for name in set(places.values()) ^ set(volumes):
            yield f"{title(workload)}: volume {name} is not both declared and mounted"
        for volume in volumes.values():
            yield from _missing_source(objects, workload, volume)
        if runs_sluicegate(workload) and "emptyDir" not in volumes.get(places.get("/tmp", ""), {}):
            yield f"{title(workload)} has no writable /tmp"
        for variable in own.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and reference["key"] not in OUTSIDE_SECRETS.get(reference["name"], ()):
                yield f"{title(workload)}: nobody makes the secret {reference['name']}/{reference['key']}"


def _missing_source(objects: Sequence[Object], workload: Object, volume: dict[str, object]) -> Iterator[str]:
    match volume:
        case {"configMap": {"name": str(name)}} if named(objects, "ConfigMap", name) is None:
            yield f"{title(workload)}: there is no ConfigMap {name}"
        case {"secret": {"secretName": str(name)}} if (
            name not in OUTSIDE_SECRETS and named(objects, "Secret", name) is None
        ):
            yield f"{title(workload)}: nobody makes the secret {name}"
        case {"projected": {"sources": list(sources)}}:
            for source in sources:
                secret = source["secret"]
                held = OUTSIDE_SECRETS.get(secret["name"], ())
                yield from (
                    f"{title(workload)}: nobody makes the secret {secret['name']}/{item['key']}"
                    for item in secret["items"]
                    if item["key"] not in held
                )


def accounts(objects: Sequence[Object]) -> Iterator[str]:
    """Our pods run under an account that is there and has no token."""
    for workload in of_kind(objects, *WORKLOADS):
        name = pod_spec(workload).get("serviceAccountName")
        if runs_sluicegate(workload) and command(workload) != "provider" and name is None:
            yield f"{title(workload)} runs under the namespace's default account"
        if name is not None and named(objects, "ServiceAccount", name) is None:
            yield f"{title(workload)}: there is no ServiceAccount {name}"
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{title(account)} hands out tokens"


def commands(objects: Sequence[Object]) -> Iterator[str]:
    """Every command line is one that the real command takes."""
    for workload in of_kind(objects, *WORKLOADS):
        if not runs_sluicegate(workload):
            continue
        own = container(workload)
        if "command" in own:
            yield f"{title(workload)} goes round the image's entrypoint"
        if fault := usage_error(tuple(own.get("args", ()))):
            yield f"{title(workload)}: sluicegate {' '.join(own.get('args', ()))} is refused: {fault}"


def configuration(objects: Sequence[Object]) -> Iterator[str]:
    """File and variables load, name what is there, and the worker's stream is one of theirs."""
    for workload in with_settings(objects):
        yield from (
            f"{title(workload)}: {name} is no setting"
            for name in variables_that_are_no_settings(list(environment(workload)))
        )
        try:
            settings_of(objects, workload, with_secrets=True)
            settings = settings_of(objects, workload)
        except ConfigurationError as exc:
            yield f"{title(workload)}: {exc}"
            continue
        yield from (
            f"{title(workload)}: no secret is mounted where {file} is"
            for file in (settings.kafka.sasl_password_file, settings.kafka.ca_file)
            if file is not None and not _is_secret(objects, workload, file)
        )
        if command(workload) != "worker":
            continue
        stream = container(workload)["args"][1]
        if stream not in settings.streams:
            yield f"{title(workload)}: there is no stream {stream}"
            continue
        for way in settings.routes(stream):
            key_file = settings.providers[way.provider].api_key_file
            if key_file is not None and not _is_secret(objects, workload, key_file):
                yield f"{title(workload)}: no secret is mounted where api_key_file {key_file} is"
    served = {container(thing)["args"][1] for thing in processes(objects) if command(thing) == "worker"}
    for workload in processes(objects):
        for stream in set(settings_of(objects, workload).streams) - served:
            yield f"{title(workload)}: nobody serves the stream {stream}"


def _is_secret(objects: Sequence[Object], workload: Object, file: Path) -> bool:
    volumes = {volume["name"]: volume for volume in pod_spec(workload)["volumes"]}
    for mount in container(workload)["volumeMounts"]:
        volume = volumes.get(mount["name"], {})
        secret = volume.get("secret")
        if "projected" in volume and Path(mount["mountPath"]) == file.parent and "subPath" not in mount:
            items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
            return file.name in {item["path"] for item in items}
        if secret and Path(mount["mountPath"]) == file.parent and "subPath" not in mount:
            made = named(objects, "Secret", secret["secretName"])
            return file.name in (made["data"] if made else OUTSIDE_SECRETS.get(secret["secretName"], ()))
    return False


def probes(objects: Sequence[Object]) -> Iterator[str]:
    """The kubelet asks the port that the process listens on, on an address that the kubelet reaches."""
    for workload in processes(objects):
        own = container(workload)
        http = settings_of(objects, workload).http
        ports = {port["name"]: port["containerPort"] for port in own.get("ports", ())}
        if http.host != "0.0.0.0":
            yield f"{title(workload)} listens on {http.host} only"
        if not settings_of(objects, workload).http_port_from_environment:
            yield f"{title(workload)}: set the port by variable, or a taken one is only a warning"
        for name, path in _HTTP_PATHS.items():
            asked = own.get(name, {}).get("httpGet", {})
            if asked.get("path") != path:
                yield f"{title(workload)}: {name} must ask {path}"
            elif ports.get(asked["port"], asked["port"]) != http.port:
                yield f"{title(workload)}: {name} asks port {asked['port']}, the process serves {http.port}"
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        if "readinessProbe" not in container(workload):
            yield f"{title(workload)} is never known to be ready"


CHECKS = (restricted, resources, images, mounts, accounts, commands, configuration, probes)
