"""The manifests as they are applied: every overlay with every choice of components holds every check."""

from __future__ import annotations

import re

import pytest

from sluicegate.cli.topics import as_strimzi
from sluicegate.settings import load_settings
from sluicegate.topics import topic_table
from tests.deploy.checks import faults
from tests.deploy.manifests import named
from tests.deploy.rendering import ALL, COMPONENTS, OVERLAYS, ROOT, Combination, build, render
from tests.deploy.schemas import NEWEST, OLDEST, schema_fault

K8S = ROOT / "k8s"

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def everything(overlay: str) -> Combination:
    """The overlay with all components."""
    return Combination(overlay=overlay, components=COMPONENTS)


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_a_combination_would_be_taken_and_would_run(combination: Combination) -> None:
    """Whatever components an operator chooses, schemas, references, settings and times hold."""
    assert faults(render(combination)) == []


@each_overlay
def test_the_newest_api_takes_the_manifests_too(overlay: str) -> None:
    """A field that was removed since the oldest version would fail an upgrade of the cluster."""
    found = {thing["kind"]: schema_fault(thing, NEWEST) for thing in render(everything(overlay))}
    assert set(found.values()) == {None}


@each_overlay
def test_an_overlay_as_it_stands_is_one_of_the_combinations(overlay: str) -> None:
    """What `kubectl apply -k` sends without any change is checked like the rest."""
    assert faults(build(K8S / "overlays" / overlay)) == []


def test_the_bases_settings_load_in_its_manifests() -> None:
    """Somebody's own overlay starts from the base, so it holds by itself but for the image's version."""
    assert [fault for fault in faults(build(K8S / "base")) if "names no version" not in fault] == []


def test_strimzis_topics_are_those_of_the_topic_table() -> None:
    """`sluicegate topics --format strimzi` made the committed file; run it again when this fails."""
    settings = load_settings(K8S / "base" / "sluicegate.toml", {})
    made = as_strimzi(topic_table(settings), "kafka")
    assert (K8S / "components" / "strimzi" / "topics.yaml").read_text(encoding="utf-8") == made


def test_every_component_and_overlay_is_tried() -> None:
    """A folder that the tests do not know of would never be checked."""
    assert {path.name for path in (K8S / "components").iterdir()} == set(COMPONENTS)
    assert {path.name for path in (K8S / "overlays").iterdir()} == set(OVERLAYS)


def test_changed_settings_are_a_rollout() -> None:
    """The settings' hash is in their name; else running pods would keep the old ones."""
    objects = render(everything("prod"))
    names = [thing["metadata"]["name"] for thing in objects if thing["kind"] == "ConfigMap"]
    assert [name for name in names if not re.fullmatch(r"sluicegate-[a-z0-9]{10}", name)] == []


def test_the_documentation_names_the_checked_versions() -> None:
    """An operator reads which clusters will do; the schemas were of the oldest one."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert f"Kubernetes {OLDEST} or newer" in page


def test_the_topics_job_is_gone_where_strimzi_makes_topics() -> None:
    """Two that make the same topics would quarrel about their settings."""
    objects = render(Combination(overlay="prod", components=("strimzi",)))
    assert named(objects, "Job", "topics") is None
