"""The compose file: read strictly, and compared with the command line, the settings and the topic table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from sluicegate.errors import ConfigurationError
from sluicegate.settings import Settings, load_settings
from tests.deploy.checks_timing import RELAY_STOP_S, worker_stop_s
from tests.deploy.manifests import usage_error, variables_that_are_no_settings
from tests.deploy.rendering import ROOT
from tests.fixtures.kafka_jars import VERSION as KAFKA_VERSION

Compose = dict[str, Any]
Variables = dict[str, str]

_DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
_STREAMS = ("support-chat", "documents")


@cache
def _committed() -> Compose:
    found: Compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def compose() -> Compose:
    """The committed file, to be changed at will: a copy in which nothing is shared by YAML's anchors."""
    changeable: Compose = json.loads(json.dumps(_committed()))
    return changeable


def filled_in(text: str, given: Variables) -> str:
    """Put the caller's variables, or their defaults, where compose would."""
    return _DEFAULT.sub(lambda found: given.get(found[1]) or found[2], text)


def settings_of(service: Compose, given: Variables | None = None) -> Settings:
    """Load the settings as the service's process will."""
    environment = {key: filled_in(value, given or {}) for key, value in service["environment"].items()}
    return load_settings(None, environment)


def ours(compose: Compose) -> dict[str, Compose]:
    """The services that run our image."""
    return {name: one for name, one in compose["services"].items() if one["image"].startswith("sluicegate")}


def seconds(text: str) -> float:
    """Read a duration of compose."""
    return float(compose_spec.parse_duration(text))


# --- the checks -----------------------------------------------------------------------------------


def grammar(compose: Compose) -> Iterator[str]:
    """Every key and value is one that compose knows, and every name that is used is declared."""
    try:
        read = compose_spec.PyCompose.from_json(json.dumps(compose))
        read.validate_configs()
        read.validate_networks()
        read.validate_secrets()
        read.validate_volumes()
    except ValueError as exc:
        yield str(exc)


def hardening(compose: Compose) -> Iterator[str]:
    """No service may do more than it must, on this machine or on the network."""
    for name, service in compose["services"].items():
        wanted = {
            "has a writable root": service.get("read_only") is True,
            "keeps capabilities": service.get("cap_drop") == ["ALL"],
            "may gain privileges": service.get("security_opt") == ["no-new-privileges:true"],
            "is privileged": not service.get("privileged"),
            "may take all memory": "mem_limit" in service,
            "logs without an end": "max-size" in service.get("logging", {}).get("options", {}),
            "names no version": re.search(r":(?!latest$)[\w.-]+$", service["image"]) is not None,
            # The Kafka image has a user of its own.
            "runs as root": str(service.get("user", "0")).split(":")[0] != "0" or name == "kafka",
        }
        yield from (f"{name} {fault}" for fault, holds in wanted.items() if not holds)
        for port in service.get("ports", ()):
            if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
                yield f"{name} opens {port} to the network"


def starting(compose: Compose) -> Iterator[str]:
    """What is waited for can be waited for."""
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                yield f"{name} waits for {other}, which is not there"
            elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                yield f"{name} waits for the health of {other}, which has no check"
        if name != "topics" and "healthcheck" not in service:
            yield f"{name} has no healthcheck"
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith(".") and not (ROOT / source).exists():
                yield f"{name} mounts {source}, which is not there"
            elif not source.startswith(".") and source not in compose["volumes"]:
                yield f"{name} mounts the volume {source}, which is not declared"


def commands(compose: Compose) -> Iterator[str]:
    """Each of our services runs a command line that the real one takes, and every process is there."""
    services = ours(compose)
    for name, service in services.items():
        if fault := usage_error(tuple(service["command"])):
            yield f"{name}: {' '.join(service['command'])} is refused: {fault}"
    lines = [service["command"] for service in services.values()]
    for wanted in (["relay"], *(["worker", stream] for stream in _STREAMS)):
        if lines.count(wanted) != 1:
            yield f"`{' '.join(wanted)}` runs {lines.count(wanted)} times"
    if not {"--create", "--check"} <= set(services["topics"]["command"]):
        yield "topics must be made and checked"


def settings(compose: Compose) -> Iterator[str]:
    """Every variable is a setting, all processes have the same, and addresses are services of the file."""
    loaded = {}
    for name, service in ours(compose).items():
        if name == "provider":
            continue
        yield from (
            f"{name}: {variable} is no setting"
            for variable in variables_that_are_no_settings(list(service["environment"]))
        )
        try:
            loaded[name] = settings_of(service)
        except ConfigurationError as exc:
            yield f"{name}: {exc}"
    if len({repr(one) for one in loaded.values()}) > 1:
        yield "processes differ in their settings"
    for name, one in loaded.items():
        yield from (f"{name}: {fault}" for fault in _addresses(compose, one))
        if set(one.streams) != set(_STREAMS):
            yield f"{name}: the streams are {sorted(one.streams)}"
        if (one.http.host, one.http_port_from_environment) != ("0.0.0.0", True):
            yield f"{name}: health is not served where it is asked for"
        secret = compose["services"][name].get("secrets", [])
        if name != "topics" and one.providers["main"].api_key_file != Path("/run/secrets") / "".join(secret):
            yield f"{name}: api_key_file is not the secret"


