"""Renders the manifests: every overlay with every choice of components, each once a process."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "prod")
# In the order in which they must be listed: what changes a thing comes after what adds it.
COMPONENTS = ("kafka-scram", "keda", "monitoring", "network-policy", "static-membership", "strimzi")

Object = dict[str, Any]

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One overlay with some of the components, instead of those that it lists itself."""

    overlay: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join((self.overlay, *self.components))


ALL = tuple(
    Combination(overlay=overlay, components=chosen)
    for overlay in OVERLAYS
    for count in range(len(COMPONENTS) + 1)
    for chosen in combinations(COMPONENTS, count)
)


@cache
def render(combination: Combination) -> tuple[Object, ...]:
    """Return the combination's objects; they are shared, so copy before changing one."""
    overlays = _tree() / "overlays"
    folder = overlays / f"rendered-{combination}"
    shutil.copytree(overlays / combination.overlay, folder)
    file = folder / "kustomization.yaml"
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    described["components"] = [f"../../components/{name}" for name in combination.components]
    file.write_text(yaml.safe_dump(described), encoding="utf-8")
    return build(folder)


def build(folder: Path) -> tuple[Object, ...]:
    """Return what kustomize makes of a folder. Skips without it, and fails in CI."""
    done = subprocess.run(
        [*_program(), str(folder)],
        # It lives for a moment: collecting garbage would take two fifths of its time.
        env={**os.environ, "GOGC": "off"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Warnings are for fields that will go, and for patches that hit nothing where they must.
    assert done.stderr == "", done.stderr
    return tuple(yaml.load_all(done.stdout, Loader=_LOADER))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _tree() -> Path:
    """Return a copy of k8s/ that may be written to, gone when the process ends."""
    scratch = Path(tempfile.mkdtemp(prefix="sluicegate-k8s-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return Path(shutil.copytree(ROOT / "k8s", scratch / "k8s"))


@cache
def _program() -> tuple[str, str]:
    if kubectl := shutil.which("kubectl"):
        return (kubectl, "kustomize")
    if kustomize := shutil.which("kustomize"):
        return (kustomize, "build")
    return _no_kustomize()


def _no_kustomize() -> NoReturn:
    message = "neither kubectl nor kustomize is installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