def _addresses(compose: Compose, one: Settings) -> Iterator[str]:
    services = compose["services"]
    kafka = services["kafka"]["environment"]
    if f"INSIDE://{one.kafka.bootstrap_servers}" not in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","):
        yield f"Kafka does not advertise {one.kafka.bootstrap_servers}"
    if one.redis.url != "redis://redis:6379/0":
        yield "that is not the Redis of this file"
    options = dict(part.removeprefix("--").split("=") for part in services["provider"]["command"][1:])
    if one.providers["main"].base_url != f"http://provider:{options['port']}/v1":
        yield "that is not the simulator's address"
    limits = one.limits["main"]
    simulated = float(options["requests-per-minute"]), float(options["tokens-per-minute"])
    if (limits.requests_per_minute, limits.tokens_per_minute) != simulated:
        yield "the limits are not the simulator's"


def ports(compose: Compose) -> Iterator[str]:
    """What is asked, published or scraped is what is listened on, and no two publish one port."""
    services = compose["services"]
    published = [str(port).split(":")[1] for one in services.values() for port in one.get("ports", ())]
    if len(published) != len(set(published)):
        yield "two services publish one port"
    scrape = yaml.safe_load((ROOT / "deploy/observability/prometheus/prometheus.yml").read_text())
    ours_scraped = next(job for job in scrape["scrape_configs"] if job["job_name"] == "sluicegate")
    found = ours_scraped["dns_sd_configs"][0]
    if set(found["names"]) != {*_STREAMS, "relay"}:
        yield f"Prometheus scrapes {found['names']}"
    for name in found["names"]:
        service = services[name]
        port = settings_of(service).http.port
        if service["expose"] != [str(port)] or found["port"] != port:
            yield f"{name} listens on {port}, and another port is exposed or scraped"
        if f"http://127.0.0.1:{port}/readyz" not in service["healthcheck"]["test"][-1]:
            yield f"{name}: the healthcheck asks elsewhere"


def stopping(compose: Compose) -> Iterator[str]:
    """SIGKILL comes after the last step of a stop."""
    for name in (*_STREAMS, "relay"):
        service = compose["services"][name]
        needed_s = RELAY_STOP_S if name == "relay" else worker_stop_s(settings_of(service), name)
        if seconds(service["stop_grace_period"]) < needed_s:
            yield f"{name} may need {needed_s:g} s to stop"


def keeping(compose: Compose) -> Iterator[str]:
    """Redis forgets nothing, and what both keep is on a volume."""
    services = compose["services"]
    given = services["redis"]["command"]
    options = dict(zip(given[1::2], given[2::2], strict=True))
    if (options.get("--appendonly"), options.get("--maxmemory-policy")) != ("yes", "noeviction"):
        yield "Redis would forget"
    if services["redis"]["volumes"] != ["redis:/data"]:
        yield "Redis keeps its file in the container"
    kafka = services["kafka"]
    if kafka["volumes"] != [f"kafka:{kafka['environment']['KAFKA_LOG_DIRS']}"]:
        yield "Kafka keeps its records in the container"
    if kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] != "false":
        yield "a misspelt topic would be made"


CHECKS = (grammar, hardening, starting, commands, settings, ports, stopping, keeping)


def faults(compose: Compose) -> list[str]:
    """Return what is wrong, each as a sentence; a check that cannot read the file has found a fault, too."""
    found: list[str] = []
    for check in CHECKS:
        try:
            found += check(compose)
        except (ConfigurationError, LookupError, TypeError, ValueError) as exc:
            found.append(f"{check.__name__} cannot read this: {type(exc).__name__} {exc}")
    return found


# --- the tests ------------------------------------------------------------------------------------


def test_the_compose_file_holds_every_check(compose: Compose) -> None:
    """What cannot be started here is at least read, compared and computed."""
    assert faults(compose) == []


def test_two_variables_make_the_provider_a_real_one(compose: Compose) -> None:
    """Nothing in the file has to be edited to leave the simulator."""
    given = {"LLM_BASE_URL": "https://llm.example/v1", "LLM_API_KEY_FILE": "./key"}
    own = settings_of(compose["services"]["documents"], given)
    assert own.providers["main"].base_url == "https://llm.example/v1"
    assert filled_in(compose["secrets"]["llm-api-key"]["file"], given) == "./key"
    # Without them there is a key all the same: the worker does not start without a readable one.
    assert (ROOT / filled_in(compose["secrets"]["llm-api-key"]["file"], {})).read_text().strip()


def test_every_variable_of_the_caller_is_documented(compose: Compose) -> None:
    """An operator finds in one table what can be set from outside."""
    used = {name for name, _ in _DEFAULT.findall((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))}
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^\| `(LLM_\w+)` \|", page, re.MULTILINE))


def test_kafka_is_the_version_that_the_tests_run_on(compose: Compose) -> None:
    """What was measured and tested on one version is what is deployed, here and in Kubernetes."""
    image = f"apache/kafka:{KAFKA_VERSION}"
    assert compose["services"]["kafka"]["image"] == image
    assert f"image: {image}\n" in (ROOT / "k8s/overlays/dev/kafka.yaml").read_text(encoding="utf-8")
    redis = compose["services"]["redis"]["image"]
    assert f"image: {redis}\n" in (ROOT / "k8s/overlays/dev/redis.yaml").read_text(encoding="utf-8")


def test_grafana_finds_prometheus_and_the_folder_of_dashboards(compose: Compose) -> None:
    """What is provisioned points at what the compose file mounts and starts."""
    folder = ROOT / "deploy/observability/grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    boards = yaml.safe_load((folder / "dashboards/sluicegate.yml").read_text())["providers"][0]
    services = compose["services"]
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0].split(':')[-1]}"
    targets = {mount.split(":")[1] for mount in services["grafana"]["volumes"]}
    assert boards["options"]["path"] in targets
    assert {one for one in services if "profiles" in services[one]} == {"prometheus", "grafana"}


def _set(path: str, value: object) -> Callable[[Compose], None]:
    def change(compose: Compose) -> None:
        at: Any = compose["services"]
        *way, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        for part in way:
            at = at[part]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("relay/retsart", "always"), "retsart"),
        (_set("relay/depends_on", {"redis": {"condition": "service_well"}}), "service_well"),
        (_set("relay/secrets", ["key"]), "key"),
        (_set("redis/volumes", ["radis:/data"]), "radis, which is not declared"),
        (_set("grafana/read_only", False), "grafana has a writable root"),
        (_set("redis/cap_drop", []), "redis keeps capabilities"),
        (_set("relay/security_opt", []), "relay may gain privileges"),
        (_set("relay/user", "0:0"), "relay runs as root"),
        (_set("redis/image", "redis:latest"), "redis names no version"),
        (_set("redis/ports", ["6379:6379"]), "redis opens 6379:6379"),
        (_set("redis/ports", ["127.0.0.1:9092:6379"]), "one port"),
        (_set("relay/depends_on", {"radis": {"condition": "service_started"}}), "which is not there"),
        (lambda compose: compose["services"]["redis"].pop("healthcheck"), "has no check"),
        (_set("prometheus/volumes", ["./deploy/prometheus:/etc/prometheus:ro"]), "which is not there"),
        (_set("documents/command", ["worker", "support-chat"]), "runs 0 times"),
        (_set("documents/command", ["worker", "--stream"]), "is refused"),
        (_set("provider/command", ["provider", "--rpm=6"]), "is refused"),
        (_set("relay/environment/SLUICEGATE_KAFKA__GROPU", "x"), "GROPU"),
        (_set("relay/environment/SLUICEGATE_GROUP", "x"), "is no setting"),
        (_set("relay/environment/SLUICEGATE_KAFKA__GROUP", "x"), "differ"),
        (_set("kafka/environment/KAFKA_ADVERTISED_LISTENERS", "INSIDE://kafka:9092"), "does not advertise"),
        (_set("provider/command/2", "--port=8090"), "simulator's address"),
        (_set("provider/command/3", "--requests-per-minute=60"), "the limits are not"),
        (_set("relay/environment/SLUICEGATE_HTTP__PORT", "9000"), "relay listens on 9000"),
        (_set("relay/healthcheck/test", ["CMD", "true"]), "asks elsewhere"),
        (_set("documents/stop_grace_period", "30s"), "may need"),
        (_set("redis/command/6", "allkeys-lru"), "Redis would forget"),
        (_set("kafka/environment/KAFKA_LOG_DIRS", "/tmp"), "in the container"),
        (_set("kafka/environment/KAFKA_AUTO_CREATE_TOPICS_ENABLE", "true"), "would be made"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(
    compose: Compose, change: Callable[[Compose], None], said: str
) -> None:
    """A check that finds nothing in a wrong file would be no check."""
    change(compose)
    found = faults(compose)
    assert [fault for fault in found if said in fault], found
